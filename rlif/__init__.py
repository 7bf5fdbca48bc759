"""Reinforcement learning of language models from internal feedback.

The public names load what they need when first used; `import rlif` alone loads neither torch nor trl.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rlif.comparison import compare as compare
    from rlif.config import Recipe as Recipe
    from rlif.config import load_recipe as load_recipe
    from rlif.errors import RlifError as RlifError
    from rlif.reporting import report as report
    from rlif.scoring import score_completions as score_completions
    from rlif.selection import RULES as RULES
    from rlif.selection import choose as choose
    from rlif.selection import select as select
    from rlif.signals import SIGNALS as SIGNALS
    from rlif.signals.self_certainty_topk import approximate_self_certainty as approximate_self_certainty
    from rlif.tasks import TASKS as TASKS
    from rlif.training import train as train
    from rlif.types import Problem as Problem
    from rlif.types import TokenStats as TokenStats

_HOME = {
    "compare": "rlif.comparison",
    "Recipe": "rlif.config",
    "load_recipe": "rlif.config",
    "report": "rlif.reporting",
    "score_completions": "rlif.scoring",
    "RULES": "rlif.selection",
    "choose": "rlif.selection",
    "select": "rlif.selection",
    "SIGNALS": "rlif.signals",
    "approximate_self_certainty": "rlif.signals.self_certainty_topk",
    "TASKS": "rlif.tasks",
    "train": "rlif.training",
    "Problem": "rlif.types",
    "RlifError": "rlif.errors",
    "TokenStats": "rlif.types",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        globals()[name] = found = getattr(importlib.import_module(_HOME[name]), name)
        return found
    raise AttributeError(f"module 'rlif' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
