"""A task: where problems come from and when an answer is right. Training and evaluation use the same object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rlif import grading
from rlif.types import Problem


class Task(ABC):
    """Problems, and how to grade a completion of one.

    A new task is a subclass with `load` and, where an answer is not a boxed expression, `extract` and `equal`.

    Attributes:
        name: the key in `TASKS`.
        prompt: name of the prompt template used unless a recipe says otherwise (see `rlif.prompts`).
        max_tokens: completion limit at evaluation.
    """

    name: ClassVar[str]
    prompt: ClassVar[str] = "plain"
    max_tokens: ClassVar[int] = 1024

    @abstractmethod
    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        """The problems of a split ("train" or "test").

        Args:
            source: a data set of the hub or a local file or folder; None for the task's own home.
            limit: at most this many problems; None for all.
            seed: used where problems are made, not read.

        Raises:
            RlifError: the data cannot be read, is empty or lacks a column.
        """

    def extract(self, completion: str) -> str | None:
        """The answer a completion gives: the content of its last box. None if it gives none."""
        return grading.last_boxed(completion)

    def equal(self, answer: str, gold: str) -> bool:
        """Whether two answers are the same."""
        return grading.equal(answer, gold)

    def grade(self, problem: Problem, completion: str) -> bool | None:
        """Whether the completion is right; None where the problem has no gold answer."""
        if problem.gold is None:
            return None
        answer = self.extract(completion)
        return answer is not None and self.equal(answer, problem.gold)
