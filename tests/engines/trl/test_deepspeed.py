"""Tests DeepSpeed if it is installed (`pip install --no-build-isolation deepspeed`): two processes, gloo, CPU.

accelerate launches the configurations that ship: ZeRO-2 and ZeRO-3 end with the same weights as DDP.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from rlif.launching.commands import Layout, train_command
from rlif.runs.folder import Run

pytest.importorskip("deepspeed", reason="no DeepSpeed; pip install --no-build-isolation deepspeed")
SMALL = [
    *("limit=8", "problems_per_update=4", "evaluate={}", "guard.prompt_check=0", "max_prompt_tokens=1024"),
    *("training.max_steps=3", "training.num_generations=2", "training.per_device_train_batch_size=4"),
    *("training.max_completion_length=8", "training.learning_rate=1e-3", "training.adam_epsilon=1e-4"),
]
ON_CPU = {"ddp": ["training.use_cpu=true"]}  # it would keep accelerate from using DeepSpeed
BY_BACKEND = ["training.use_cpu=false", "training.ddp_backend=gloo"]


def run(strategy, folder, model):
    command = train_command(Layout(2, 1, strategy), ["--main_process_port", "0"], ["train", "demo", *SMALL])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    more = [f"model={model}", f"output={folder}", f"name={strategy}", *ON_CPU.get(strategy, BY_BACKEND)]
    done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return Run.open(folder / strategy)


def test_zero_2_and_zero_3_learn_the_same_weights_as_ddp(tmp_path, model_folder):
    """With a reference model. ZeRO-3 shards the head, so it is gathered for a pass of its own."""
    runs = {strategy: run(strategy, tmp_path, model_folder) for strategy in ("ddp", "zero2", "zero3")}
    weights = {strategy: load_file(run.model / "model.safetensors") for strategy, run in runs.items()}
    start = load_file(model_folder / "model.safetensors")
    assert max(float((p - start[name]).abs().max()) for name, p in weights["ddp"].items()) > 5e-4
    paths = {strategy: {row["path"] for row in run.metrics()} for strategy, run in runs.items()}
    assert paths == {"ddp": {"decode"}, "zero2": {"decode"}, "zero3": {"pass"}}
    for strategy in ("zero2", "zero3"):
        assert max(float((weights[strategy][name] - p).abs().max()) for name, p in weights["ddp"].items()) < 1e-5
        for there, here in zip(runs[strategy].metrics(), runs["ddp"].metrics(), strict=True):
            for name in ("self_certainty", "completion_length", "kl"):
                assert there[name] == pytest.approx(here[name], abs=1e-4)
