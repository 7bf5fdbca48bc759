"""Where problems come from. `TASKS` is the whole list; a new task is one class and one line here."""

from __future__ import annotations

from rlif.tasks.mathematics import Gsm8k, Math, Math500
from rlif.tasks.miniature import Clock, Cups
from rlif.tasks.prompts_file import PromptsFile
from rlif.tasks.task import Task

TASKS: dict[str, Task] = {
    "clock": Clock(),
    "cups": Cups(),
    "gsm8k": Gsm8k(),
    "math": Math(),
    "math500": Math500(),
    "prompts": PromptsFile(),
}
