"""Loads problems and grades completions. `TASKS` lists all tasks.

In reading order:

    task.py           front door: `Task`, `Protocol` (prompt, decoding, extraction), `Mark` (a grade)
    mathematics.py    GSM8K and MATH, simple tasks that read data
    miniature.py      clock and cups, generated problems
    prompts.py        prompt templates by name
    rows.py           reads problems from rows: text, conversations, golds, columns of other names
    labels.py         tells labelled problems from others, for rewards and for the order of training
    rendering.py      renders a prompt as token ids, the one way for training, evaluation and scoring
    chat_template.py  applies a chat template, and says what it refuses
    code/             tasks whose answers are programs
    easy/             short problems of many kinds for small models, `easy/sum`
    own_task.py       tasks of one's own
    reasoning_gym.py  families of reasoning-gym
    verifiers.py      single-turn environments of verifiers
    mmlu_pro.py, cruxeval.py, alpaca_eval.py, prompts_file.py     one task each
    zeroeval.py       rows and rules of the ZeroEval harness, for several tasks

May import answers, sandbox, files, errors and types. Graders and the folders above them may import this one.

To add a task: one class, one line in `TASKS`, one test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlif.errors import RecipeError, nearest
from rlif.files import own
from rlif.tasks import easy, reasoning_gym, verifiers
from rlif.tasks.alpaca_eval import AlpacaEval
from rlif.tasks.code.code_contests import CodeContests
from rlif.tasks.code.humaneval import HumanEval
from rlif.tasks.code.livecodebench import LiveCodeBench
from rlif.tasks.code.mbpp import Mbpp
from rlif.tasks.cruxeval import CruxEval
from rlif.tasks.mathematics import Gsm8k, Math, Math500
from rlif.tasks.miniature import Clock, Cups
from rlif.tasks.mmlu_pro import MmluPro
from rlif.tasks.own_task import own_task
from rlif.tasks.prompts_file import PromptsFile
from rlif.tasks.task import Mark, Protocol, Task, by_id

__all__ = ["TASKS", "Mark", "Protocol", "Task", "by_id", "find_task"]

Given = TypeVar("Given")

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
    """Returns a task by name, with its default protocol or, as in `gsm8k.lighteval`, with another.

    The name may stand for a class of one's own: `my_module:Riddles`, `riddles.py:Riddles`, or `Riddles` alone if a file
    of the folder `tasks` defines it. `Riddles.short` is its protocol of that name.
    """
    if name.startswith(reasoning_gym.PREFIX):
        return reasoning_gym.find_family(name)
    if name.startswith(easy.PREFIX):
        return easy.find_family(name)
    if name.startswith(verifiers.PREFIX):
        return verifiers.find_environment(name)
    name = absolute_task(name, Path.cwd())
    where, colon, rest = name.rpartition(":")
    if not colon and own.is_own(name):
        return own_task(name, TASKS)  # a file without a class, which is refused
    task, dot, protocol = rest.partition(".")
    if not colon and task not in TASKS:
        raise RecipeError(f"unknown task {task!r}; {nearest(task, [*TASKS, *own.classes_in(Path('tasks'))])}")
    found = own_task(f"{where}:{task}", TASKS) if colon else TASKS[task]
    return found.under(protocol) if dot else found


def absolute_task(name: str, folder: Path) -> str:
    """Names a task of one's own by the absolute path of its file; other names stay as they are.

    Args:
        folder: that of the recipe. A class in its folder `tasks`, or in that of the current folder, is found by name.
    """
    if own.is_own(name):
        return own.absolute_name(name, folder)
    task, dot, protocol = name.partition(".")
    if task in TASKS or not task.isidentifier():
        return name
    found = next(filter(None, (own.found_in(base / "tasks", task) for base in (folder, Path.cwd()))), None)
    return name if found is None else f"{found}{dot}{protocol}"


def of_task(task: Task, given: Mapping[str, Given]) -> Given | None:
    """Returns the source, or the columns, given for a task with its protocol, else for the task; None for neither."""
    return next((given[name] for name in _names(task) if name in given), None)


def check_sources(given: Mapping[str, Any], tasks: Sequence[Task], what: str = "a source") -> None:
    """Refuses a source that belongs to none of the tasks; without tasks, sources have no effect."""
    names = {name for task in tasks for name in _names(task)}
    for name in given if tasks else ():
        if name not in names:
            raise RecipeError(f"{what} is given for {name!r}, which is not among the tasks; {nearest(name, names)}")


def _names(task: Task) -> tuple[str, ...]:
    return f"{type(task).name}.{task.protocol_name}", type(task).name, *filter(None, [task.alias])
