"""Likelihood: the probability of the tokens of a completion under the model.

    mean   1/|o| sum_i log p(o_i | q, o_<i)      minus the log of the perplexity
    sum    sum_i log p(o_i | q, o_<i)            the log-probability of the whole completion

Source: sum - EM-RL (sequence), arXiv 2505.15134; mean - a control of arXiv 2505.19590 (appendix), and the baseline of
best-of-N in arXiv 2502.18581. Range: up to 0, unbounded below; the sum falls with length. Defaults there: EM-RL a
leave-one-out baseline, 4 rollouts, learning rate 1e-6, KL weight 0.001.

Watch: it depends on the sampled token, not only on the distribution, so it is the noisiest signal. As a reward the sum
shrinks completions until they are empty. The mean was unstable on 1.5B, gamed by longer text (arXiv 2505.19590,
appendix).
"""

from rlif.types import TokenStats


def likelihood(stats: TokenStats) -> list[float | None]:
    """Computes the mean log-probability of the tokens of each completion, in nats, from `logprob_BT`.

    Example:
        >>> rlif.SIGNALS["likelihood"](rlif.score_completions(model, prompt_ids, completion_ids))
        [-1.77..., -1.77...]
    """
    return stats.reduce("logprob_BT", lambda logprob_T: logprob_T.mean())


def likelihood_sum(stats: TokenStats) -> list[float | None]:
    """Computes the log-probability of each whole completion, in nats."""
    return stats.reduce("logprob_BT", lambda logprob_T: logprob_T.sum())
