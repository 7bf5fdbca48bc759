"""Scores files of JSON lines: reads rows of prompt and completion, adds every signal (`rlif.selection.scorer`).

A file is written in the order of the rows, a batch at a time. Rows that it holds already are checked against the input
and not scored again. What a kill left of a batch is dropped: the numbers of a row depend in their last bits on the rows
that share its pass, and a resumed file holds the same bytes as one that was not.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import TextIO, TypeVar

from rlif import progress
from rlif.errors import DataError, MachineError, RecipeError, RlifError, why_unreadable
from rlif.files.jsonl import JsonLog, Row, read_lines
from rlif.files.lock import alone
from rlif.selection.scorer import BATCHES, PAIR, Pair, Scorer, read_row

Each = TypeVar("Each")


def score_file(
    scorer: Scorer,
    source: Path,
    out: Path | TextIO,
    total: int | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, int]:
    """Scores a file of JSON lines.

    Args:
        source: rows with `prompt` and `completion`; other columns are copied, except those named as a signal.
        out: a file, resumed if it exists, or an open stream.
        total: the number of rows, to show the time left.
        columns: as in `rlif.selection.scorer.read_row`.

    Returns:
        Counts: `rows`, `skipped` (written before), `unscorable`.

    Raises:
        DataError: a bad row, named by its line; what came before it is written. An output that belongs to other rows
            or another model.
        MachineError: the output cannot be written, or another process writes to it.
    """
    if not isinstance(out, Path):
        return _score(scorer, source, out, total, columns)
    if out.is_file() and source.is_file() and out.samefile(source):
        raise RecipeError(f"{out} is the input itself; give another output.")
    with alone(out):
        return _score(scorer, source, out, total, columns)


def _score(
    scorer: Scorer, source: Path, out: Path | TextIO, total: int | None, columns: Mapping[str, str]
) -> dict[str, int]:
    counts = {"rows": 0, "skipped": 0, "unscorable": 0}
    reread = partial(read_rows, source, columns)
    rows = _resume(scorer, source, reread, out, counts) if isinstance(out, Path) else reread()
    append = JsonLog(out, ascii=False).append if isinstance(out, Path) else partial(_print, out)
    try:
        append()  # a file that cannot be written is refused before anything is scored
        with progress.task("scoring", total, done=counts["rows"]) as advance:
            for batch in _batches(_encode(rows, scorer, source), scorer.batch_size * BATCHES):
                scores = scorer.score_ids([pair for _, pair in batch])
                scored = zip(batch, scores, strict=True)
                append(*({**row, **values, "scored_by": scorer.described} for (row, _), values in scored))
                counts["unscorable"] += sum(values["self_certainty"] is None for values in scores)
                counts["rows"] += len(batch)
                advance(len(batch))
    except OSError as error:
        raise MachineError(f"cannot write {out}: {why_unreadable(error)}.") from error
    return counts


def _batches(rows: Iterator[Each], size: int) -> Iterator[list[Each]]:
    """Yields rows in batches. An error is raised once the rows before it are yielded."""
    while True:
        batch: list[Each] = []
        try:
            for each in islice(rows, size):
                batch.append(each)
        except RlifError:
            yield batch
            raise
        if not batch:
            return
        yield batch


def _print(out: TextIO, *rows: Row) -> None:
    out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    out.flush()


def _encode(rows: Iterator[tuple[int, Row]], scorer: Scorer, source: Path) -> Iterator[tuple[Row, Pair]]:
    """Yields rows with their token ids; an error names the line, and is raised once the rows before it are yielded."""
    for part in _batches(rows, scorer.batch_size * BATCHES):
        yield from scorer.encode_all((f"line {number} of {source}", row) for number, row in part)


def read_rows(source: Path, columns: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[int, Row]]:
    """Reads line numbers and rows with a prompt and a completion.

    Args:
        columns: as in `rlif.selection.scorer.read_row`.
    """
    if unknown := sorted(columns.keys() - PAIR):
        raise RecipeError(f"columns has no {unknown[0]!r} here; rows are scored by {' and '.join(PAIR)}.")
    for number, row in read_lines(source):
        yield number, read_row(row, f"line {number} of {source}", columns)


def _resume(
    scorer: Scorer, source: Path, reread: Callable[[], Iterator[tuple[int, Row]]], out: Path, counts: dict[str, int]
) -> Iterator[tuple[int, Row]]:
    """Counts the rows that the output holds, and returns the input rows to score; drops what a kill left of a batch."""
    size, log, rows = scorer.batch_size * BATCHES, JsonLog(out), reread()
    held: list[tuple[int, bool]] = []  # of each row written, its line and whether it is unscorable
    last: deque[tuple[int, Row]] = deque(maxlen=size)
    for line, written in log.rows():
        number, row = next(rows, (0, None))
        if row is None or (written.get("prompt"), written.get("completion")) != (row["prompt"], row["completion"]):
            raise DataError(f"line {line} of {out} is not the row of {source} in its place; give another output.")
        if written.get("scored_by") not in (scorer.described, scorer.settings):
            raise DataError(
                f"{out} was scored by {written.get('scored_by')}, this is {scorer.described}; give another output."
            )
        held.append((line, written.get("self_certainty") is None))
        last.append((number, row))
    following = list(islice(rows, 1))
    again = len(held) % size if following else 0
    kept = held[: len(held) - again]
    log.cut(kept[-1][0] if kept else 0)
    counts["rows"] = counts["skipped"] = len(kept)
    counts["unscorable"] = sum(none for _, none in kept)
    return chain(list(last)[len(last) - again :], following, rows)
