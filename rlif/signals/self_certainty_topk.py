"""Self-certainty from top-k log-probabilities, as an API or vLLM returns them: a lower bound.

With S the tokens whose log-probabilities are known and m = 1 - sum_{j in S} p_j the mass of the V - |S| others,

    SC_i >= -log V - 1/V ( sum_{j in S} log p_ij + (V - |S|) log( m_i / (V - |S|) ) )

The right side takes the unseen tokens to be equally likely. By Jensen's inequality the mean of their log p is at most
the log of their mean p, so this is a lower bound of self-certainty. It gets tighter as S grows, and it holds for any S:
some engines add the sampled token to the top k.

Source: the bound is ours; self-certainty as in `rlif.signals.self_certainty`. Range: 0 and up to the exact value.
Defaults there: none.

Watch: the tail, which top-k leaves out, determines self-certainty. The bound misses how uneven the tail is:
log(mean p) - mean(log p) over the unseen tokens, several nats on real vocabularies. So it ranks completions mainly by
m. Never mix it with exact values. It needs raw log-probabilities: before temperature, top-k and top-p. Float32 cannot
tell m from 0 below 1e-6, so m is at least that here, which loosens the bound.
"""

import math
from collections.abc import Sequence

from rlif.errors import DataError

LEAST_MASS = 1e-6
ROUNDING = 1e-3  # by which probabilities of half-precision engines may add up to more than 1


def approximate_self_certainty(topk_logprobs: Sequence[Sequence[float]], vocab_size: int) -> float | None:
    """Computes a lower bound of one completion's self-certainty, in nats.

    Args:
        topk_logprobs: for each token the known log-probabilities of its distribution, in any order and number.
        vocab_size: V, the rows of the model's output head (`config.vocab_size`).

    Returns:
        The mean over tokens; None without tokens, or where a log-probability is not finite.

    Raises:
        DataError: more log-probabilities than V at a token, or probabilities that add up to more than 1.

    Example:
        >>> approximate_self_certainty([[math.log(0.5), math.log(0.3)]], vocab_size=4)
        0.239...
    """
    values = [_token(logprobs, vocab_size, i) for i, logprobs in enumerate(topk_logprobs)]
    mean = math.fsum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def _token(logprobs: Sequence[float], vocab_size: int, position: int) -> float:
    if not all(map(math.isfinite, logprobs)):
        return math.nan
    unseen = vocab_size - len(logprobs)
    mass = 1 - math.fsum(map(math.exp, logprobs))
    if unseen < 0:
        raise DataError(
            f"token {position} has {len(logprobs)} log-probabilities, more than the {vocab_size} there are."
        )
    if mass < -ROUNDING:
        raise DataError(f"the probabilities of token {position} add up to {1 - mass:.4g}; are these log-probabilities?")
    rest = unseen * math.log(max(mass, LEAST_MASS) / unseen) if unseen else 0.0
    return -math.log(vocab_size) - (math.fsum(logprobs) + rest) / vocab_size
