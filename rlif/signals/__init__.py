"""How sure the model is. `SIGNALS` is the whole list; a new signal is one file and one line in both tables.

A token signal takes `TokenStats` and gives one number per completion, larger = more sure, None where there is none.
`NEEDS` says which of the statistics it reads: training offers fewer of them than `score_completions` does.
"""

from __future__ import annotations

from collections.abc import Callable

from rlif.signals.group_confidence import (
    WINDOW,
    group_confidence,
    group_confidence_bottom,
    group_confidence_lowest,
    group_confidence_tail,
)
from rlif.signals.likelihood import likelihood, likelihood_sum
from rlif.signals.negative_entropy import negative_entropy, negative_entropy_sum
from rlif.signals.self_certainty import self_certainty
from rlif.types import TokenStats

TokenSignal = Callable[[TokenStats], list[float | None]]

SIGNALS: dict[str, TokenSignal] = {
    "self_certainty": self_certainty,
    "negative_entropy": negative_entropy,
    "negative_entropy_sum": negative_entropy_sum,
    "likelihood": likelihood,
    "likelihood_sum": likelihood_sum,
    "group_confidence": group_confidence,
    "group_confidence_tail": group_confidence_tail,
    "group_confidence_lowest": group_confidence_lowest,
    "group_confidence_bottom": group_confidence_bottom,
}

NEEDS: dict[str, str] = {
    "self_certainty": "mean_logprob_BT",
    "negative_entropy": "entropy_BT",
    "negative_entropy_sum": "entropy_BT",
    "likelihood": "logprob_BT",
    "likelihood_sum": "logprob_BT",
    "group_confidence": "topk_confidence_BT",
    "group_confidence_tail": "topk_confidence_BT",
    "group_confidence_lowest": "topk_confidence_BT",
    "group_confidence_bottom": "topk_confidence_BT",
}

WINDOWED: dict[str, Callable[[TokenStats, int], list[float | None]]] = {
    "group_confidence_tail": group_confidence_tail,
    "group_confidence_lowest": group_confidence_lowest,
    "group_confidence_bottom": group_confidence_bottom,
}


def every_signal(stats: TokenStats, window: int = WINDOW) -> list[dict[str, float | None]]:
    """All signals of each completion, {name: value}; `window` is that of the group confidences."""
    columns = {
        name: WINDOWED[name](stats, window) if name in WINDOWED else signal(stats) for name, signal in SIGNALS.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
