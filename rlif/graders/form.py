"""Format: 1 where an answer can be extracted. Label-free, and a control for gains in form only.

    r_i = 1 if the task extracts an answer from completion i, else 0

Source: the format rewards of arXiv 2501.12948; as a control, arXiv 2506.10947, where some bases learn from RL mainly
to answer in the graded form. Range: 0 or 1. Defaults there: 2501.12948 adds it to accuracy; 2506.10947 rewards any
boxed expression, and nothing else.

Watch: it is learned in a few steps and then has no spread. An empty answer in the right form gets 1.
"""

from rlif.graders.batch import Batch


def form(batch: Batch) -> list[float | None]:
    """Gives 1 where an answer can be extracted, else 0."""
    return [float(answer is not None) for answer in batch.answers]
