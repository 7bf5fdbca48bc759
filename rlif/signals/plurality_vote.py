"""Plurality vote: did this completion come to the answer that most of its group came to?

    r_i = 1 if n(a_i) = max_a n(a), else 0,   n(a) = completions of the group that answer a

Source: GRPO-PV, the label-free baseline of arXiv 2505.19590, and TTRL, arXiv 2504.16084. Range: 0 or 1. Plurality, not
majority: the most frequent answer counts however rare. Defaults there: TTRL 64 votes of which 32 are trained on,
learning rate 5e-7, temperature 1.0; GRPO-PV as Intuitor, see `rlif.signals.self_certainty`.

No answer: a completion without one votes for nothing and gets 0; where nobody has one, all are None. Ties: every answer
that is as frequent as any gets 1 (TTRL's code takes the first that was sampled), so that the order of a group does not
matter; a group of answers all different has no advantage among those who answered. More votes than trained samples:
`rewarded_per_group` in a recipe; the rest vote, get no advantage, and still cost their part of the update.

Watch: it needs answers that can be compared. A group that agrees teaches nothing, but one that does not goes on
being pushed, so accuracy drifts (docs/log.md); a wrong answer that is the most frequent becomes unanimous, and pass@k
falls.
"""

from __future__ import annotations

from rlif.answers.clusters import clusters
from rlif.types import Group


def plurality_vote(group: Group) -> list[float | None]:
    """1 for completions that give the group's most frequent answer, 0 for the others.

    Returns:
        G numbers; all None where nobody in the group answers.

    Example:
        >>> plurality_vote(Group("?", ["", "", "", ""], ["4", "5", "5", None]))
        [0.0, 1.0, 1.0, 0.0]
    """
    found = clusters(group.answers, group.equal)
    if not found:
        return [None] * len(group.answers)
    most = max(map(len, found))
    winners = {i for members in found if len(members) == most for i in members}
    return [float(i in winners) for i in range(len(group.answers))]
