"""Writes small files whole or not at all, and reads JSON with one sentence for what is wrong.

This also holds if the machine crashes: a new file is on the disk before it replaces the old one.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from rlif.errors import DataError, MachineError, why_unreadable


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError while something is written to a path into a MachineError of one sentence."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"cannot write {path}: {why_unreadable(error)}.") from error


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes all rows as JSON lines, or none."""
    replace_file(path, "".join(json.dumps(finite(row), ensure_ascii=True) + "\n" for row in rows))


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Changes every leaf of mappings and lists."""
    if isinstance(value, Mapping):
        return {key: changed(inner, change) for key, inner in value.items()}
    return [changed(inner, change) for inner in value] if isinstance(value, list | tuple) else change(value)


def finite(value: Any) -> Any:
    """Replaces NaN and infinities by None, since JSON has neither."""
    return changed(value, lambda leaf: None if isinstance(leaf, float) and not math.isfinite(leaf) else leaf)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Tells whether a value is a finite number that fits a float; True and False are not numbers.

    Example:
        >>> [is_number(value) for value in (1, 0.5, True, None, float("nan"), 10**400)]
        [True, True, False, False, False, False]
    """
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: Any) -> TypeGuard[int]:
    """Tells whether a value is a whole number from 0 that a float holds exactly, such as a step.

    Example:
        >>> [is_count(value) for value in (0, 30, 30.0, 2.5, -1, True, 10**300, "3")]
        [True, True, False, False, False, False, False, False]
    """
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def replace_file(path: Path, text: str) -> None:
    """Writes a whole file or nothing. A link at that path is replaced, never written through."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)  # of a killed process, or a link
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
        sync(draft)
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Waits until a folder and everything in it are on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object; anything else is a DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {why_unreadable(error)}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: a {type(value).__name__} where an object was expected.")
    return value
