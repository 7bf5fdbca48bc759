"""Reads rows of data: a local .jsonl, .json, .parquet, .csv, .tsv or .txt file, or a data set of the hub.

Files may be compressed and in any Unicode encoding, see `rlif.files.text`.
"""

import csv
import io
import json
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from rlif.errors import DataError, first_line, why_unreadable
from rlif.files.jsonl import Row, parse_json, read_lines
from rlif.files.text import PACKED, UNREADABLE, check_text, kind_of, open_bytes, open_utf8

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt")
MARKS = ",;\t"  # between the cells of a row


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
    """Reads all rows of a source and checks the columns that a task reads.

    A column may be capitalised otherwise, and a number stands for its text.

    Args:
        source: a file, a folder that holds `<split>.<suffix>`, or a hub name: `owner/name` or `owner/name:config`.
        split: which part of a folder or the hub; ignored for a file.
        columns: must hold text in every row, never empty.
        optional: columns that must hold text if a row has them.
        present: columns of any type that every row must have.
        lists: columns that must hold a list of text in every row.
    """
    found = []
    for number, row in enumerate(read_table(source, split), start=1):
        row, where = dict(row), f"in row {number} of {source}"
        for name in (*columns, *optional, *present, *lists):
            known = find_column(row, name)
            if known is not None:
                row[name] = row[known]
            elif name not in optional:
                raise DataError(f"row {number} of {source} has no {name!r}; it has {names_of(row)}.")
        for name in row.keys() & {*columns, *optional}:
            row[name] = as_text(row[name], name, where)
            if name in columns and not row[name]:
                raise DataError(f"{name!r} {where} is {'null' if row[name] is None else 'empty'}; expected text.")
        for name in lists:
            if not isinstance(row[name], list) or not all(isinstance(each, str) for each in row[name]):
                raise DataError(f"{name!r} {where} is {row[name]!r:.40}; expected a list of text.")
        found.append(row)
    return found


def read_table(source: str, split: str) -> list[Row]:
    """Reads all rows of a source as they are."""
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise DataError(f"no such data file: {source} ({first_line(error)}).") from error
    if path.is_dir():
        rows = [row for part in _split_files(path, split) for row in _read_file(part)]
    elif path.is_file():
        rows = _read_file(path)
    elif path.suffix.lower() in (*SUFFIXES, *PACKED) or source.startswith((".", "/", "~")):
        raise DataError(f"no such data file: {source}.")
    else:
        rows = _read_hub(source, split)
    if not rows:
        raise DataError(f"{source} has no rows.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"row {number} of {source} has no columns: it is a {type(row).__name__}.")
        check_text(row, f"row {number} of {source}")
    return rows


def find_column(row: Row, name: str) -> str | None:
    """Finds a column by its name, or by the only one that differs from it in capitals and space around it."""
    if name in row:
        return name
    alike = [key for key in row if isinstance(key, str) and key.strip().casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def names_of(row: Row) -> str:
    """Lists the columns of a row for a message."""
    return ", ".join(" ".join(str(name).split()) for name in row) or "nothing"


def as_text(value: Any, name: str, where: str) -> str | None:
    """Returns text, the text of a number, or None for null; refuses anything else."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        exact = Decimal(str(value))
        if exact.is_finite():
            whole = exact.to_integral_value()
            return format(whole if whole == exact else exact, "f")
    found = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
    raise DataError(f"{name!r} {where} is {found}; expected plain text.")


def _split_files(folder: Path, split: str) -> list[Path]:
    """Finds the file of a split, or all its parts, named as the hub names them: train-00000-of-00002.parquet."""
    named = re.compile(rf"{re.escape(split)}(-(\d+)-of-(\d+))?")
    try:
        known = [path for path in sorted(folder.iterdir()) if path.is_file() and kind_of(path) in SUFFIXES]
    except OSError as error:
        raise DataError(f"cannot read {folder}: {why_unreadable(error)}.") from error
    matches = [(path, match) for path in known if (match := named.fullmatch(path.name.partition(".")[0]))]
    found = sorted((int(match[2] or 0), int(match[3] or 1), path) for path, match in matches)
    paths = [path for *_, path in found]
    if not paths:
        raise DataError(f"{folder} has no {split}{', '.join(SUFFIXES)} (or one of them with {', '.join(PACKED)}).")
    if [(number, count) for number, count, _ in found] != [(number, len(found)) for number in range(len(found))]:
        raise DataError(
            f"{folder} holds for the split {split!r} {', '.join(path.name for path in paths)}; expected one file, or"
            " each part once; name one file as the source."
        )
    return paths


def _read_file(path: Path) -> list[Any]:
    suffix = kind_of(path)
    if suffix not in SUFFIXES:
        raise DataError(f"cannot read {path}: expected {', '.join(SUFFIXES)}, or one of them with {', '.join(PACKED)}.")
    try:
        if suffix == ".parquet":
            import pyarrow.parquet

            with open_bytes(path) as file:
                return _rows_of(pyarrow.parquet.ParquetFile(io.BytesIO(file.read())).read(), str(path))
        with open_utf8(path) as file:
            if suffix == ".jsonl" and file.read(64).lstrip()[:1] != b"[":
                return [row for _, row in read_lines(path)]
            file.seek(0)
            text = file.read().decode("utf-8-sig")
        if suffix in (".csv", ".tsv"):
            return _read_csv(text, path)
        if suffix == ".txt":
            ends = "\n" if "\n" in text else "\r"
            return [{"prompt": line.strip()} for line in text.split(ends) if line.strip()]
        return _read_json(text, path)
    except (*UNREADABLE, csv.Error) as error:
        raise DataError(f"cannot read {path}: {why_unreadable(error)}.") from error


def _read_json(text: str, path: Path) -> list[Any]:
    """Reads one list of rows, one row, or lines of JSON."""
    try:
        rows = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return [row for _, row in read_lines(path)]
    return rows if isinstance(rows, list) else [rows]


def _rows_of(table: Any, source: str) -> list[Row]:
    """Reads an Arrow table. A number of 32 bits is the shortest that rounds to it: 0.1 and not 0.10000000149011612."""
    import pyarrow as pa

    if repeated := [name for name in table.column_names if table.column_names.count(name) > 1]:
        raise DataError(f"{source} has two columns {repeated[0]!r}; rename one.")
    for place, field in enumerate(table.schema):
        if pa.types.is_float32(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()).cast(pa.float64()))
    return table.to_pylist()


def _read_csv(text: str, path: Path) -> list[Row]:
    """Reads rows of cells between commas, semicolons or tabs, whichever divides the first row into most."""
    csv.field_size_limit(2**31 - 1)  # the standard limit, 131,072 characters, is for untrusted servers

    def cells(mark: str, spaced: bool = False) -> Any:
        return csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True, skipinitialspace=spaced)

    def width(mark: str) -> int:
        try:
            return len(next(cells(mark), []))
        except csv.Error:  # quotes that end where this mark does not follow
            return 0

    mark = "\t" if kind_of(path) == ".tsv" else max(MARKS, key=width)
    spaced = any(name.startswith(" ") for name in next(cells(mark), [])[1:])  # written with a space after each mark
    lines = cells(mark, spaced)
    header = next(lines, [])
    if repeated := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{path} has two columns {repeated[0]!r}; rename one.")
    rows = []
    for line in lines:
        if line and len(line) != len(header):
            raise DataError(
                f"line {lines.line_num} of {path} has another number of cells than the first line ({len(line)} for"
                f" {len(header)}); put cells that hold {mark!r} or a line break into quotes."
            )
        if line:
            rows.append(dict(zip(header, line, strict=True)))
    return rows


def _read_hub(source: str, split: str) -> list[Row]:
    import datasets

    name, _, config = source.partition(":")
    try:
        found: Any = datasets.load_dataset(name, config or None, split=split)
        return _rows_of(found.with_format("arrow")[:], source)
    except DataError:
        raise
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise DataError(
            f"cannot load the split {split!r} of {source!r} from the hub ({first_line(error)});"
            " give a local file with source=PATH."
        ) from error
