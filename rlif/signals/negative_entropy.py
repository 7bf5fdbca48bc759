"""Negative entropy: how little probability each distribution spreads over tokens.

    mean   -1/|o| sum_i H_i,  H_i = -sum_j p_ij log p_ij
    sum    -sum_i H_i

Source: mean - RENT, arXiv 2505.22660; sum - EM-RL (token), arXiv 2505.15134; the control of arXiv 2505.19590, whose
printed formula lacks the minus. Range: -log V (uniform) to 0 (certain) per token; the sum also falls with length.
Defaults there: RENT group-normalised, 5 rollouts, learning rate 1e-6, KL weight 0.001; EM-RL a leave-one-out baseline,
4 rollouts, the same rate and KL weight.

Watch: it measures the head of the distribution, and self-certainty the tail. As a reward it ended in one repeated
character on 1.5B (arXiv 2505.19590, appendix); the sum rewards stopping early.
"""

from rlif.types import TokenStats


def negative_entropy(stats: TokenStats) -> list[float | None]:
    """Computes minus the mean entropy over the tokens of each completion, in nats, from `entropy_BT`.

    Example:
        >>> rlif.SIGNALS["negative_entropy"](rlif.score_completions(model, prompt_ids, completion_ids))
        [-0.28..., -0.28...]
    """
    return stats.reduce("entropy_BT", lambda entropy_T: -entropy_T.mean())


def negative_entropy_sum(stats: TokenStats) -> list[float | None]:
    """Computes minus the sum of the entropies of each completion's tokens, in nats."""
    return stats.reduce("entropy_BT", lambda entropy_T: -entropy_T.sum())
