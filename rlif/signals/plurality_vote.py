"""Plurality vote: 1 for completions that give the most frequent answer of their group.

    r_i = 1 if n(a_i) = max_a n(a), else 0,   n(a) = completions of the group that answer a

Source: GRPO-PV, the label-free baseline of arXiv 2505.19590, and TTRL, arXiv 2504.16084. Range: 0 or 1. Plurality, not
majority: the most frequent answer counts however rare. Defaults there: TTRL 64 votes of which 32 are trained on,
learning rate 5e-7, temperature 1.0; GRPO-PV as Intuitor, see `rlif.signals.self_certainty`.

No answer: a completion without one casts no vote and gets 0; in a group without any answer all are None. Ties: all
most frequent answers get 1 (TTRL's code takes the first that was sampled), so that the order of a group does not
matter. Where all answers differ, the completions with one have no advantage over each other. More votes than trained
samples: `rewarded_per_group` in a recipe; the others vote, get no advantage, and still cost their part of the update.

Watch: it needs answers that can be compared. A unanimous group teaches nothing, and every other group is still pushed,
so accuracy drifts (docs/log.md). A wrong answer that is the most frequent becomes unanimous, and pass@k falls.
"""

from rlif.answers.clusters import count_equal
from rlif.types import Group


def plurality_vote(group: Group) -> list[float | None]:
    """Gives 1 to completions with the group's most frequent answer, 0 to the others; None without any answer.

    Example:
        >>> plurality_vote(Group("?", ["", "", "", ""], ["4", "5", "5", None]))
        [0.0, 1.0, 1.0, 0.0]
    """
    counts = count_equal(group.answers, group.equal)
    most = max(counts, default=0)
    return [float(count == most) if most else None for count in counts]
