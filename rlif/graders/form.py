"""Format: can an answer be extracted at all? Label-free, and a control for gains that are form and not substance.

    r_i = 1 if the task extracts an answer from completion i, else 0

Source: the format rewards of arXiv 2501.12948; as a control, arXiv 2506.10947, where much of what RL teaches some bases
is to answer in the form that is graded. Range: 0 or 1. Defaults there: 2501.12948 adds it to accuracy; 2506.10947
rewards any boxed expression, and nothing else.

Watch: it is learned in a few steps and then has no spread; an empty answer in the right form is as good as any.
"""

from __future__ import annotations

from rlif.graders.batch import Batch


def form(batch: Batch) -> list[float | None]:
    """1 where an answer can be extracted, 0 where not."""
    return [float(answer is not None) for answer in batch.answers]
