"""Reinforcement learning of language models from internal feedback.

The public names load what they need when first used; `import rlif` alone loads neither torch nor trl.

Warnings go to the logger `rlif`. Python prints them on the error stream, unless the program configures `logging`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rlif.version import __version__ as __version__

if TYPE_CHECKING:
    from rlif.comparison.comparison import compare as compare
    from rlif.config.loading import load_recipe as load_recipe
    from rlif.config.recipe import Recipe as Recipe
    from rlif.engines.plain import reward as reward
    from rlif.errors import RlifError as RlifError
    from rlif.evaluation.one_model import evaluate as evaluate
    from rlif.reporting.page import report as report
    from rlif.scoring.statistics import score_completions as score_completions
    from rlif.selection.rules import RULES as RULES
    from rlif.selection.rules import choose as choose
    from rlif.selection.rules import select as select
    from rlif.selection.scorer import score as score
    from rlif.signals import SIGNALS as SIGNALS
    from rlif.signals.self_certainty_topk import approximate_self_certainty as approximate_self_certainty
    from rlif.tasks import TASKS as TASKS
    from rlif.training.lifecycle import train as train
    from rlif.types import Problem as Problem
    from rlif.types import TokenStats as TokenStats

_HOME = {
    "compare": "rlif.comparison.comparison",
    "Recipe": "rlif.config.recipe",
    "load_recipe": "rlif.config.loading",
    "evaluate": "rlif.evaluation.one_model",
    "report": "rlif.reporting.page",
    "reward": "rlif.engines.plain",
    "score_completions": "rlif.scoring.statistics",
    "RULES": "rlif.selection.rules",
    "choose": "rlif.selection.rules",
    "select": "rlif.selection.rules",
    "score": "rlif.selection.scorer",
    "SIGNALS": "rlif.signals",
    "approximate_self_certainty": "rlif.signals.self_certainty_topk",
    "TASKS": "rlif.tasks",
    "train": "rlif.training.lifecycle",
    "Problem": "rlif.types",
    "RlifError": "rlif.errors",
    "TokenStats": "rlif.types",
}

__all__ = sorted([*_HOME, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        globals()[name] = found = getattr(importlib.import_module(_HOME[name]), name)
        return found
    raise AttributeError(f"module 'rlif' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
