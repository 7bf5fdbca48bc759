"""Grades answers that are programs, or parts of one, by running them.

A task gives the trials that an answer must pass. They run in batches: the first trial of every answer, then the next
two of each answer that passed, the next four and so on, so that an answer which fails early costs little. Equal answers
to a problem run once.
"""

import operator
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from rlif.sandbox.runner import Program, run_programs
from rlif.tasks.task import Mark, Task
from rlif.types import Problem

LONGEST = 200_000  # characters of an answer; longer ones count as wrong


@dataclass(frozen=True)
class Trial:
    """A program that must end with status ok and, if `expected` is given, must print that."""

    program: Program
    expected: str | None = None


class CodeTask(Task):
    """A task that grades programs by running them in the sandbox."""

    runs_code = True

    def equal(self, answer: str, gold: str) -> bool:
        """Compares two answers as text, unless the protocol has its own rule."""
        return (self.protocol.equal or operator.eq)(answer, gold)

    @abstractmethod
    def trials(self, problem: Problem, answer: str) -> bool | Sequence[Trial]:
        """Returns the trials that an answer must pass, or a verdict if nothing has to run."""

    def mark(
        self, problems: Sequence[Problem], completions: Sequence[str], *, unsafe_local: bool = False
    ) -> list[Mark]:
        answers = list(map(self.answer, problems, completions))
        return list(map(Mark, answers, self.judge(problems, answers, unsafe_local=unsafe_local)))

    def judge(
        self, problems: Sequence[Problem], answers: Sequence[str | None], *, unsafe_local: bool = False
    ) -> list[bool]:
        """Grades extracted answers, one for each of the problems, which may repeat."""
        keys = [(id(problem), answer) for problem, answer in zip(problems, answers, strict=True)]
        found = {
            (place, answer): self.trials(problem, answer) if answer is not None and len(answer) <= LONGEST else False
            for (place, answer), problem in dict(zip(keys, problems, strict=True)).items()
        }
        trials = {key: some for key, some in found.items() if not isinstance(some, bool)}
        passed = dict(zip(trials, run_trials([*trials.values()], unsafe_local=unsafe_local), strict=True))
        return [passed.get(key, found[key] is True) for key in keys]


def run_trials(trials: Sequence[Sequence[Trial]], *, unsafe_local: bool = False) -> list[bool]:
    """Returns for each list whether all its trials pass; False for a list without trials."""
    passing = [bool(some) for some in trials]
    start, size = 0, 1
    while True:
        batch = [(i, trial) for i, some in enumerate(trials) if passing[i] for trial in some[start : start + size]]
        if not batch:
            return passing
        outcomes = run_programs([trial.program for _, trial in batch], unsafe_local=unsafe_local)
        for (i, trial), outcome in zip(batch, outcomes, strict=True):
            if not outcome.ok or (trial.expected is not None and not same_output(outcome.stdout, trial.expected)):
                passing[i] = False
        start, size = start + size, size * 2


def same_output(printed: str, expected: str) -> bool:
    r"""Compares outputs line by line, as text without space around it or number by number; LiveCodeBench's rule.

    Example:
        >>> same_output("1.50  2 \n", "1.5 2.0")
        True
    """
    lines, golds = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    return len(lines) == len(golds) and all(map(same_line, lines, golds))


def same_line(line: str, gold: str) -> bool:
    """Compares two lines of output, as text or as lists of decimal numbers."""
    if line == gold:
        return True
    try:
        return [Decimal(word) for word in line.split()] == [Decimal(word) for word in gold.split()]
    except InvalidOperation:
        return False
