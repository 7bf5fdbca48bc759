"""The score that verl asks for while it samples: 0. Rewards are measured afterwards, when there are statistics."""

from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any) -> float:
    """Returns 0; `rlif.engines.verl.trainer` replaces it."""
    return 0.0
