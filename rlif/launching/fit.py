"""Compares what a run takes with the memory of this machine, before its model is loaded.

    certain    weights, gradients, optimiser state, reference model, an annotator's copy, the share that vLLM reserves
    estimated  activations, the cache, what CUDA takes

A run is refused where the certain parts alone are more than there is. Where only the sum with the estimated parts is,
there is a warning. Both name changes that help. Several processes share the memory of a machine without GPUs.

Nothing is compared for

- weights that are moved to the CPU between steps,
- FSDP or DeepSpeed by a configuration of the user's own,
- a model that has adapters already,
- mixtures of experts,
- devices that do not say how much memory they have, and
- training in rounds.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from rlif.config.recipe import Recipe
from rlif.config.rounds import in_rounds
from rlif.errors import MachineError, ModelError
from rlif.launching.cost_model import FULL, GIB, Setting, memory, share, vllm_room
from rlif.launching.hardware import Gpu, shape_of
from rlif.launching.suggestions import suggestions
from rlif.runs.environment import launched_strategy, shards_itself
from rlif.sampling.loading import is_adapter, model_path

STATE = ("weights", "optimiser state", "reference model", "annotator's copy")
CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
ADAM = ("adamw_torch", "adamw_torch_fused")  # whose state the cost model knows; others keep less
OFFERED = 3  # changes that a message names


@dataclass(frozen=True)
class Device:
    """Holds name and memory of what a process trains on."""

    name: str
    memory: float  # GiB
    gpu: bool  # else the machine's memory, a process's part of it


def device_here(recipe: Recipe) -> Device | None:
    """Finds the device that this process trains on, by torch; None where it does not say how much memory it has."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None or recipe.training.get("use_cpu"):
        texts = [Path(path).read_text(encoding="utf-8").strip() for path in CGROUP if Path(path).is_file()]
        limits = [int(text) for text in texts if text.isdecimal()]
        size = min([psutil.virtual_memory().total, *limits]) + psutil.swap_memory().total
        return Device("this machine", size / GIB / int(os.environ.get("LOCAL_WORLD_SIZE", "1")), gpu=False)
    properties = getattr(getattr(torch, kind.type, None), "get_device_properties", None)
    if properties is None:
        return None
    found = properties(int(os.environ.get("LOCAL_RANK", "0")))
    return Device(found.name, found.total_memory / GIB, gpu=True)


def strategy_here(recipe: Recipe) -> str | None:
    """Names the strategy that this process was launched with; None where it is not one of rlif's."""
    return None if shards_itself(recipe.training) else launched_strategy()


def check_memory(recipe: Recipe, config: Any, processes: int) -> str | None:
    """Refuses a run that cannot fit on this machine's device; returns a warning where it probably does not.

    Args:
        config: transformers' configuration of the model.
        processes: how many train, on all machines.
    """
    device, strategy = device_here(recipe), strategy_here(recipe)
    if in_rounds(recipe):
        return None
    if not recipe.check_memory or device is None or strategy is None or is_adapter(model_path(recipe)):
        return None
    try:
        shape = shape_of(config)
    except ModelError:  # a mixture of experts
        return None
    training = recipe.resolved_training
    server = int(bool(training.get("use_vllm")) and training.get("vllm_mode") == "server")
    prompt, completion = recipe.max_prompt_tokens / 2, training["max_completion_length"]
    card = Gpu(device.memory, 1, 1, 1, "this machine")
    on_gpu = Setting(recipe, shape, card, processes + server, strategy, server, prompt, completion)
    setting = on_gpu if device.gpu else replace(on_gpu, gpu=None)  # vLLM takes a share of a GPU, else what it needs
    parts = memory(setting)
    if training.get("optim", ADAM[0]) not in ADAM:
        parts["optimiser state"] = 0.0
    needed, whole = certain(setting, parts), sum(parts.values())
    short = vllm_room(setting) if device.gpu else 0.0
    if needed <= device.memory and whole <= FULL * device.memory and short >= 0:
        return None
    what = " / ".join(name for name, _ in suggestions(on_gpu)[:OFFERED]) or "more GPUs, or a smaller model"
    if needed > device.memory:
        beside = ", and vLLM" if setting.vllm and not setting.server_gpus else ""
        raise MachineError(
            f"the run cannot fit: weights, gradients and optimiser state{beside} take {needed:.1f} GiB, and"
            f" {device.name} has {device.memory:.1f}; what would help: {what}; check_memory=false starts it"
            " nevertheless."
        )
    vllm = f", and vLLM's share is {-short:.1f} GiB too small" if short < 0 else ""
    return (
        f"the run probably does not fit: about {whole:.1f} GiB at full length, and {device.name} has"
        f" {device.memory:.1f}{vllm}; what would help: {what}"
    )


def certain(setting: Setting, parts: dict[str, float]) -> float:
    """Adds the GiB that are certain: the state of training, with gradients or with what vLLM reserves."""
    state, gradients = sum(parts.get(name, 0.0) for name in STATE), parts["gradients"]
    if not setting.vllm or setting.server_gpus or setting.gpu is None:
        return state + gradients
    reserved = share(setting) * setting.gpu.memory
    return state + (max(gradients, reserved) if setting.sleeps else gradients + reserved)
