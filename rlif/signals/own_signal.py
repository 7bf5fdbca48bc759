"""Finds signals of one's own: functions that are written as those of this folder.

    def flatness(stats: TokenStats) -> list[float | None]       a token signal, B numbers
    def rarest(group: Group) -> list[float | None]              a group signal, G numbers

The annotation of the first parameter tells the two apart. A token signal is tried on a small example when it is found.
This shows which fields of `TokenStats` it reads, so that training computes no others.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, Literal

from rlif.errors import RecipeError, RewardError
from rlif.files import own
from rlif.types import Group, TokenStats

TokenSignal = Callable[[TokenStats], list[float | None]]
GroupSignal = Callable[[Group], list[float | None]]
Kind = Literal["token", "group", "grader"]
KINDS: dict[str, Kind] = {"TokenStats": "token", "Group": "group", "Batch": "grader"}


def annotated_kind(function: Any) -> Kind | None:
    """Tells by its first parameter whether a function is a "token" or "group" signal or a "grader"; else None."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if not parameters:
        return None
    annotation = parameters[0].annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return KINDS.get(text.strip("'\"").rpartition(".")[2])


def token_signal(name: str) -> tuple[TokenSignal, list[str]]:
    """Returns a token signal of one's own and the fields of `TokenStats` that it reads.

    Raises:
        RecipeError: it cannot be imported, is not a token signal, or fails on a small example.
    """
    function = own.load(name, "signal")
    if annotated_kind(function) != "token":
        raise RecipeError(
            f"{name} is not a token signal; its first parameter must be annotated, as in `def NAME(stats: TokenStats)`."
        )
    return _tried(name, function)


@cache
def _tried(name: str, function: TokenSignal) -> tuple[TokenSignal, list[str]]:
    """Calls a signal on three completions, of three, one and no tokens, to see which fields it reads."""
    import torch

    signal = own.with_checks(f"signal {name}", function, lambda stats: len(stats.mask_BT))
    read: set[str] = set()
    known = [field.name for field in fields(TokenStats) if field.name.endswith("_BT") and field.name != "mask_BT"]

    class Watched(TokenStats):
        def __getattribute__(self, field: str) -> Any:
            read.update({field} & {*known})
            return super().__getattribute__(field)

    mask_BT = torch.arange(3) < torch.tensor([[3], [1], [0]])
    values_BT = torch.tensor([[1.5, 0.25, 2.0], [0.75, 0.0, 0.0], [0.0, 0.0, 0.0]])
    given: dict[str, Any] = {field: -values_BT if "logprob" in field else values_BT.clone() for field in known}
    try:
        signal(Watched(mask_BT, 8, **given))
    except RewardError as error:
        place = own.at(error.__cause__) if error.__cause__ else ""
        raise RecipeError(f"{error}{place}, for completions of three, one and no tokens.") from error
    if not read:
        raise RecipeError(f"the signal {name} reads no field of TokenStats; there are {', '.join(known)}.")
    return signal, sorted(read)


def group_signal(name: str) -> GroupSignal:
    """Returns a group signal of one's own."""
    return own.with_checks(f"signal {name}", own.load(name, "signal"), lambda group: len(group.completions))
