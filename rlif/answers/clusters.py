"""Groups samples by problem, and answers by equality."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from rlif.errors import DataError

Equal = Callable[[str, str], bool]
Sample = TypeVar("Sample", bound=Mapping[str, Any])

SECONDS = 12.0  # to compare the answers of one group, as for one comparison
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


def clusters(answers: Sequence[Any], equal: Equal | None = None, seconds: float = SECONDS) -> list[list[int]]:
    """Returns clusters of indices of samples with equal answers, in the order of first appearance.

    Answers that are equal to a third one are in one cluster, so the order of the samples does not matter.

    Args:
        answers: answers of one problem's samples; None, in no cluster, if a sample has none.
        equal: a task's `equal`, called with two answers; == if left out.
        seconds: for all comparisons together that `rlif.answers.equality` gives to a process or that have long answers,
            shortest answers first; answers not compared in time count as different.

    Example:
        >>> clusters(["1/2", None, "0.5", "3"], rlif.TASKS["math"].equal)
        [[0, 2], [3]]
    """
    members: dict[Any, list[int]] = defaultdict(list)
    for i, answer in enumerate(answers):
        if answer is not None:
            members[answer].append(i)
    found: list[list[Any]] = []
    with _time_limit(seconds):
        for answer in members if equal is None else sorted(members, key=lambda answer: (len(str(answer)), str(answer))):
            same = [c for c in found if equal is not None and any(equal(answer, other) for other in c)]
            found = [c for c in found if c not in same] + [[answer, *(other for c in same for other in c)]]
    return sorted(sorted(i for answer in cluster for i in members[answer]) for cluster in found)


def seconds_left() -> float:
    """Returns what is left of the time to compare the answers of one group; infinity outside of `clusters`."""
    return _deadline.get() - time.monotonic()


def charge(seconds: float) -> None:
    """Takes time from the current group, for a comparison that is known to take as long."""
    _deadline.set(_deadline.get() - seconds)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


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


def with_ids(samples: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Gives samples without an id their prompt as id, a conversation as JSON; others stay as they are.

    Raises:
        DataError: only some have an id, or one has neither id nor prompt.

    Example:
        >>> with_ids([{"prompt": "2 + 2?", "answer": "4"}])
        [{'prompt': '2 + 2?', 'answer': '4', 'id': '2 + 2?'}]
    """
    samples = list(samples)
    for number, sample in enumerate(samples, start=1):
        if not isinstance(sample, Mapping):
            raise DataError(f"sample {number} is a {type(sample).__name__}; expected a mapping.")
    lacking = [number for number, sample in enumerate(samples, start=1) if sample.get("id") is None]
    if not lacking:
        return samples
    if len(lacking) < len(samples):
        raise DataError(f"sample {lacking[0]} has no id, and others have; name the problem of each.")
    for number, sample in enumerate(samples, start=1):
        if sample.get("prompt") is None:
            raise DataError(
                f"sample {number} has neither id nor prompt, which name its problem; it has {', '.join(sample)}."
            )
    prompts = [sample["prompt"] for sample in samples]
    ids = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in prompts]
    return [{**sample, "id": name} for sample, name in zip(samples, ids, strict=True)]


def by_problem(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Groups samples by the id of their problem, in the order given."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for number, sample in enumerate(samples, start=1):
        if sample.get("id") is None:
            raise DataError(f"sample {number} has no id, the name of its problem; it has {', '.join(sample)}.")
        groups[str(sample["id"])].append(sample)
    return dict(groups)
