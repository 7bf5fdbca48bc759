"""Trains a small demo, and reads its files for comparison."""

from __future__ import annotations

from rich.console import Console

import rlif
from rlif.runs.folder import Run

SMALL = [
    "problems_per_update=2",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.max_completion_length=8",
    "training.max_steps=4",
    "training.save_steps=2",
    "training.warmup_steps=0",
    "training.learning_rate=1e-3",
    "training.log_level=error",
    "max_prompt_tokens=1024",
    "evaluate.limit=4",
    "evaluate.every=2",
]


TIMES = ("step_seconds", "seconds")


def train(tmp_path, model_folder, *overrides, **options) -> Run:
    recipe = rlif.load_recipe("demo", [*SMALL, f"model={model_folder}", f"output={tmp_path / 'runs'}", *overrides])
    return rlif.train(recipe, name="demo", console=Console(quiet=True), **options)


def timeless(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def completions(run: Run, step: int):
    return run.completions(step)
