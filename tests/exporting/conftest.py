"""Trains the two runs that are exported."""

from __future__ import annotations

import pytest
from support.small_runs import train

from rlif.runs.folder import Run


@pytest.fixture(scope="session")
def run(tmp_path_factory, model_folder) -> Run:
    return train(tmp_path_factory.mktemp("whole"), model_folder)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory, model_folder) -> Run:
    lora = "lora={r: 4, target_modules: all-linear}"
    return train(tmp_path_factory.mktemp("lora"), model_folder, lora, "dtype=bfloat16", "training.max_steps=2")
