"""Self-certainty: how far the model's distributions are from uniform.

    SC(o|q) = 1/|o| sum_i KL(U || p(. | q, o_<i)) = 1/|o| sum_i ( -log V - mean_j log p_ij )

Source: arXiv 2502.18581 (best of N), arXiv 2505.19590 eq. 4 (reward of Intuitor). Range: 0 for uniform distributions,
never negative, unbounded above; 15 to 35 nats on Qwen2.5. V counts all rows of the output head. The constant log V
cancels in advantages, but values of models with different heads do not compare.
Defaults there: Intuitor up to 3B 7 completions, learning rate 3e-6, KL weight 0.005; from 7B on 14, 1e-6 and 0.01; on
MATH always temperature 0.9, 3072 tokens, and no floor under the group's deviation.

Watch: any text that is easy for the model raises it: copying, repeating, appending a solved problem, or stopping after
a few tokens. As a reward it teaches first and over-optimises later.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlif.types import TokenStats

if TYPE_CHECKING:
    import torch

ROUNDING = 0.05  # nats; bfloat16 logits near 20 are 0.125 apart, and a mean over tokens averages most of that out


def token_self_certainty(stats: TokenStats) -> torch.Tensor:
    """Computes self-certainty of each token, [B, T] in nats and float64; values at padding have no meaning."""
    if stats.mean_logprob_BT is None:
        raise ValueError("self-certainty needs mean_logprob_BT, which these statistics lack")
    return -stats.mean_logprob_BT.double() - math.log(stats.vocab_size)


def self_certainty(stats: TokenStats) -> list[float | None]:
    """Computes self-certainty of each completion, in nats, from `mean_logprob_BT`.

    Raises:
        ArithmeticError: a value is negative beyond rounding, so the statistics do not belong to these tokens.

    Example:
        >>> rlif.SIGNALS["self_certainty"](rlif.score_completions(model, prompt_ids, completion_ids))
        [5.94..., 5.93...]
    """
    constant = math.log(stats.vocab_size)
    values = stats.reduce("mean_logprob_BT", lambda mean_logprob_T: -mean_logprob_T.mean() - constant)
    for value in values:
        if value is not None and value < -ROUNDING:
            raise ArithmeticError(f"self-certainty of {value:.3f} nats: a KL divergence cannot be negative")
    return values
