"""Likelihood: how probable the model finds the tokens it wrote.

    mean   1/|o| sum_i log p(o_i | q, o_<i)      minus the log of the perplexity
    sum    sum_i log p(o_i | q, o_<i)            the log-probability of the whole completion

Source: sum - EM-RL (sequence), arXiv 2505.15134; mean - a control of arXiv 2505.19590 (appendix),
and the baseline of best-of-N in arXiv 2502.18581. Range: up to 0,
unbounded below; the sum falls with length.
Defaults there: EM-RL a leave-one-out baseline, 4 rollouts, learning rate 1e-6, KL weight 0.001.

Watch: it depends on the token that was drawn, not only on the distribution, so it is the noisiest of the signals on
samples. As a reward the sum shrinks completions until they say nothing, and the mean was unstable on 1.5B, gamed by
longer text (arXiv 2505.19590, appendix).
"""

from __future__ import annotations

from rlif.types import TokenStats


def likelihood(stats: TokenStats) -> list[float | None]:
    """Mean log-probability of the tokens of each completion, in nats.

    Args:
        stats: with `logprob_BT`.

    Returns:
        B numbers; None for a completion without tokens or with non-finite statistics.

    Example:
        >>> rlif.SIGNALS["likelihood"](rlif.score_completions(model, prompt_ids, completion_ids))
        [-1.77..., -1.77...]
    """
    return stats.reduce("logprob_BT", lambda logprob_T: logprob_T.mean())


def likelihood_sum(stats: TokenStats) -> list[float | None]:
    """Log-probability of each whole completion, in nats. Otherwise as `likelihood`."""
    return stats.reduce("logprob_BT", lambda logprob_T: logprob_T.sum())
