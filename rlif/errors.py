"""The one error that is the user's to put right, and how unknown names are answered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class RlifError(Exception):
    """Something the user can put right. The command line prints it as one sentence and exits with code 2."""


class RewardError(RlifError):
    """A reward that cannot be given in the middle of a run; the run stops at a checkpoint."""


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
        RlifError: no such name; the nearest one is suggested.
    """
    if name in table:
        return table[name]
    raise RlifError(f"unknown {kind} {name!r}; {nearest(name, table)}")


PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """Ends the program with exit code 75: a scheduler wants the machine back, and the run stands at a checkpoint."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)
