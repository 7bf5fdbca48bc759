"""Reads the entries of a folder of checks: recorded outputs, published figures, and the result of a check.

`rlif.evaluation.reproduce` documents the layout of such a folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif.errors import DataError, why_unreadable
from rlif.files.tables import Row, read_rows
from rlif.files.text import UNREADABLE, open_utf8


@dataclass(frozen=True)
class Check:
    """Holds the result of one entry."""

    entry: str  # its name in expected.json
    items: int  # how many were graded
    published: tuple[float, ...]  # one or two figures
    ours: tuple[float | None, ...]  # as many; None where a figure cannot be computed here
    within: bool  # everything checked agrees
    note: str = ""  # what exactly was checked, or why nothing was

    @property
    def difference(self) -> tuple[float | None, ...]:
        """Ours less the published figure."""
        return tuple(None if one is None else one - other for one, other in zip(self.ours, self.published, strict=True))


@dataclass(frozen=True)
class Entry:
    """Holds an entry of expected.json, and where its files are."""

    name: str
    folder: Path
    expected: Mapping[str, Any]
    unsafe_local: bool = False

    def read(self, *endings: str) -> Any:
        """Reads the first of its files that exists: rows of JSON lines, or one value of JSON."""
        endings = endings or (".jsonl.gz", ".jsonl")
        for ending in endings:
            path = self.folder / f"{self.name}{ending}"
            if path.is_file():
                return read_rows(str(path), "test") if ".jsonl" in ending else read_json(path)
        raise DataError(f"there is no {self.folder / self.name}{endings[0]}.")

    def check(
        self,
        items: int,
        ours: Sequence[float | None],
        published: Sequence[float],
        *,
        sound: bool = True,
        note: str = "",
    ) -> Check:
        """Compares with the published figures: within if all figures and the number of items agree, and `sound`."""
        if items != self.expected.get("items", items):
            sound, note = False, f"expected {self.expected['items']} items, there are {items}; {note}"
        given = self.expected.get("tolerance")
        tolerances = given if isinstance(given, list) else [] if given is None else [given]
        for number, (one, other) in enumerate(zip(ours, published, strict=True)):
            tolerance = tolerances[number] if number < len(tolerances) else rounding(other)
            sound = sound and (one is None or abs(one - other) <= tolerance + 1e-9)
        return Check(self.name, items, tuple(published), tuple(ours), sound, note)


def rounding(figure: float) -> float:
    """Returns half a unit of the last digit that is written of a figure."""
    return 0.5 * 10.0 ** -len(str(figure).partition(".")[2])


def read_json(path: Path) -> Any:
    """Reads a .json or .json.gz file."""
    try:
        with open_utf8(path) as file:
            return json.loads(file.read())
    except UNREADABLE as error:
        raise DataError(f"cannot read {path}: {why_unreadable(error)}.") from error


def check_ids(rows: Sequence[Row], column: str, problems: Mapping[str, Any] | None = None) -> Sequence[Row]:
    """Returns the rows if their ids are unique and known."""
    ids = [str(row[column]) for row in rows]
    if not ids:
        raise DataError("there are no rows.")
    if len(set(ids)) < len(ids):
        raise DataError(f"the id {next(one for one in ids if ids.count(one) > 1)!r} occurs more than once.")
    unknown = [one for one in ids if problems is not None and one not in problems]
    if unknown:
        raise DataError(f"{len(unknown)} of {len(ids)} ids do not belong to any problem, the first is {unknown[0]!r}.")
    return rows


def percent(verdicts: Sequence[bool]) -> float:
    """Returns the share of True, in %."""
    return 100 * sum(verdicts) / len(verdicts) if verdicts else 0.0
