"""Reinforcement learning of language models from internal feedback.

The public names load what they need when first used; `import rlif` alone loads neither torch nor trl.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rlif.config import Recipe, load_recipe
    from rlif.errors import RlifError
    from rlif.scoring import score_completions
    from rlif.signals import SIGNALS
    from rlif.tasks import TASKS
    from rlif.train import train
    from rlif.types import Problem, TokenStats

_HOME = {
    "Recipe": "rlif.config",
    "load_recipe": "rlif.config",
    "score_completions": "rlif.scoring",
    "SIGNALS": "rlif.signals",
    "TASKS": "rlif.tasks",
    "train": "rlif.train",
    "Problem": "rlif.types",
    "RlifError": "rlif.errors",
    "TokenStats": "rlif.types",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rlif' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
