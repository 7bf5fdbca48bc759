"""Reads gold answers, tells which problems are labelled, hides golds from rewards, puts problems into two stages.

A problem is labelled if it has a gold answer, or tests where the answers of its task are programs.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlif.answers.extraction import last_boxed
from rlif.errors import DataError
from rlif.tasks.task import Task
from rlif.types import Problem


def golds_of(value: Any) -> list[str]:
    """Reads right answers from a cell: one or a list; the last box of a worked solution, or what follows ####.

    None, NaN and empty text are no answers.

    Raises:
        DataError: a mapping, a conversation among them, which no answer equals.
    """
    values = value if isinstance(value, list | tuple) else [value]
    for each in values:
        if isinstance(each, Mapping | list | tuple):
            raise DataError(f"a gold answer is {each!r:.60}; expected text or a number, or a list of them.")
    texts = [str(each) for each in values if each is not None and each == each and str(each).strip()]
    return [last_boxed(text) or text.rpartition("####")[2].strip() for text in texts]


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
