"""SEED-GRPO: gold rewards, with smaller steps on problems where the group's answers differ.

    A_i = (r_i - mean r) f(SE / SE_max),  f(x) = 1 - x
    SE = -1/K sum_k log p(C_k),  p(C_k) = |C_k| / G over the K different answers,  SE_max = log G

Source: arXiv 2505.12346. r is `accuracy`, and needs gold. The factor multiplies the normalised reward: with
normalisation none the advantage is the formula above, with group_std it is the usual one times f.

Ours differs: the paper weighs clusters by the probability of their sequences. It has a factor alpha inside f, whose
value we have not found (here 1), and three forms of f, of which this is the linear one. Here a completion without an
answer is a cluster of its own.

Range: 0 to 1 for the factor, 0 or 1 for the reward. Defaults there: otherwise GRPO's, as far as we have found.

Watch: a group in which all answers differ has factor 0 and teaches nothing, even where one of them is right.
"""

import math

from rlif.answers.clusters import clusters
from rlif.types import Group


def agreement_factor(group: Group) -> float:
    """Computes f(SE / SE_max): 1 where all answers are equal, 0 where all differ.

    Example:
        >>> agreement_factor(Group("?", [""] * 4, ["4"] * 4)), agreement_factor(Group("?", [""] * 2, ["1", None]))
        (1.0, 0.0)
    """
    size = len(group.answers)
    if size < 2:
        return 1.0
    counts = [len(members) for members in clusters(group.answers, group.equal)]
    counts += [1] * group.answers.count(None)
    entropy = -math.fsum(math.log(count / size) for count in counts) / len(counts)
    return max(0.0, 1.0 - entropy / math.log(size))
