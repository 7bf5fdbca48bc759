"""Reads rows of data: a local .jsonl, .json, .parquet, .csv or .txt file (.gz too), or a data set of the hub."""

import csv
import gzip
import io
import json
import os
import zlib
from pathlib import Path

from rlif.errors import DataError, first_line, why_unreadable
from rlif.files.jsonl import Row

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".txt")


def home(relative: str, hub: str) -> str:
    """Returns a task's default source: `$RLIF_DATA/relative` if that variable is set, else the hub."""
    folder = os.environ.get("RLIF_DATA")
    return str(Path(folder) / relative) if folder else hub


def read_rows(
    source: str,
    split: str,
    columns: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    *,
    present: tuple[str, ...] = (),
    lists: tuple[str, ...] = (),
) -> list[Row]:
    """Reads all rows of a source.

    Args:
        source: a file, a folder that holds `<split>.<suffix>`, or a hub name: `owner/name` or `owner/name:config`.
        split: which part of a folder or the hub; ignored for a file.
        columns: must hold text in every row, never empty.
        optional: columns that must hold text if a row has them.
        present: columns of any type that every row must have.
        lists: columns that must hold a list of text in every row.

    Raises:
        DataError: the source cannot be read or is empty, or a row lacks a column.
    """
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise DataError(f"no such data file: {source} ({first_line(error)}).") from error
    if path.is_dir():
        path = _split_file(path, split)
    if path.is_file():
        rows = _read_file(path)
    elif path.suffix in (*SUFFIXES, ".gz") or source.startswith((".", "/", "~")):
        raise DataError(f"no such data file: {source}.")
    else:
        rows = _read_hub(source, split)
    if not rows:
        raise DataError(f"{source} has no rows.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"row {number} of {source} has no columns: it is a {type(row).__name__}.")
        missing = [name for name in columns if row.get(name) in (None, "")]
        missing += [name for name in (*present, *lists) if name not in row]
        if missing:
            found = ", ".join(" ".join(str(name).split()) for name in row)
            raise DataError(f"row {number} of {source} has no {missing[0]!r}; it has {found}.")
        for name in (*columns, *optional):
            if not isinstance(row.get(name, ""), str | None):
                kind = type(row[name]).__name__
                raise DataError(f"{name!r} in row {number} of {source} is a {kind}; expected plain text.")
        for name in lists:
            if not isinstance(row[name], list) or not all(isinstance(each, str) for each in row[name]):
                raise DataError(f"{name!r} in row {number} of {source} is {row[name]!r:.40}; expected a list of text.")
    return rows


def _split_file(folder: Path, split: str) -> Path:
    for ending in (f"{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz")):
        if (folder / f"{split}{ending}").is_file():
            return folder / f"{split}{ending}"
    raise DataError(f"{folder} has no {split}.jsonl, .json, .parquet, .csv or .txt (or one of them with .gz).")


def _read_file(path: Path) -> list[Row]:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
        text = data.decode("utf-8-sig")
        if suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text)))
        if suffix == ".txt":
            return [{"prompt": line.strip()} for line in text.split("\n") if line.strip()]
        if suffix == ".json":
            rows = json.loads(text)
            return rows if isinstance(rows, list) else [rows]
        if suffix == ".jsonl":
            return [_parse(line, number) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, zlib.error) as error:
        raise DataError(f"cannot read {path}: {why_unreadable(error)}.") from error
    raise DataError(f"cannot read {path}: expected {', '.join(SUFFIXES)}, or one of them with .gz.")


def _parse(line: str, number: int) -> Row:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        error.lineno = number  # of the file
        raise


def _read_hub(source: str, split: str) -> list[Row]:
    import datasets

    name, _, config = source.partition(":")
    try:
        return [dict(row) for row in datasets.load_dataset(name, config or None, split=split)]
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise DataError(
            f"cannot load the split {split!r} of {source!r} from the hub ({first_line(error)});"
            " give a local file with source=PATH."
        ) from error
