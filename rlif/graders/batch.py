"""Defines the input of a grader: the completions that one process sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlif.tasks.task import Task
from rlif.types import Problem


@dataclass(frozen=True)
class Batch:
    """B completions of one process.

    Attributes:
        prompts: conversations or texts.
        completions: texts or conversations, as the prompts are.
        texts: the completions as text.
        completion_ids: their tokens, the closing one included.
        answers: what the task extracts; None without an answer.
        task: extracts and grades.
        problems: one per completion, with gold answers; None unless a reward of the recipe needs gold or columns.
        step: optimiser steps so far.
        seed: the run's.
        first: position of the first row among those of all processes.
        engine: further arguments that the engine passes to reward functions.
    """

    prompts: Sequence[Any]
    completions: Sequence[Any]
    texts: Sequence[str]
    completion_ids: Sequence[Sequence[int]]
    answers: Sequence[str | None]
    task: Task | None = None
    problems: Sequence[Problem] | None = None
    step: int = 0
    seed: int = 0
    first: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)
