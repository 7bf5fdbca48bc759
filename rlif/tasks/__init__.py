"""Loads problems and grades completions. `TASKS` lists all tasks.

In reading order:

    task.py           front door: `Task`, `Protocol` (how a problem is put and its answer read), `Mark` (a grade)
    mathematics.py    GSM8K and MATH, the simplest tasks that read data
    miniature.py      clock and cups, which make their own problems
    prompts.py        prompt templates by name
    code/             tasks whose answers are programs
    mmlu_pro.py, cruxeval.py, alpaca_eval.py, prompts_file.py     one task each
    zeroeval.py       rows and rules of the ZeroEval harness, for several tasks

May import answers, sandbox, files, errors and types. Graders, rewards, sampling, evaluation and training import this
folder.

To add a task: one class, one line in `TASKS`, one test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlif.errors import RecipeError, lookup, nearest
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
        RecipeError: no such task or protocol; the nearest is suggested.
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
        RecipeError: naming it, and the nearest of those that are.
    """
    names = {name for task in tasks for name in _names(task)}
    for name in sources if tasks else ():
        if name not in names:
            raise RecipeError(f"a source is given for {name!r}, which is not among the tasks; {nearest(name, names)}")


def _names(task: Task) -> tuple[str, str]:
    """What a task is called, with its protocol and without."""
    return f"{type(task).name}.{task.protocol_name}", type(task).name
