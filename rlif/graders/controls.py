"""Controls: rewards that know nothing. Whatever they teach, the method did not.

    random      r_i = 0 or 1, by a coin
    length      r_i = |o_i|            tokens, the closing one included
    shortness   r_i = -|o_i|

Source: spurious rewards, arXiv 2506.10947 (random rewards raise Qwen2.5-Math on MATH-500); a random 0/1 reward destroys
Qwen2.5-3B in the setting of arXiv 2505.19590 v3. Confidence can be had by length alone, in both directions, hence the
other two, which are ours. Range: the coin 0 or 1, the lengths from 1 up and from -1 down. Defaults there: 1 with
probability 1/2. The coin depends on the seed, the step, the row and the tokens: a resumed run tosses the same ones, and
the number of processes does not matter.

Watch: a gain under one of them is the setting's - the prompt, the clipping, a base that needed little - and so is as
much of the gain under any other reward. The lengths have no bound but the limit of tokens, and are followed up to it.
"""

from __future__ import annotations

from random import Random

from rlif.graders.batch import Batch


def random(batch: Batch) -> list[float | None]:
    """0 or 1, equally often."""
    return [
        float(Random(f"{batch.seed}/{batch.step}/{batch.first + i}/{list(ids)}").random() < 0.5)
        for i, ids in enumerate(batch.completion_ids)
    ]


def length(batch: Batch) -> list[float | None]:
    """Tokens of each completion."""
    return [float(len(ids)) for ids in batch.completion_ids]


def shortness(batch: Batch) -> list[float | None]:
    """Minus the tokens of each completion."""
    return [-float(len(ids)) for ids in batch.completion_ids]
