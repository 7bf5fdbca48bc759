"""Early stopping while sampling: a trace is given up when a window of its tokens is too unsure.

With c_i the top-k confidence of token i (see `rlif.signals.token_confidence`) and w the window,

    threshold   the 10th percentile, over 16 warm-up traces of the same problem, of min over windows of C_w
    stop        at the first token i >= w at which C_w(i) = mean(c_{i-w+1} .. c_i) < threshold
    vote        the traces, warm-up included, whose lowest window is not below the threshold

Source: DeepConf online, arXiv 2508.15260; percentile 10 is its cautious variant (keeps about 90 %), 90 the other.
Their defaults: k = 20, w = 2048, 16 warm-up traces. Its other half, ending the sampling of a problem once the votes
agree, is not here.

Watch: a trace shorter than the window is never stopped, but can be below the threshold and lose its vote. Confidence is
read off the raw logits at temperature 1, whatever temperature, filter or penalty the sampling uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

from rlif.answers.clusters import percentile
from rlif.scoring.taps import ConfidenceTap
from rlif.signals.token_confidence import TOP_K, WINDOW

WARM_UP = 16
PERCENTILE = 10.0


def threshold(lowest: Sequence[float | None], percent: float = PERCENTILE) -> float:
    """The bar for further traces, from the lowest windows of the warm-up traces; -inf, no bar, if none is scorable.

    Example:
        >>> threshold([10.0, 11.0, 12.0])
        10.2
    """
    scored = [value for value in lowest if value is not None]
    return percentile(scored, percent) if scored else -torch.inf


@dataclass(frozen=True)
class EarlyStop:
    """When to stop each of some completions.

    Attributes:
        thresholds: one per prompt that is completed.
        window: tokens that are averaged.
        top_k: of the confidence.
    """

    thresholds: Sequence[float]
    window: int = WINDOW
    top_k: int = TOP_K

    def watch(self, model: Any, rows: Sequence[int]) -> Watch:
        """The criterion for one batch, made of these of the prompts."""
        bars_B = torch.tensor([self.thresholds[i] for i in rows], dtype=torch.float64, device=model.device)
        return Watch(ConfidenceTap(model, self.top_k), bars_B, self.window)


class Watch(StoppingCriteria):
    """Ends rows of one call of `generate`; use it as a context, so that the tap is taken out again.

    Attributes:
        stopped_B: number of tokens after which a row was stopped; 0 where it was not. Counts on past a row's own end,
            where the tokens are padding: a number beyond a row's length means nothing.
    """

    def __init__(self, tap: ConfidenceTap, bars_B: torch.Tensor, window: int):
        self.tap, self.bars_B, self.window = tap, bars_B, window
        self.recent_WB = torch.zeros((window, len(bars_B)), dtype=torch.float64, device=bars_B.device)
        self.stopped_B = torch.zeros(len(bars_B), dtype=torch.long, device=bars_B.device)
        self.steps = 0

    def __enter__(self) -> Watch:
        self.tap.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.tap.__exit__()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        """Which rows are done, [B]; called by `generate` after each token."""
        self.recent_WB[self.steps % self.window] = self.tap.latest_B
        self.steps += 1
        if self.steps >= self.window:
            below_B = self.recent_WB.mean(0) < self.bars_B
            self.stopped_B = torch.where(below_B & (self.stopped_B == 0), self.steps, self.stopped_B)
        return self.stopped_B > 0
