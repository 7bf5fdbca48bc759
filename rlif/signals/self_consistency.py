"""Self-consistency: the share of the group that gives the same answer.

    r_i = |C(a_i)| / G

Source: EMPO, arXiv 2504.05812, whose reward it is on mathematics (clusters by equality of answers); the soft reward of
SRT, arXiv 2505.21444. Range: 1/G to 1, and 0 without an answer. Defaults there: EMPO 7 completions, learning rate 1e-6,
KL weight 0; SRT 32 completions, leave-one-out baseline.

No answer: 0, as in EMPO, and it still counts in G; in a group without any answer all are None. EMPO gives 0 to groups
in which all answers differ; here these tie at 1/G, which is the same advantage.

Watch: as for plurality_vote. SRT reports sudden, complete collapse in long training: one answer to everything.
"""

from rlif.answers.clusters import count_equal
from rlif.types import Group


def self_consistency(group: Group) -> list[float | None]:
    """Computes for each completion the share of its group with the same answer; None without any answer.

    Example:
        >>> self_consistency(Group("?", ["", "", "", ""], ["4", "5", "5", None]))
        [0.25, 0.5, 0.5, 0.0]
    """
    counts = count_equal(group.answers, group.equal)
    return [count / len(counts) if any(counts) else None for count in counts]
