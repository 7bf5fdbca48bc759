"""The environment of tests that run verl on a CPU; loads no verl."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MODULES = "support.verl_on_cpu,support.verl_rollout"

needs_verl = pytest.mark.skipif(find_spec("verl") is None, reason="no verl; make test-verl")


def environment(**changes: str) -> dict[str, str]:
    """Returns the variables of a process in which verl trains on the CPU, with a rollout of fixed completions."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": MODULES, "OMP_NUM_THREADS": "1"}
    return os.environ | own | {"RAY_memory_monitor_refresh_ms": "0"} | changes
