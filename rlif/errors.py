"""Errors that the user can put right, by kind, and suggestions for an unknown name.

All kinds are `RlifError`. The command line prints the sentence and exits with code 2; `--debug` adds the traceback.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class RlifError(Exception):
    """Something that the user can put right, explained in one sentence."""


class RecipeError(RlifError):
    """A recipe, an option or an argument is unknown, has the wrong type, or contradicts another."""


class DataError(RlifError):
    """Problems, samples, published outputs or a run folder are missing, unreadable or of another layout."""


class ModelError(RlifError):
    """A model, tokenizer or chat template cannot be loaded, or not used in this way."""


class MachineError(RlifError):
    """The machine lacks a program, a package, memory, disk space, or another process that was expected."""


class RewardError(RlifError):
    """A reward cannot be given; a run that meets this stops at a checkpoint."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Suggests the nearest known name in place of an unknown one; lists all names if none is near."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the type of an error without a message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def lookup(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """Returns the entry of a table.

    Raises:
        RecipeError: the name is unknown; the message suggests the nearest one.
    """
    if name in table:
        return table[name]
    raise RecipeError(f"unknown {kind} {name!r}; {nearest(name, table)}")


PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """Ends the program with exit code 75 after a checkpoint, because a scheduler reclaims the machine."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)
