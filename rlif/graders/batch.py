"""What a grader sees: the completions that one process sampled, side by side."""

from __future__ import annotations

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
        completions: the same, as the engine holds them.
        texts: the completions as text.
        completion_ids: their tokens, the closing one included.
        answers: what the task extracts, None where there is nothing to extract.
        task: extracts and grades.
        problems: where the completions come from, gold answers and all; None unless the recipe asks for gold.
        step: optimiser steps taken so far.
        seed: of the run.
        first: position of the first row among those of all processes.
        engine: what else the engine gives to a reward function.
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
