"""What a completion is worth by something other than confidence: gold answers, form, controls, code of your own.

`GRADERS` is the whole list; a new one is one file and one line. A grader takes a `Batch` - the completions that one
process sampled - and gives one number each, larger = better, None where there is none. Those in `NEED_GOLD` compare
with gold answers, which reach the training path only when a recipe names one of them. `FACTORS` holds what multiplies a
reward's advantages, one number for each group.
"""

from __future__ import annotations

from collections.abc import Callable

from rlif.graders.accuracy import accuracy
from rlif.graders.batch import Batch as Batch
from rlif.graders.controls import length, random, shortness
from rlif.graders.form import form
from rlif.graders.seed_grpo import caution
from rlif.types import Group

Grader = Callable[[Batch], list[float | None]]

GRADERS: dict[str, Grader] = {
    "accuracy": accuracy,
    "format": form,
    "seed_grpo": accuracy,
    "random": random,
    "length": length,
    "shortness": shortness,
}

NEED_GOLD = ("accuracy", "seed_grpo")

FACTORS: dict[str, Callable[[Group], float]] = {"seed_grpo": caution}
