"""Suggests changes that make a run fit. Each was tried on the arithmetic of `rlif.launching.cost_model`."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

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
    try:
        check_strategy(setting.recipe, Layout(setting.trainers, 1, setting.strategy, setting.server_gpus))
    except RecipeError:
        return False
    return True


def _changes(setting: Setting) -> dict[str, Change]:
    """Lists possible changes, the cheapest first."""
    recipe, training = setting.recipe, setting.recipe.resolved_training
    found: dict[str, Change] = {}
    if setting.trainers > 1:
        for strategy in ("zero2", "fsdp2"):
            if setting.strategy in ("ddp", "zero2") and setting.strategy != strategy:
                found[f"--strategy {strategy}"] = _with_strategy(strategy)
    if not setting.checkpointing:
        found["training.gradient_checkpointing=true"] = _with_training(gradient_checkpointing=True)
    batch = training["per_device_train_batch_size"]
    smaller = [size for size in range(1, batch) if setting.rows % (size * setting.trainers) == 0]
    if smaller:
        name = f"training.per_device_train_batch_size={smaller[-1]}"
        found[name] = _with_training(per_device_train_batch_size=smaller[-1])
    if setting.vllm and not setting.server_gpus:
        found |= _changes_of_vllm(setting)
    if recipe.lora is None:
        found["lora={r: 16, target_modules: all-linear}"] = _with_lora
        if training.get("beta") and recipe.guard.policy != "rollback":  # which goes on with a larger one
            found["training.beta=0"] = _with_training(beta=0.0)
    if training["max_completion_length"] >= 1024:
        half = training["max_completion_length"] // 2
        found[f"training.max_completion_length={half}"] = _with_training(max_completion_length=half)
    return found


def _changes_of_vllm(setting: Setting) -> dict[str, Change]:
    """Lists changes to an engine that shares the GPUs of training."""
    capture = setting.recipe.vllm_capture  # which no server allows
    found: dict[str, Change] = {}
    if not setting.sleeps:
        found["training.vllm_enable_sleep_mode=true"] = _with_training(vllm_enable_sleep_mode=True)
    for size in (0.2, 0.45, 0.6):
        if size != share(setting):
            name = f"training.vllm_gpu_memory_utilization={size}"
            found[name] = _with_training(vllm_gpu_memory_utilization=size)
    for gpus in range(parallel(setting) + 1, setting.trainers + 1):
        change = _with_training(vllm_tensor_parallel_size=gpus)
        if setting.trainers % gpus == setting.shape.heads % gpus == 0 and vllm_room(change(setting)) >= 0:
            found[f"training.vllm_tensor_parallel_size={gpus}"] = change
            break  # the fewest: more of them save no memory of training
    return found | ({"training.vllm_mode=server": _with_server} if setting.gpus > 1 and not capture else {})


def _with_training(**changes: object) -> Change:
    def change(setting: Setting) -> Setting:
        recipe = setting.recipe.model_copy(update={"training": setting.recipe.training | changes})
        return dataclasses.replace(setting, recipe=recipe)

    return change


def _with_strategy(strategy: str) -> Change:
    return lambda setting: dataclasses.replace(setting, strategy=strategy)


def _with_server(setting: Setting) -> Setting:
    return dataclasses.replace(_with_training(vllm_mode="server")(setting), server_gpus=1)


def _with_lora(setting: Setting) -> Setting:
    lora = {"r": 16, "target_modules": "all-linear"}
    return dataclasses.replace(setting, recipe=setting.recipe.model_copy(update={"lora": lora}))
