"""Grades completions by something other than confidence: gold answers, form, controls, your own code.

A grader takes a `Batch`, the completions of one process, and gives one number each: larger = better, None where it
cannot grade. `GRADERS` lists all of them. Those in `NEED_GOLD` compare with gold answers, which reach the training path
only if a recipe names such a grader. `FACTORS` holds functions that scale a reward's advantages by group.

Start with batch.py and accuracy.py. external.py calls reward functions written for TRL and reward models. Every other
file is one grader, or a few of a kind.

May import answers, tasks, files, errors and types. Rewards and engines import this folder. To add one: one file,
one line in `GRADERS`, one test, and one row of docs/signals.md.
"""

from collections.abc import Callable

from rlif.files import own
from rlif.graders.accuracy import accuracy
from rlif.graders.batch import Batch as Batch
from rlif.graders.controls import length, random, shortness
from rlif.graders.form import form
from rlif.graders.seed_grpo import agreement_factor
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
GRADERS.update({name: own.reading("Batch", name, grader) for name, grader in GRADERS.items()})

NEED_GOLD = ("accuracy", "seed_grpo")

FACTORS: dict[str, Callable[[Group], float]] = {"seed_grpo": agreement_factor}
