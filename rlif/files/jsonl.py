"""Reads JSON lines that somebody else wrote: what is wrong is said with its line number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlif.errors import RlifError


def read_lines(path: Path, torn: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line number and the object of each line that is not blank.

    Args:
        path: what to read.
        torn: leave out a last line without an end, which a killed process left behind.

    Raises:
        RlifError: no such file, or, when that line is reached, one that is no JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip() and not (torn and not line.endswith(b"\n")):
                    yield number, _parse(line, number, path)
    except OSError as error:
        raise RlifError(f"cannot read {path}: {error.strerror}.") from error


def _parse(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise RlifError(f"line {number} of {path} is no JSON: {error}.") from error
    except RecursionError as error:
        raise RlifError(f"line {number} of {path} is nested too deeply to be read.") from error
    if not isinstance(row, dict):
        raise RlifError(f"line {number} of {path} holds a {type(row).__name__}; expected an object per line.")
    return row
