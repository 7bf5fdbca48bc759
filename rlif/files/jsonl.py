"""Reads JSON lines, and appends to logs of them that survive a kill.

`read_lines` names the line of an error. `JsonLog` is the log of the run folder, evaluations, judges, `rlif score` and
`rlif select`. A line counts once its newline is written: `rows` ignores an unfinished last line, and `cut` removes it.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from rlif.errors import DataError, why_unreadable
from rlif.files.atomic import finite, replace_file, sync
from rlif.files.text import UNREADABLE, open_utf8

Row = dict[str, Any]
EXACT_DIGITS = 15  # significant digits that every float holds


class JsonLog:
    """Appends rows to a file, and reads them back when a killed process is restarted.

    Writing raises OSError, which the caller explains. Several threads of one process may append.

    Args:
        path: the file, which need not exist.
        ascii: escape all characters beyond ASCII.

    Example:
        >>> log = JsonLog(Path("log.jsonl"))
        >>> log.append({"step": 1}, {"step": 2})
        >>> [row for _, row in log.rows()]
        [{'step': 1}, {'step': 2}]
    """

    def __init__(self, path: Path, *, ascii: bool = True) -> None:
        self.path, self.ascii = path, ascii
        self._lock = threading.Lock()

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yields line number and object of each whole line; nothing if there is no file."""
        return read_lines(self.path, torn=True) if self.path.is_file() else iter(())

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Writes all rows, or none if the system refuses."""
        data = memoryview(self._text(rows).encode())
        with self._lock, self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise

    def cut(self, lines: int | None = None) -> None:
        """Removes everything after this number of lines; by default only a last line without a newline."""
        if not self.path.is_file():
            return
        with self.path.open("rb+") as file:
            size = 0
            for number, line in enumerate(file):
                if number == lines or not line.endswith(b"\n"):
                    break
                size += len(line)
            file.truncate(size)

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces all rows at once, if the file exists."""
        if self.path.is_file():
            replace_file(self.path, self._text(rows))

    def sync(self) -> None:
        """Returns when the file, if it exists, is on the disk."""
        if self.path.is_file():
            sync(self.path)

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        return "".join(json.dumps(row, ensure_ascii=self.ascii) + "\n" for row in rows)


def plain(settings: Mapping[str, Any]) -> Row:
    """Converts settings to what a file gives back: tuples become lists, NaN becomes None."""
    return json.loads(json.dumps(finite(settings)))


def different(found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Names the settings that differ, with commas between them; empty if all are equal."""
    names = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
    return ", ".join(name if name.isprintable() else repr(name) for name in names)


def count_lines(path: Path) -> int:
    """Counts the lines that are not blank; refuses a file without any."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise DataError(f"{path} is not a file, and is read twice; write it to a file first.")
    try:
        with open_utf8(path) as lines:
            count = sum(1 for line in lines if line.strip())
    except UNREADABLE as error:
        raise _cannot_read(path, error) from error
    if not count:
        raise DataError(f"{path} has no rows.")
    return count


def read_lines(path: Path, torn: bool = False) -> Iterator[tuple[int, Row]]:
    """Yields line number and object of each line that is not blank.

    Args:
        path: may be compressed, see `rlif.files.text`.
        torn: skip a last line without a newline, which a killed process left behind.
    """
    try:
        with open_utf8(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip() and not (torn and not line.endswith(b"\n")):
                    yield number, _parse(line, f"line {number} of {path}")
    except UNREADABLE as error:
        raise _cannot_read(path, error) from error


def parse_json(text: str) -> Any:
    """Parses JSON in which no object has a key twice.

    Raises:
        ValueError: it is not, or an object has.
    """
    return json.loads(text, object_pairs_hook=_object, parse_float=_number)


class Digits(float):
    """A number as it is written, with more digits than a float holds; `str` has them all."""

    def __new__(cls, text: str) -> "Digits":
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text


def _number(text: str) -> float:
    number = float(text)
    if len(text) <= EXACT_DIGITS or repr(number) == text or not number or not isfinite(number):
        return number
    written = Decimal(text)
    places = max(0, -int(written.as_tuple().exponent))
    if written in (Decimal(repr(number)), Decimal(f"{number:.{places}f}")):  # printed from this very float
        return number
    return Digits(text)


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)!r:.40} twice")
    return found


def _cannot_read(path: Path, error: Exception) -> DataError:
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path} is a folder; expected a file of JSON lines.")
    if isinstance(error, FileNotFoundError):
        return DataError(f"no such file: {path}.")
    return DataError(f"cannot read {path}: {why_unreadable(error)}.")


def _parse(line: bytes, where: str) -> Row:
    try:
        row = parse_json(line.decode().rstrip())
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON from character {error.colno} on.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {why_unreadable(error)}.") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} holds a {type(row).__name__}; expected an object per line.")
    return row
