"""Starts runs by `rlif launch`, and parses its commands as accelerate does."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from accelerate.commands import launch as accelerate_launch

RLIF_LAUNCH = [sys.executable, "-m", "rlif", "launch"]


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


ON_GPUS = ["training.use_cpu=false", "evaluate={}", "training.per_device_train_batch_size=8"]


SERVER = ["training.use_vllm=true", "training.vllm_mode=server"]


def accelerates(command: list[str]) -> argparse.Namespace:
    """Parses a command as accelerate itself does, including its configuration file."""
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    arguments = accelerate_launch.launch_command_parser().parse_args(command[3:])
    return accelerate_launch._validate_launch_command(arguments)[0]


def small(model: Path, output: Path) -> list[str]:
    """Overrides for a run of twenty steps that takes a CPU seconds, with a checkpoint at each step."""
    return [
        f"model={model}",
        f"output={output}",
        *("name=run", "limit=16", "problems_per_update=2", "evaluate={}", "guard.prompt_check=0"),
        *("training.max_steps=20", "training.save_steps=1", "training.num_generations=2"),
        *("training.per_device_train_batch_size=2", "training.max_completion_length=8", "max_prompt_tokens=1024"),
    ]


def launched(arguments: list[str], run: Path, checkpoint: int) -> subprocess.Popen[str]:
    """Starts `rlif launch` and returns its process once the run has written a checkpoint."""
    started = subprocess.Popen(RLIF_LAUNCH + arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_for(run, checkpoint, started)
    return started


def wait_for(run: Path, checkpoint: int, *started: subprocess.Popen[str]) -> None:
    while not (run / f"checkpoints/checkpoint-{checkpoint}").exists() and all(s.poll() is None for s in started):
        time.sleep(0.05)
