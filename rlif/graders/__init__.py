"""Grades completions by something other than confidence: gold answers, form, controls, code of your own.

A grader takes a `Batch`, the completions that one process sampled, and gives one number each: larger = better, None
where there is none. `GRADERS` lists all of them. Those in `NEED_GOLD` compare with gold answers, which reach the
training path only when a recipe names one of them. `FACTORS` holds what multiplies a reward's advantages, one number
for each group.

Start with batch.py and accuracy.py. external.py calls reward functions written for TRL and reward models. Every other
file is one grader, or a few of a kind.

May import answers, tasks and types. Rewards and engines import this folder.

To add one: one file, one line in `GRADERS`, one test, and one row of docs/signals.md.
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
