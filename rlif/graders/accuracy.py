"""Accuracy: 1 for a right answer. The reward of GRPO with verifiable rewards, for comparison.

    r_i = 1 if the task grades completion i as right, else 0

Source: arXiv 2402.03300, 2501.12948. Needs gold. Range: 0 or 1; no answer is wrong; None where a problem
has no gold answer. Defaults there: 2402.03300 64 completions, learning rate 1e-6, KL weight 0.04; the control of
arXiv 2505.19590 as Intuitor, see `rlif.signals.self_certainty`.

Watch: a group that is all right or all wrong gets no advantage, so very hard problems teach nothing.
"""

from rlif.graders.batch import Batch


def accuracy(batch: Batch) -> list[float | None]:
    """Gives 1 for a right answer, 0 for a wrong one or none, by the task's own grading."""
    if batch.task is None or batch.problems is None:
        raise ValueError("accuracy needs a task and its problems")
    marks = batch.task.mark(batch.problems, batch.texts)
    return [None if mark.right is None else float(mark.right) for mark in marks]
