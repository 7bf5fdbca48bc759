"""Measures how sure the model is. The tables list all signals.

A token signal turns `TokenStats` into B numbers, larger = more sure. It gives None for a completion without tokens or
with non-finite statistics. `TABLE` names the field that each one reads, so that training computes no others; `SIGNALS`
and `NEEDS` are its columns. A group signal (`GROUP_SIGNALS`) turns a `Group` into G numbers. It compares the answers or
texts of all completions of one problem. Start with self_certainty.py; every other file is one signal and its forms.
self_certainty_topk.py approximates self-certainty from top-k log-probabilities and is in no table.

May import answers, scoring, errors and types, and loads no torch. Config and the folders above it may import this one.
To add a signal: one file, one line in a table, one test, and one row of docs/signals.md, which shows how.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial, update_wrapper
from typing import Any, TypeVar, cast

from rlif.errors import RecipeError, lookup
from rlif.files import own
from rlif.signals import token_confidence as confidence
from rlif.signals.likelihood import likelihood, likelihood_sum
from rlif.signals.negative_entropy import negative_entropy, negative_entropy_sum
from rlif.signals.own_signal import GroupSignal, TokenSignal, annotated_kind, token_signal
from rlif.signals.plurality_vote import plurality_vote
from rlif.signals.self_certainty import self_certainty
from rlif.signals.self_consistency import self_consistency
from rlif.signals.semantic_entropy import semantic_entropy
from rlif.types import TokenStats

Value = TypeVar("Value")

# Names of earlier versions, for recipes, files of samples and run folders.
RENAMED: dict[str, str] = {
    "group_confidence": "mean_token_confidence",
    "group_confidence_tail": "tail_confidence",
    "group_confidence_lowest": "lowest_window_confidence",
    "group_confidence_bottom": "bottom_window_confidence",
}


class _Signals(dict[str, TokenSignal]):
    """Finds signals by name, one's own too. A name of an earlier version works, with a warning that gives the new."""

    def __missing__(self, name: str) -> TokenSignal:
        if own.is_own(name):
            return token_signal(name)[0]
        if name not in RENAMED:
            raise KeyError(name)
        logging.getLogger(__name__).warning("the signal %s is now called %s", name, RENAMED[name])
        return self[RENAMED[name]]


TABLE: dict[str, tuple[TokenSignal, str]] = {
    "self_certainty": (self_certainty, "mean_logprob_BT"),
    "negative_entropy": (negative_entropy, "entropy_BT"),
    "negative_entropy_sum": (negative_entropy_sum, "entropy_BT"),
    "likelihood": (likelihood, "logprob_BT"),
    "likelihood_sum": (likelihood_sum, "logprob_BT"),
    "mean_token_confidence": (confidence.mean_token_confidence, "topk_confidence_BT"),
    "tail_confidence": (confidence.tail_confidence, "topk_confidence_BT"),
    "lowest_window_confidence": (confidence.lowest_window_confidence, "topk_confidence_BT"),
    "bottom_window_confidence": (confidence.bottom_window_confidence, "topk_confidence_BT"),
}


def _measure(
    name: str, stats: TokenStats | None = None, window: int | None = None, **others: Any
) -> list[float | None]:
    """Computes a signal, after a check of what it is given; a plain trainer gives `completions`, and no statistics."""
    signal, needs = TABLE[name]
    if "completions" in others:
        raise RecipeError(
            f"rlif.SIGNALS[{name!r}] reads statistics, not completions; import the trainer from rlif.trl and name"
            f" {name!r} in reward_funcs, or use rlif.reward({name!r}, model=..., tokenizer=...)."
        )
    if others:
        raise TypeError(f"the signal {name} takes no argument {next(iter(others))!r}")
    if not isinstance(stats, TokenStats):
        raise RecipeError(f"the signal {name} reads what rlif.score_completions returns, not a {type(stats).__name__}.")
    if getattr(stats, needs) is None:
        how = f"; give score_completions top_k={confidence.TOP_K}" if needs.startswith("topk") else ""
        raise RecipeError(f"the signal {name} reads {needs}, which these statistics lack{how}.")
    if window is None:
        return signal(stats)
    if window < 1:
        raise RecipeError(f"a window has at least one token, got {window}.")
    return cast(Callable[..., list[float | None]], signal)(stats, window=window)


SIGNALS: dict[str, TokenSignal] = _Signals(
    {name: update_wrapper(partial(_measure, name), signal) for name, (signal, _) in TABLE.items()}
)
NEEDS: dict[str, str] = {name: needs for name, (_, needs) in TABLE.items()}

GROUP_SIGNALS: dict[str, GroupSignal] = {
    "plurality_vote": plurality_vote,
    "self_consistency": self_consistency,
    "semantic_entropy": semantic_entropy,
}
GROUP_SIGNALS.update({name: own.reading("Group", name, signal) for name, signal in GROUP_SIGNALS.items()})

WINDOWED = ("tail_confidence", "lowest_window_confidence", "bottom_window_confidence")


def renamed(row: Mapping[str, Value]) -> dict[str, Value]:
    """Copies a row, with the new names of signals and of columns about them; a column under its new name wins.

    Example:
        >>> renamed({"group_confidence_tail_unscorable": 0.0, "step": 1})
        {'tail_confidence_unscorable': 0.0, 'step': 1}
    """
    new = {_renamed_column(column): value for column, value in row.items()}
    return new | {column: value for column, value in row.items() if column in new}


@lru_cache(1024)
def _renamed_column(column: str) -> str:
    signal = max((name for name in RENAMED if f"{column}_".startswith(f"{name}_")), key=len, default="")
    return RENAMED.get(signal, "") + column.removeprefix(signal)


def find_signal(name: str) -> TokenSignal:
    """Returns a token signal by name, also one's own: `my_module:peak`, `signals.py:peak`."""
    return SIGNALS[name] if own.is_own(name) or name in RENAMED else lookup(SIGNALS, name, "signal")


def fields_read(name: str) -> list[str]:
    """Names the fields of `TokenStats` that a reward reads; none unless it is a token signal."""
    if not own.is_own(name):
        return [NEEDS[name]] if name in NEEDS else []
    return token_signal(name)[1] if annotated_kind(own.load(name, "reward")) == "token" else []


def windowed(name: str, window: int) -> TokenSignal:
    """Returns the token signal of that name; `window` is that of the tail and window confidences, in tokens."""
    signal: Callable[..., list[float | None]] = SIGNALS[name]
    return partial(signal, window=window) if RENAMED.get(name, name) in WINDOWED else signal


def every_signal(
    stats: TokenStats, window: int = confidence.WINDOW, also: Iterable[str] = ()
) -> list[dict[str, float | None]]:
    """Computes all token signals of each completion, {name: value}.

    Args:
        window: as in `windowed`.
        also: signals of one's own, which are computed as well.
    """
    columns = {name: windowed(name, window)(stats) for name in (*SIGNALS, *also)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
