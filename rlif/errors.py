"""Errors that the user can put right, by kind, and the answer to an unknown name.

    RecipeError     a recipe, an option or an argument says something impossible
    DataError       problems, samples, published outputs or a run folder cannot be used
    ModelError      a model, tokenizer or chat template cannot be used
    MachineError    the machine lacks something: a program, a package, memory, disk, another process
    RewardError     a reward cannot be given

All are `RlifError`. The command line prints the sentence and exits with code 2; `--debug` adds the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class RlifError(Exception):
    """Something the user can put right, said in one sentence."""


class RecipeError(RlifError):
    """A recipe, an option or an argument is unknown, has the wrong type, or contradicts another."""


class DataError(RlifError):
    """Problems, samples, published outputs or a run folder are missing, unreadable or of another layout."""


class ModelError(RlifError):
    """A model, tokenizer or chat template cannot be loaded or used as asked."""


class MachineError(RlifError):
    """The machine lacks a program, a package, memory, disk space, or another process that was expected."""


class RewardError(RlifError):
    """A reward cannot be given; a run that meets this stops at a checkpoint."""


def nearest(name: str, names: Iterable[str]) -> str:
    """What to say after an unknown name: the nearest known one, else all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def lookup(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The entry of a table.

    Raises:
        RecipeError: no such name; the nearest one is suggested.
    """
    if name in table:
        return table[name]
    raise RecipeError(f"unknown {kind} {name!r}; {nearest(name, table)}")


PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """Ends the program with exit code 75: a scheduler wants the machine back, and the run stands at a checkpoint."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)
