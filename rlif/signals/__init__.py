"""How sure the model is. The tables are the whole list.

`TABLE` holds token signals, each with the field of `TokenStats` that it reads, so that training computes no others:
from `TokenStats` to one number per completion, larger = more sure, None where there is none. `SIGNALS` and `NEEDS` are
its two columns. A new one is one file, one line, one row of docs/signals.md, which adds one, and one test.

`GROUP_SIGNALS` holds group signals: from the `Group` of all completions of one problem to the same. They read what the
completions say, not how sure the model was of each token. A new one takes as much.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rlif.signals.group_confidence import (
    WINDOW,
    group_confidence,
    group_confidence_bottom,
    group_confidence_lowest,
    group_confidence_tail,
)
from rlif.signals.likelihood import likelihood, likelihood_sum
from rlif.signals.negative_entropy import negative_entropy, negative_entropy_sum
from rlif.signals.plurality_vote import plurality_vote
from rlif.signals.self_certainty import self_certainty
from rlif.signals.self_consistency import self_consistency
from rlif.signals.semantic_entropy import semantic_entropy
from rlif.types import Group, TokenStats

TokenSignal = Callable[[TokenStats], list[float | None]]
GroupSignal = Callable[[Group], list[float | None]]

TABLE: dict[str, tuple[TokenSignal, str]] = {
    "self_certainty": (self_certainty, "mean_logprob_BT"),
    "negative_entropy": (negative_entropy, "entropy_BT"),
    "negative_entropy_sum": (negative_entropy_sum, "entropy_BT"),
    "likelihood": (likelihood, "logprob_BT"),
    "likelihood_sum": (likelihood_sum, "logprob_BT"),
    "group_confidence": (group_confidence, "topk_confidence_BT"),
    "group_confidence_tail": (group_confidence_tail, "topk_confidence_BT"),
    "group_confidence_lowest": (group_confidence_lowest, "topk_confidence_BT"),
    "group_confidence_bottom": (group_confidence_bottom, "topk_confidence_BT"),
}
SIGNALS: dict[str, TokenSignal] = {name: signal for name, (signal, _) in TABLE.items()}
NEEDS: dict[str, str] = {name: needs for name, (_, needs) in TABLE.items()}

GROUP_SIGNALS: dict[str, GroupSignal] = {
    "plurality_vote": plurality_vote,
    "self_consistency": self_consistency,
    "semantic_entropy": semantic_entropy,
}

WINDOWED: dict[str, Callable[..., list[float | None]]] = {
    "group_confidence_tail": group_confidence_tail,
    "group_confidence_lowest": group_confidence_lowest,
    "group_confidence_bottom": group_confidence_bottom,
}


def windowed(name: str, window: int) -> TokenSignal:
    """The token signal of that name; `window` is that of the group confidences, in tokens."""
    return partial(WINDOWED[name], window=window) if name in WINDOWED else SIGNALS[name]


def every_signal(stats: TokenStats, window: int = WINDOW) -> list[dict[str, float | None]]:
    """All signals of each completion, {name: value}; `window` as in `windowed`."""
    columns = {name: windowed(name, window)(stats) for name in SIGNALS}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
