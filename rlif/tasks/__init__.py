"""Where problems come from. `TASKS` is the whole list; a new task is one class and one line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlif.errors import RlifError, lookup, nearest
from rlif.tasks.alpaca_eval import AlpacaEval
from rlif.tasks.code.code_contests import CodeContests
from rlif.tasks.code.humaneval import HumanEval
from rlif.tasks.code.livecodebench import LiveCodeBench
from rlif.tasks.code.mbpp import Mbpp
from rlif.tasks.cruxeval import CruxEval
from rlif.tasks.mathematics import Gsm8k, Math, Math500
from rlif.tasks.miniature import Clock, Cups
from rlif.tasks.mmlu_pro import MmluPro
from rlif.tasks.prompts_file import PromptsFile
from rlif.tasks.task import Mark, Protocol, Task

__all__ = ["TASKS", "Mark", "Protocol", "Task", "find_task"]

TASKS: dict[str, Task] = {
    "alpaca_eval": AlpacaEval(),
    "clock": Clock(),
    "code_contests": CodeContests(),
    "cruxeval": CruxEval(),
    "cups": Cups(),
    "gsm8k": Gsm8k(),
    "humaneval": HumanEval(),
    "livecodebench": LiveCodeBench(),
    "math": Math(),
    "math500": Math500(),
    "mbpp": Mbpp(),
    "mmlu_pro": MmluPro(),
    "prompts": PromptsFile(),
}


def find_task(name: str) -> Task:
    """The task of that name, by its default protocol or, as in `gsm8k.lighteval`, by another.

    Raises:
        RlifError: no such task or protocol; the nearest is suggested.
    """
    task, dot, protocol = name.partition(".")
    found = lookup(TASKS, task, "task")
    return found.under(protocol) if dot else found


def source_of(task: Task, sources: Mapping[str, str]) -> str | None:
    """Where a task is read from: what is said of its protocol, else of the task; None for its own home."""
    return next((sources[name] for name in _names(task) if name in sources), None)


def check_sources(sources: Mapping[str, str], tasks: Sequence[Task]) -> None:
    """Refuses a source of a task that is not asked for.

    Where no task is, sources are of no consequence.

    Raises:
        RlifError: naming it, and the nearest of those that are.
    """
    names = {name for task in tasks for name in _names(task)}
    for name in sources if tasks else ():
        if name not in names:
            raise RlifError(f"a source is given for {name!r}, which is not among the tasks; {nearest(name, names)}")


def _names(task: Task) -> tuple[str, str]:
    """What a task is called, with its protocol and without."""
    return f"{type(task).name}.{task.protocol_name}", type(task).name
