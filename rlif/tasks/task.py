"""Defines a task: it loads problems and grades answers. Training and evaluation use the same object.

Harnesses differ in how they put the same problems: prompt, stop strings, token limit, decoding, extraction, equality.
These are a `Protocol`. A task has one or more, by name; the first is its default. `gsm8k` is `gsm8k.boxed`, and
`gsm8k.lighteval` puts and grades the same problems as that harness does.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from rlif.answers import equality as grading
from rlif.answers.extraction import last_boxed
from rlif.errors import DataError, RecipeError, lookup
from rlif.tasks.rows import check_columns
from rlif.types import Problem


@dataclass(frozen=True)
class Protocol:
    """How problems are put to a model and how its answers are read; reported with every score."""

    prompt: str = "plain"  # name of a template in `rlif.tasks.prompts`
    chat: bool | None = None  # whether to render it by the chat template; None: if the tokenizer has one
    max_tokens: int = 1024  # completion limit
    max_prompt_tokens: int | None = None  # shots are dropped until the prompt fits; None for no limit
    stop: tuple[str, ...] = ()  # strings that end a completion and are not part of it
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # probability mass of nucleus sampling
    n: int = 1  # completions per problem
    extract: Callable[[str], str | None] = last_boxed  # returns the answer that a completion gives, or None
    equal: Callable[[str, str], bool] | None = None  # compares an answer with the gold; None: mathematically
    version: int = 1  # increases when a change above changes the meaning of a score
    source: str = ""  # where the protocol comes from, and where ours differs

    def describe(self) -> dict[str, Any]:
        """Returns every field as plain data; functions by name."""
        equal = "mathematical" if self.equal is None else self.equal.__name__
        return asdict(self) | {"extract": self.extract.__name__, "equal": equal, "stop": list(self.stop)}


@dataclass(frozen=True)
class Mark:
    """The grade of one completion: its answer, and whether that is right (None: no verdict is possible)."""

    answer: str | None
    right: bool | None


class Task(ABC):
    """Loads problems and grades completions.

    A new task is a subclass with `load`, and with `protocols` if an answer is not a boxed expression.
    """

    name: str  # the key in `TASKS`; followed by a dot and the protocol's name if that is not the default
    alias: ClassVar[str] = ""  # how it is named where that is not a name for files
    protocols: ClassVar[Mapping[str, Protocol]] = {"default": Protocol()}  # by name, the default first
    splits: ClassVar[tuple[str, ...]] = ("train", "test")  # names that `load` accepts, the one for evaluation last
    usual: ClassVar[Mapping[str, str]] = {}  # its columns by key, see `rlif.tasks.rows`; empty for a fixed layout
    columns: Mapping[str, str] = {}  # those that the user names instead
    reads_data: bool = False  # whether grading reads `Problem.data`, which only `load` of this task writes
    runs_code: bool = False  # whether grading executes code that a model wrote, and so needs the sandbox

    def __init__(self) -> None:
        self.protocol_name = next(iter(self.protocols))

    @property
    def protocol(self) -> Protocol:
        return self.protocols[self.protocol_name]

    def under(self, protocol: str) -> Self:
        """Returns the same task with another of its protocols, which must exist."""
        lookup(self.protocols, protocol, f"protocol of {type(self).name}")
        task = copy.copy(self)
        task.protocol_name = protocol
        task.name = type(self).name + ("" if protocol == next(iter(self.protocols)) else f".{protocol}")
        return task

    def reading(self, columns: Mapping[str, str]) -> Self:
        """Returns the same task reading its problems from columns of other names."""
        if columns and (not self.usual or self.protocol_name == "zeroeval"):
            raise RecipeError(
                f"task {self.name} has columns of its own, or none; columns is for gsm8k, math, math500 and prompts, so"
                " leave it out."
            )
        check_columns(columns)
        task = copy.copy(self)
        task.columns = dict(columns)
        return task

    @abstractmethod
    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        """Loads the problems of a split, e.g. "train" or "test".

        Args:
            source: a data set of the hub or a local file or folder; None for the task's default source.
            limit: at most this many problems; None for all.
            seed: used if problems are generated.

        Raises:
            DataError: the data cannot be read, is empty or lacks a column.
        """

    def extract(self, completion: str) -> str | None:
        """Returns the answer that a completion gives, or None."""
        return self.protocol.extract(completion)

    def answer(self, problem: Problem, completion: str) -> str | None:
        """Returns the answer that a completion gives to this problem, or None."""
        return self.extract(completion)

    def equal(self, answer: str, gold: str) -> bool:
        """Compares an answer with a gold answer, or with another answer."""
        return (self.protocol.equal or grading.equal)(answer, gold)

    def compare_ahead(self, groups: Sequence[Sequence[str | None]]) -> None:
        """Compares the answers of each problem's samples on all cores, if `equal` is slow and caches its results."""
        if self.protocol.equal is None and type(self).equal is Task.equal:
            grading.compare_ahead(groups)

    def mark(
        self, problems: Sequence[Problem], completions: Sequence[str], *, unsafe_local: bool = False
    ) -> list[Mark]:
        """Grades completions, one for each of the problems, which may repeat; `unsafe_local` needs no sandbox."""
        answers = list(map(self.answer, problems, completions))
        places = [(i, gold) for i, answer in enumerate(answers) if answer is not None for gold in problems[i].golds]
        pairs = [(answers[i] or "", gold) for i, gold in places]
        equal = self.protocol.equal
        verdicts = grading.equal_all(pairs) if equal is None else [equal(answer, gold) for answer, gold in pairs]
        right = {i for (i, _), verdict in zip(places, verdicts, strict=True) if verdict}
        return [
            Mark(answer, None if problem.gold is None else i in right)
            for i, (answer, problem) in enumerate(zip(answers, problems, strict=True))
        ]

    def grade(self, problem: Problem, completion: str) -> bool | None:
        """Grades one completion; returns None if the problem has no gold answer."""
        return self.mark([problem], [completion])[0].right

    def gold_completion(self, problem: Problem) -> str | None:
        """Returns a completion with the gold answer, which `--check-gold` grades; None if there is no gold answer."""
        return None if problem.gold is None else f"The answer is \\boxed{{{problem.gold}}}."


def by_id(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Returns problems by id; refuses two of the same id."""
    found: dict[str, Problem] = {}
    for problem in problems:
        if found.setdefault(problem.id, problem) is not problem:
            raise DataError(f"two problems have the id {problem.id!r}; rename one, or leave the repeated row out.")
    return found
