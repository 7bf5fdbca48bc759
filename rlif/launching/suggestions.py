"""Suggests changes that make a run fit. Each was tried on the arithmetic of `rlif.launching.cost_model`."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from rlif.errors import RecipeError
from rlif.launching.commands import Layout, check_strategy
from rlif.launching.cost_model import Setting, fits, parallel, room, share, vllm_room

OFFERED = 6  # ways to make a run fit

Change = Callable[[Setting], Setting]


def suggestions(setting: Setting) -> list[tuple[str, float]]:
    """Finds changes that make a run fit, and the GiB that each leaves: the fewest at once, three at most."""
    changes = _changes(setting)
    for number in (1, 2, 3):
        found = []
        for names in itertools.combinations(changes, number):
            if len({name.partition("=")[0].split()[0] for name in names}) < number:
                continue  # the same setting twice
            changed = functools.reduce(lambda so_far, name: changes[name](so_far), names, setting)
            if _starts(changed) and fits(changed):
                found.append((" ".join(names), room(changed)))
        if found:
            return found[:OFFERED]
    return []


def _starts(setting: Setting) -> bool:
    """Whether the strategy serves the recipe and the batch divides."""
    with contextlib.suppress(RecipeError):
        check_strategy(setting.recipe, Layout(setting.trainers, 1, setting.strategy, setting.server_gpus))
        return True
    return False


def _changes(setting: Setting) -> dict[str, Change]:
    """Lists possible changes, the cheapest first."""
    recipe, training = setting.recipe, setting.recipe.resolved_training
    found: dict[str, Change] = {}
    if setting.trainers > 1 and setting.strategy in ("ddp", "zero2"):
        for strategy in ("fsdp2",) if setting.strategy == "zero2" else ("zero2", "fsdp2"):
            found[f"--strategy {strategy}"] = functools.partial(_with, strategy=strategy)
    if not setting.checkpointing:
        found |= _option("gradient_checkpointing", True)
    batch = training["per_device_train_batch_size"]
    smaller = [size for size in range(1, batch) if setting.rows % (size * setting.trainers) == 0]
    if smaller:
        found |= _option("per_device_train_batch_size", smaller[-1])
    if setting.vllm and not setting.server_gpus:
        found |= _changes_of_vllm(setting)
    if recipe.lora is None:
        lora = {"r": 16, "target_modules": "all-linear"}
        found["lora={r: 16, target_modules: all-linear}"] = functools.partial(_with, lora=lora)
        if training.get("beta") and recipe.guard.policy != "rollback":  # which goes on with a larger one
            found |= _option("beta", 0)
    if training["max_completion_length"] >= 1024:
        found |= _option("max_completion_length", training["max_completion_length"] // 2)
    return found


def _changes_of_vllm(setting: Setting) -> dict[str, Change]:
    """Lists changes to an engine that shares the GPUs of training."""
    found: dict[str, Change] = {}
    if not setting.sleeps:
        found |= _option("vllm_enable_sleep_mode", True)
    for size in (0.2, 0.45, 0.6):
        if size != share(setting):
            found |= _option("vllm_gpu_memory_utilization", size)
    for gpus in range(parallel(setting) + 1, setting.trainers + 1):
        changed = _with(setting, {"vllm_tensor_parallel_size": gpus})
        if setting.trainers % gpus == setting.shape.heads % gpus == 0 and vllm_room(changed) >= 0:
            found |= _option("vllm_tensor_parallel_size", gpus)
            break  # the fewest: more of them save no memory of training
    if setting.gpus > 1 and not setting.recipe.vllm_capture:  # which no server allows
        found |= _option("vllm_mode", "server", server_gpus=1)
    return found


def _option(name: str, value: object, **fields: Any) -> dict[str, Change]:
    """Names the change of an option of training, and of fields of the setting with it."""
    return {f"training.{name}={str(value).lower()}": functools.partial(_with, training={name: value}, **fields)}


def _with(
    setting: Setting, training: Mapping[str, Any] = {}, lora: Mapping[str, Any] | None = None, **fields: Any
) -> Setting:
    """Changes options of training, adapters and fields of the setting."""
    recipe = setting.recipe
    changed = recipe.model_copy(update={"training": recipe.training | dict(training), "lora": lora or recipe.lora})
    return dataclasses.replace(setting, recipe=changed, **fields)
