"""Defines the input of a grader: the completions that one process sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlif.tasks.task import Task
from rlif.types import Problem


@dataclass(frozen=True)
class Batch:
    """B completions of one process."""

    prompts: Sequence[Any]  # conversations or texts
    completions: Sequence[Any]  # texts or conversations, as the prompts are
    texts: Sequence[str]  # the completions as text
    completion_ids: Sequence[Sequence[int]]  # their tokens, the closing one included
    answers: Sequence[str | None]  # what the task extracts; None without an answer
    task: Task | None = None  # extracts and grades
    problems: Sequence[Problem] | None = None  # one per completion; None unless a reward needs gold or columns
    step: int = 0  # optimiser steps so far
    seed: int = 0  # the run's
    first: int = 0  # position of the first row among those of all processes
    engine: Mapping[str, Any] = field(default_factory=dict)  # more arguments that the engine gives reward functions
