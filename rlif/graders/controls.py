"""Controls: rewards without information about the answer. A method must beat them.

    random      r_i = 0 or 1, by a coin
    length      r_i = |o_i|            tokens, the closing one included
    shortness   r_i = -|o_i|

Source: spurious rewards, arXiv 2506.10947 (random rewards raise Qwen2.5-Math on MATH-500); a random 0/1 reward destroys
Qwen2.5-3B in the setting of arXiv 2505.19590 v3. Length alone can raise confidence, in both directions, hence the other
two, which are ours. Range: the coin 0 or 1, the lengths from 1 up and from -1 down. Defaults there: 1 with probability
1/2. The coin depends on the seed, the step, the row and the tokens. So a resumed run tosses the same coins, on any
number of processes.

Watch: a gain under a control comes from the setting (the prompt, the clipping, a base that needed little), and as much
of the gain under any other reward does, too. Only the limit of tokens bounds the lengths, and policies reach it.
"""

from random import Random

from rlif.graders.batch import Batch


def random(batch: Batch) -> list[float | None]:
    """Tosses a coin: 0 or 1, equally often."""
    return [
        float(Random(f"{batch.seed}/{batch.step}/{batch.first + i}/{list(ids)}").random() < 0.5)
        for i, ids in enumerate(batch.completion_ids)
    ]


def length(batch: Batch) -> list[float | None]:
    """Counts the tokens of each completion."""
    return [float(len(ids)) for ids in batch.completion_ids]


def shortness(batch: Batch) -> list[float | None]:
    """Counts the tokens of each completion, negatively."""
    return [-float(len(ids)) for ids in batch.completion_ids]
