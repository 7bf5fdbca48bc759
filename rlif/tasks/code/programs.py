"""Grades answers that are programs, or parts of one, by running them.

A task gives the trials that an answer must pass. All trials of a call go to the sandbox in batches: the first of
every answer, then, for the answers that passed, the next two, the next four and so on, so that an answer which fails
early costs little. Equal answers to a problem are tried once.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from rlif.sandbox.runner import Program, run_programs
from rlif.tasks.task import Mark, Task
from rlif.types import Problem

LONGEST = 200_000  # characters of an answer; longer ones are no programs


@dataclass(frozen=True)
class Trial:
    """A program that must end well and, where `expected` is given, must have printed that."""

    program: Program
    expected: str | None = None


class CodeTask(Task):
    """A task whose grading executes what a model wrote, in the sandbox."""

    runs_code = True

    def equal(self, answer: str, gold: str) -> bool:
        """Whether two answers are the same: the same text, unless the protocol says otherwise. No mathematics."""
        return (self.protocol.equal or operator.eq)(answer, gold)

    @abstractmethod
    def trials(self, problem: Problem, answer: str) -> bool | Sequence[Trial]:
        """Gives the trials that an answer must pass, or a verdict where it can be had without running anything."""

    def mark(
        self, problems: Sequence[Problem], completions: Sequence[str], *, unsafe_local: bool = False
    ) -> list[Mark]:
        answers = [self.extract(completion) for completion in completions]
        return list(map(Mark, answers, self.judge(problems, answers, unsafe_local=unsafe_local)))

    def judge(
        self, problems: Sequence[Problem], answers: Sequence[str | None], *, unsafe_local: bool = False
    ) -> list[bool]:
        """Whether answers that are extracted already are right, one for each of the problems, which may repeat."""
        keys = [(id(problem), answer) for problem, answer in zip(problems, answers, strict=True)]
        verdicts: dict[tuple[int, str | None], bool] = {}
        trials: dict[tuple[int, str | None], Sequence[Trial]] = {}
        for problem, key in zip(problems, keys, strict=True):
            if key not in verdicts and key not in trials:
                answer = key[1]
                found = self.trials(problem, answer) if answer is not None and len(answer) <= LONGEST else False
                if isinstance(found, bool):
                    verdicts[key] = found
                else:
                    trials[key] = found
        stood = run_trials(list(trials.values()), unsafe_local=unsafe_local)
        verdicts |= dict(zip(trials, stood, strict=True))
        return [verdicts[key] for key in keys]


def run_trials(trials: Sequence[Sequence[Trial]], *, unsafe_local: bool = False) -> list[bool]:
    """Whether all trials of a list pass, for each of the lists; False for a list without trials."""
    standing = [bool(some) for some in trials]
    start, size = 0, 1
    while True:
        wave = [(i, trial) for i, some in enumerate(trials) if standing[i] for trial in some[start : start + size]]
        if not wave:
            return standing
        outcomes = run_programs([trial.program for _, trial in wave], unsafe_local=unsafe_local)
        for (i, trial), outcome in zip(wave, outcomes, strict=True):
            if not outcome.ok or (trial.expected is not None and not same_output(outcome.stdout, trial.expected)):
                standing[i] = False
        start, size = start + size, size * 2


def same_output(printed: str, expected: str) -> bool:
    r"""LiveCodeBench's rule: the same number of lines, each equal but for space around it, or equal number by number.

    Example:
        >>> same_output("1.50  2 \n", "1.5 2.0")
        True
    """
    lines, golds = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    return len(lines) == len(golds) and all(map(same_line, lines, golds))


def same_line(line: str, gold: str) -> bool:
    """Equality of two lines of output, as text or as lists of decimal numbers."""
    if line == gold:
        return True
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(word) for word in gold.split()]
    except InvalidOperation:
        return False
