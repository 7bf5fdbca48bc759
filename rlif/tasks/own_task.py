"""Makes tasks of classes of one's own, and checks what they load.

A task is a class over `rlif.tasks.Task`, with `load`, exactly as those of this folder. An error that it raises, and a
value that is not a problem, are reported in one sentence.
"""

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rlif.errors import DataError, RecipeError
from rlif.files import own
from rlif.files.atomic import is_count
from rlif.tasks.task import Mark, Protocol, Task
from rlif.types import Problem

FILE_NAME = re.compile(r"[^\W_][\w-]*")


def own_task(name: str, taken: Collection[str]) -> Task:
    """Makes the task of a class of one's own, or takes an instance of one.

    Args:
        name: as in `rlif.files.own`.
        taken: names of tasks that ship.
    """
    found = own.load(name, "task")
    kind = found if isinstance(found, type) else type(found)
    if not issubclass(kind, Task):
        what = f"the class {kind.__name__}" if isinstance(found, type) else f"a {kind.__name__}"
        raise RecipeError(f"the task {name} is {what}; a task is a class over rlif.tasks.Task, with `load`.")
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise RecipeError(f"the task {name} has no {' and no '.join(missing)}; define it as rlif.tasks.Task says.")
    title = getattr(kind, "name", kind.__name__)
    if title in taken:
        raise RecipeError(f"the task {name} has the name {title!r}, which ships; give it another `name`.")
    if not isinstance(title, str) or not FILE_NAME.fullmatch(title):
        raise RecipeError(f"the task {name} has the name {title!r}; use letters, digits, _ and -, for files.")
    _check_protocols(name, kind.protocols)
    with own.calling(f"task {name}", RecipeError):
        task = found() if isinstance(found, type) else copy.copy(found)
    if not hasattr(task, "protocol_name"):
        raise RecipeError(f"the task {name} does not call `super().__init__()` in its `__init__`; do that first.")
    task.__class__ = type(kind.__name__, (_Checked, kind), {"name": title, "__module__": kind.__module__})
    return task


def _check_protocols(name: str, protocols: Any) -> None:
    """Refuses protocols of another shape, and limits that no model can keep."""
    if not isinstance(protocols, Mapping) or not protocols:
        raise RecipeError(f"the task {name} has protocols {protocols!r:.40}; expected {{'default': Protocol(...)}}.")
    for key, protocol in protocols.items():
        if not isinstance(protocol, Protocol):
            raise RecipeError(
                f"the protocol {key!r} of the task {name} is a {type(protocol).__name__}, not a Protocol."
            )
        for field in ("max_tokens", "n"):
            value = getattr(protocol, field)
            if not is_count(value) or value < 1:
                raise RecipeError(
                    f"{field} of the protocol {key!r} of the task {name} is {value!r}; expected a number from 1."
                )


class _Checked(Task):
    """Checks what a task of one's own returns, and turns what it raises into one sentence."""

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        with own.calling(f"task {self.name}", DataError):
            problems: Any = super().load(split, source=source, limit=limit, seed=seed)
        problems = list(problems) if isinstance(problems, Sequence) else problems
        if not isinstance(problems, list) or not problems:
            found = "no problem" if isinstance(problems, list) else f"a {type(problems).__name__}"
            raise DataError(
                f"the task {self.name} loads {found} for the split {split!r}; it must return a list of them."
            )
        for number, problem in enumerate(problems, 1):
            self._check(problem, f"problem {number} of the task {self.name}")
        if limit is not None and len(problems) > limit:
            raise DataError(
                f"the task {self.name} loads {len(problems)} problems where `limit` is {limit}; cut the list."
            )
        return problems

    def _check(self, problem: Any, which: str) -> None:
        if not isinstance(problem, Problem):
            raise DataError(f"{which} is a {type(problem).__name__}; expected a rlif.types.Problem.")
        for field in ("id", "text", "gold", "solution"):
            value = getattr(problem, field)
            if not (isinstance(value, str) or (value is None and field in ("gold", "solution"))):
                raise DataError(f"the {field} of {which} is {value!r:.40}; expected text, as {str(value)!r:.40}.")
            if field in ("text", "gold") and value is not None and not value.strip():
                raise DataError(
                    f"the {field} of {which} is empty; {'leave the problem out' if field == 'text' else 'use None'}."
                )
        others: Any = problem.other_golds
        if not isinstance(others, Sequence) or isinstance(others, str) or not all(isinstance(o, str) for o in others):
            raise DataError(f"other_golds of {which} is {others!r:.40}; expected a tuple of texts.")

    def extract(self, completion: str) -> str | None:
        with own.calling(f"task {self.name}", DataError):
            answer: Any = super().extract(completion)
        if not (answer is None or isinstance(answer, str)):
            raise DataError(f"the task {self.name} extracts {answer!r:.40} from a completion; expected text, or None.")
        return answer

    def answer(self, problem: Problem, completion: str) -> str | None:
        with own.calling(f"task {self.name}", DataError):
            return super().answer(problem, completion)

    def mark(
        self, problems: Sequence[Problem], completions: Sequence[str], *, unsafe_local: bool = False
    ) -> list[Mark]:
        with own.calling(f"task {self.name}", DataError):
            return super().mark(problems, completions, unsafe_local=unsafe_local)
