"""Groups samples by problem, and answers by equality."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from rlif.errors import DataError

Equal = Callable[[str, str], bool]
Sample = TypeVar("Sample", bound=Mapping[str, Any])


def clusters(answers: Sequence[Any], equal: Equal | None = None) -> list[list[int]]:
    """Returns clusters of indices of samples with equal answers, in the order of first appearance.

    Args:
        answers: answers of one problem's samples; None, in no cluster, if a sample has none.
        equal: a task's `equal`, called with an answer and the first answer of a cluster; == if left out.

    Example:
        >>> clusters(["1/2", None, "0.5", "3"], rlif.TASKS["math"].equal)
        [[0, 2], [3]]
    """
    found: list[list[int]] = []
    cluster_of: dict[Any, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer is None:
            continue
        if answer not in cluster_of:
            same = (c for c in found if equal is not None and equal(answer, answers[c[0]]))
            cluster_of[answer] = next(same, [])
            if not cluster_of[answer]:
                found.append(cluster_of[answer])
        cluster_of[answer].append(i)
    return found


def label(answers: Sequence[Any], equal: Equal | None = None) -> list[int | None]:
    """Numbers the answers, equal answers with the same number. None where there is no answer."""
    labels = {i: number for number, members in enumerate(clusters(answers, equal)) for i in members}
    return [labels.get(i) for i in range(len(answers))]


def count_equal(answers: Sequence[Any], equal: Equal | None = None) -> list[int]:
    """Counts for each sample how many give the same answer; 0 where there is no answer."""
    counts = {i: len(members) for members in clusters(answers, equal) for i in members}
    return [counts.get(i, 0) for i in range(len(answers))]


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the percentile of at least one value, interpolated between neighbours as numpy does by default."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def by_problem(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Groups samples by the id of their problem, in the order given."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for number, sample in enumerate(samples, start=1):
        if "id" not in sample:
            raise DataError(f"sample {number} has no id, the name of its problem; it has {', '.join(sample)}.")
        groups[str(sample["id"])].append(sample)
    return dict(groups)
