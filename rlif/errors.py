"""Errors that the user can put right, by kind, and suggestions for an unknown name.

All kinds are `RlifError`. The command line prints the sentence and exits with code 2; `--debug` adds the traceback.
"""

import difflib
import json
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


def nearest(name: str, names: Iterable[str], listed_by: str = "") -> str:
    """Suggests the nearest known name in place of an unknown one; lists all names if none is near.

    Args:
        listed_by: the command or the class that lists all names, where these are too many for a sentence.
    """
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=3 if listed_by else 1, cutoff=0.5)
    if listed_by:
        near = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        return f"{near}`{listed_by}` lists all {len(names)}."
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the type of an error without a message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def why_unreadable(error: BaseException, otherwise: str = "") -> str:
    """Says why a file could not be read, without the words of codecs, parsers and error numbers.

    Args:
        otherwise: said of other errors; by default the first line of their message.

    Example:
        >>> why_unreadable(FileNotFoundError(2, "No such file or directory", "a.json"))
        'No such file or directory'
    """
    if isinstance(error, UnicodeDecodeError):
        return f"it is not text in {error.encoding.upper()}; save it as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON from line {error.lineno}, character {error.colno} on"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return (isinstance(error, OSError) and error.strerror) or otherwise or first_line(error)


def lookup(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """Returns the entry of a table; refuses an unknown name and suggests the nearest."""
    if name in table:
        return table[name]
    raise RecipeError(f"unknown {kind} {name!r}; {nearest(name, table)}")


PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Interrupted(KeyboardInterrupt):
    """Ends the program after Ctrl-C, when it was said what is kept and how to go on."""


class Preempted(SystemExit):
    """Ends the program with exit code 75 after a checkpoint, because a scheduler reclaims the machine."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)
