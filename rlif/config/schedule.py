"""Gives the weight of a reward at each step.

    1.0                                  always
    {linear: [[0, 1.0], [50, 0.0]]}      straight lines through the points, constant before the first and after the last
    {stages: [[0, 1.0], [30, 0.0]]}      each value from its step on
    {cycle: [[20, 1.0], [20, 0.0]]}      each value for so many steps, one after the other, over and over

An entry of a recipe's `reward` may also say which rows are rewarded, {weight: 1.0, rows: labelled}, see `read_rows`.

The step is the number of optimiser steps taken when the completions were sampled: 0 for the first rollout. A weight of
0 only watches: the reward is computed and logged, but does not enter the advantages.

Why schedules: arXiv 2505.19590 v3 (B.7) reports that confidence first and gold afterwards helps where half of each,
mixed from the start, hurts.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rlif.errors import nearest
from rlif.files.atomic import is_number

FORMS = ("linear", "stages", "cycle")
LONGEST = 100_000  # steps in which a gap of cycles is looked for
ENTRY = ("weight", "rows")
Rows = Literal["all", "labelled", "unlabelled"]


@dataclass(frozen=True)
class Weight:
    """A weight as a function of the step.

    Example:
        >>> Weight(((0, 1.0), (50, 0.0)), "linear").at(25)
        0.5
    """

    points: tuple[tuple[float, float], ...]  # (step, value), steps increasing; one point for a constant
    form: Literal["constant", "linear", "stages", "cycle"] = "constant"  # how to get from one point to the next
    period: int = 0  # cycle: the steps after which it begins again

    @property
    def scheduled(self) -> bool:
        return self.form != "constant"

    @property
    def ever(self) -> bool:
        """Whether it differs from 0 at any step."""
        return any(value for _, value in self.points)

    def at(self, step: int) -> float:
        """Gives the weight of a rollout sampled after `step` optimiser steps."""
        step = step % self.period if self.period else step
        after = bisect.bisect_right([start for start, _ in self.points], step)
        if after == 0:
            return self.points[0][1]
        start, value = self.points[after - 1]
        if self.form != "linear" or after == len(self.points):
            return value
        end, target = self.points[after]
        return value + (target - value) * (step - start) / (end - start)


def first_gap(weights: Sequence[Weight]) -> int | None:
    """Finds the first step from which all weights are 0 for two steps or more; None if there is none.

    A single step where schedules meet does not count. Weights are linear between points, so a gap begins at the first
    step of a piece or at the next one.
    """
    starts = {0, *(math.ceil(start) for weight in weights for start, _ in weight.points)}
    cycles = [weight for weight in weights if weight.period]
    if cycles:  # what comes after all points of the others, and one round of all cycles, has been before
        end = min(max(starts) + math.lcm(*(weight.period for weight in cycles)), LONGEST)
        starts |= {round_ + int(at) for c in cycles for round_ in range(0, end + 1, c.period) for at, _ in c.points}
    steps = sorted(starts | {start + 1 for start in starts})
    empty = (not any(weight.at(step) or weight.at(step + 1) for weight in weights) for step in steps)
    return next((step for step, nothing in zip(steps, empty, strict=True) if nothing), None)


ALWAYS = Weight(((0, 1.0),))


def read_weight(name: str, value: Any) -> Weight:
    """Reads a weight that a recipe gives as a number or a schedule.

    Args:
        value: a number, {linear: points} or {stages: points}, points as [[step, weight], ...], or {cycle: parts}, parts
            as [[steps, weight], ...]; or such a value as the `weight` of an entry, which is 1 if left out.

    Raises:
        ValueError: it is neither.
    """
    if _is_entry(value):
        value = value.get("weight", 1.0)
    if is_number(value):
        return Weight(((0, float(value)),))
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in FORMS:
        raise ValueError(
            f"the weight of reward {name} is {value!r}; give a number, or a schedule over steps such as"
            " {linear: [[0, 1.0], [50, 0.0]]}, {stages: [[0, 1.0], [30, 0.0]]} or {cycle: [[20, 1.0], [20, 0.0]]}, or"
            " {weight: 1.0, rows: labelled}"
        )
    ((form, points),) = value.items()
    if not isinstance(points, list | tuple) or not points or not all(map(_is_point, points)):
        part = "parts [steps, weight]" if form == "cycle" else "points [step, weight]"
        raise ValueError(f"the {form} weight of reward {name} needs {part}, found {points!r}")
    if form == "cycle":
        return _cycle(name, points)
    steps = [step for step, _ in points]
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise ValueError(f"the steps of the {form} weight of reward {name} must increase, found {steps}")
    if form == "stages" and steps[0] != 0:
        raise ValueError(f"the stages of reward {name} begin at step {steps[0]}; say what it weighs from step 0 on")
    return Weight(tuple((step, float(weight)) for step, weight in points), form)


def _cycle(name: str, parts: Sequence[Sequence[Any]]) -> Weight:
    lengths = [length for length, _ in parts]
    if any(length != int(length) or length < 1 for length in lengths):
        raise ValueError(f"the parts of the cycle of reward {name} last {lengths} steps; give whole numbers from 1")
    starts = itertools.accumulate(lengths, initial=0)
    points = tuple((start, float(weight)) for start, (_, weight) in zip(starts, parts, strict=False))
    return Weight(points, "cycle", int(sum(lengths)))


def _is_point(point: Any) -> bool:
    return isinstance(point, list | tuple) and len(point) == 2 and all(map(is_number, point)) and point[0] >= 0


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {*ENTRY})


def read_rows(name: str, value: Any) -> Rows:
    """Reads which rows an entry of a recipe's `reward` is for: all, or those with or without a gold answer.

    Args:
        value: a weight, for all rows, or {weight: ..., rows: all, labelled or unlabelled}.

    Raises:
        ValueError: it names other rows, or another key.
    """
    if not _is_entry(value):
        return "all"
    if unknown := [key for key in value if key not in ENTRY]:
        raise ValueError(f"the entry of reward {name} has no {unknown[0]!r}; {nearest(str(unknown[0]), ENTRY)}")
    rows = value.get("rows", "all")
    if rows not in get_args(Rows):
        raise ValueError(f"rows of reward {name} is {rows!r}; it must be {', '.join(get_args(Rows))}")
    return rows
