"""Trains small runs in rounds, and reads their files for comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

import rlif
from rlif.runs.folder import Run

# Random text has no answers, so the reward that chooses is a signal.
SMALL = [
    "limit=8",
    "seed=3",
    "max_prompt_tokens=1024",
    "problems_per_update=2",
    "evaluate={tasks: [cups], limit: 2, batch_size: 8}",
    "rounds={number: 2, problems: 4, samples: 3, batch_size: 6}",
    "training.per_device_train_batch_size=2",
    "training.max_completion_length=8",
    "training.learning_rate=1e-3",
    "training.save_steps=1",
    "training.log_level=error",
    "guard={prompt_check: 0}",
    "keep_completions=6",
]
TIMES = ("step_seconds", "seconds", "sampling_seconds")


def small(model: Path | str, output: Path, *overrides: str) -> rlif.Recipe:
    return rlif.load_recipe("best-of-n-sft", [*SMALL, f"model={model}", f"output={output}", "name=run", *overrides])


def train(model: Path | str, output: Path, *overrides: str, **options: Any) -> Run:
    return rlif.train(small(model, output, *overrides), console=Console(quiet=True), **options)


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]
