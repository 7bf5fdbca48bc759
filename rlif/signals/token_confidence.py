"""Token confidence: how peaked the k most probable tokens are, over a trace or over windows of it.

    c_i = -1/k sum_{j in top k} log p_ij                   confidence of a token
    C_w = the mean of c over w tokens in a row             confidence of a window

    mean     mean of c over the trace         lowest   min over all windows of C_w
    tail     mean of c over the last w        bottom   mean of the lowest 10 % of the C_w, at least one

Source: DeepConf, arXiv 2508.15260, and its offline code. Range: log k and up, so values of different k do not compare.
Defaults there: k = 20 and w = 2048, for traces of tens of thousands of tokens.

Watch: a trace of w tokens or fewer is one window, and all four are its plain mean; a recipe sets w by
`confidence_window`. In a peaked distribution the runners-up are improbable, so minus their log-probabilities is large.
The order has an exception: k equally likely tokens give the least value, log k, and a uniform distribution gives more,
log V. Published for choosing among samples. As a reward the mean teaches like self-certainty, and without a floor it
collapses like it (results/floor.md, a model of 0.6 M parameters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlif.types import TokenStats

if TYPE_CHECKING:
    import torch

TOP_K = 20
WINDOW = 2048
BOTTOM = 0.1  # share of the windows


def windows(confidence_T: torch.Tensor, window: int) -> torch.Tensor:
    """Computes the mean of each run of `window` tokens, one token apart; of all tokens where there are fewer."""
    return confidence_T.unfold(0, min(window, len(confidence_T)), 1).mean(-1)


def mean_token_confidence(stats: TokenStats) -> list[float | None]:
    """Computes the mean top-k confidence of each completion, in nats, from `topk_confidence_BT` (`top_k=20`).

    Example:
        >>> rlif.SIGNALS["mean_token_confidence"](rlif.score_completions(model, prompt_ids, completion_ids, top_k=20))
        [9.99..., 9.97...]
    """
    return stats.reduce("topk_confidence_BT", lambda confidence_T: confidence_T.mean())


def tail_confidence(stats: TokenStats, window: int = WINDOW) -> list[float | None]:
    """Computes the mean top-k confidence of the last `window` tokens, in nats."""
    return stats.reduce("topk_confidence_BT", lambda confidence_T: confidence_T[-window:].mean())


def lowest_window_confidence(stats: TokenStats, window: int = WINDOW) -> list[float | None]:
    """Computes the mean of the least confident window, in nats."""
    return stats.reduce("topk_confidence_BT", lambda confidence_T: windows(confidence_T, window).min())


def bottom_window_confidence(stats: TokenStats, window: int = WINDOW) -> list[float | None]:
    """Computes the mean of the least confident tenth of the windows, in nats."""

    def bottom(confidence_T: torch.Tensor) -> torch.Tensor:
        means_W = windows(confidence_T, window)
        return means_W.sort().values[: max(1, int(len(means_W) * BOTTOM))].mean()

    return stats.reduce("topk_confidence_BT", bottom)
