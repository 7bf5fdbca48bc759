"""Stops a trace while it is sampled, when a window of its tokens is too unsure.

With c_i the top-k confidence of token i (see `rlif.signals.token_confidence`) and w the window,

    threshold   the 10th percentile, over 16 warm-up traces of the same problem, of min over windows of C_w
    stop        at the first token i >= w at which C_w(i) = mean(c_{i-w+1} .. c_i) < threshold
    vote        the traces, warm-up included, whose lowest window is not below the threshold

Source: DeepConf online, arXiv 2508.15260; percentile 10 is its cautious variant (keeps about 90 %), 90 the other.
Their defaults: k = 20, w = 2048, 16 warm-up traces. DeepConf also stops sampling a problem once the votes agree; this
module does not.

Watch: a trace shorter than the window is never stopped, but can be below the threshold and lose its vote. Confidence is
taken from the raw logits at temperature 1, whatever temperature, filter or penalty the sampling uses.
"""

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
    """Returns the threshold for further traces, from the lowest windows of the warm-up; -inf if none can be scored.

    Example:
        >>> threshold([10.0, 11.0, 12.0])
        10.2
    """
    scored = [value for value in lowest if value is not None]
    return percentile(scored, percent) if scored else -torch.inf


@dataclass(frozen=True)
class EarlyStop:
    """Says when to stop each completion."""

    thresholds: Sequence[float]  # one per prompt that is completed
    window: int = WINDOW  # how many tokens to average


class StopUnsure(StoppingCriteria):
    """Ends rows of one call of `generate`, which runs within the context of its tap."""

    def __init__(self, model: Any, thresholds: Sequence[float], window: int):
        self.tap, self.window, self.steps = ConfidenceTap(model, TOP_K), window, 0
        self.thresholds_B = torch.tensor(thresholds, dtype=torch.float64, device=model.device)
        self.recent_WB = self.thresholds_B.new_zeros((window, len(thresholds)))
        # Tokens after which a row was stopped, 0 where it was not. Padding after the end of a row is counted too, so
        # ignore a number beyond the row's length.
        self.stopped_B = self.thresholds_B.new_zeros(len(thresholds), dtype=torch.long)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        """Returns which rows are done, [B]; `generate` calls this after each token."""
        self.recent_WB[self.steps % self.window] = self.tap.latest_B
        self.steps += 1
        if self.steps >= self.window:
            below_B = self.recent_WB.mean(0) < self.thresholds_B
            self.stopped_B = torch.where(below_B & (self.stopped_B == 0), self.steps, self.stopped_B)
        return self.stopped_B > 0
