"""Tells which problems are labelled, hides gold answers from rewards, and puts problems into two stages.

A problem is labelled if it has a gold answer, or tests where the answers of its task are programs.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from rlif.tasks.task import Task
from rlif.types import Problem


def is_labelled(task: Task | None, problem: Problem) -> bool:
    """Tells whether completions of a problem can be graded."""
    return problem.gold is not None or (task is not None and task.runs_code)


def hide_labels(problems: Sequence[Problem], labels: int | None, seed: int) -> list[Problem]:
    """Returns problems of which at most `labels` have a gold answer; the others lose solution and columns, too.

    Example:
        >>> problems = rlif.TASKS["clock"].load("train", limit=8)
        >>> sum(problem.gold is not None for problem in hide_labels(problems, 2, seed=0))
        2
    """
    known = [i for i, problem in enumerate(problems) if problem.gold is not None]
    if labels is None or len(known) <= labels:
        return list(problems)
    kept = {*random.Random(seed).sample(known, labels)}
    bare = {"gold": None, "other_golds": (), "solution": None, "row": {}}
    return [problem if i in kept else replace(problem, **bare) for i, problem in enumerate(problems)]


def in_stages(labelled: Sequence[bool], first: bool, seed: int) -> list[int]:
    """Returns the places of problems in two stages, each shuffled by the seed.

    Args:
        labelled: whether each problem is.
        first: whether the labelled ones come first.
    """
    places = list(range(len(labelled)))
    random.Random(seed).shuffle(places)
    return sorted(places, key=lambda i: labelled[i] != first)
