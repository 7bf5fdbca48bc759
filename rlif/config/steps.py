"""Counts steps and tokens of a run before it starts, and the memory of an annotator's copy."""

import math
from dataclasses import dataclass
from typing import Any

from rlif.config.passes import keeps_copy
from rlif.config.recipe import Recipe
from rlif.config.schedule import first_gap
from rlif.errors import DataError, RecipeError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}


@dataclass(frozen=True)
class Plan:
    """Steps and completions of a run; tokens are an upper limit, with every completion at its maximum."""

    problems: int
    steps: int
    completions: int
    tokens: int
    updates_per_rollout: int


def plan_steps(recipe: Recipe, problems: int, processes: int) -> Plan:
    """Counts optimiser steps and completions as TRL's sampler and transformers' loop do.

    Each epoch drops an incomplete rollout and ends with an update, even one of fewer batches. A part of an epoch is
    rounded up to whole updates.
    """
    training = recipe.resolved_training
    accumulation = recipe.accumulation(processes)
    group, share = training["num_generations"], training["per_device_train_batch_size"] * processes
    slices = training.get("steps_per_generation") or accumulation
    rollout = share * slices // group
    if problems < rollout:
        raise DataError(
            f"{problems} problems are too few for one rollout of {rollout}; lower problems_per_update, or give more."
        )
    reuse = slices * training.get("num_iterations", 1)
    if reuse % accumulation and accumulation % reuse:
        raise RecipeError(
            f"a rollout is used for {reuse} batches (training.steps_per_generation x training.num_iterations) and an"
            f" update takes {accumulation}, so no checkpoint could lie between two rollouts; choose them so that one"
            " divides the other."
        )
    batches = problems // rollout * reuse  # of an epoch
    updates = math.ceil(batches / accumulation)
    limit = training.get("max_steps", -1)
    steps = limit if limit >= 0 else math.ceil(training["num_train_epochs"] * updates)
    if steps < 1:  # transformers would take one step for max_steps 0
        raise RecipeError(
            f"training.max_steps is {limit} and num_train_epochs is {training['num_train_epochs']}, so there is"
            " no step to take; give max_steps from 1, or -1 with a positive number of epochs."
        )
    epochs, rest = divmod(steps, updates)
    rollouts = math.ceil((epochs * batches + min(rest * accumulation, batches)) / reuse)
    completions = rollouts * rollout * group
    shared = max(1, reuse // accumulation)
    if recipe.token_update and recipe.token_update.kind == "kl_cov" and shared == 1:
        raise RecipeError(
            "token_update kl_cov penalises the distance from the policy that sampled, which is 0 in the only update of"
            f" a rollout; set training.num_iterations=2, or training.steps_per_generation={2 * accumulation}."
        )
    gap = first_gap(list(recipe.weights.values()))
    if gap is not None and gap + 1 < steps:
        raise RecipeError(
            f"from step {gap} on every reward weighs 0, so there is nothing to learn from; close the gap."
        )
    if training.get("save_strategy", "steps") == "steps" and training["save_steps"] % shared:
        raise RecipeError(
            f"training.save_steps ({training['save_steps']}) must be a multiple of the {shared} updates that share a"
            " rollout: a run resumed in between would sample anew and not be the same run."
        )
    return Plan(problems, steps, completions, completions * training["max_completion_length"], shared)


@dataclass(frozen=True)
class Most:
    """What one problem of a round gives at most, see `rlif.engines.rounds.choices.most_of`."""

    examples: int
    completions: int
    tokens: int


def plan_rounds(recipe: Recipe, problems: int, most: Most) -> Plan:
    """Counts the most steps that training in rounds takes, with every problem giving all it may; refuses too few."""
    rounds, training = recipe.rounds, recipe.resolved_training
    assert rounds is not None
    each = problems if rounds.problems is None else rounds.problems
    if each > problems:
        raise DataError(f"rounds.problems is {each}, and there are {problems}; lower it, or give more problems.")
    share, accumulation = training["per_device_train_batch_size"], recipe.accumulation(1)
    limit = training.get("max_steps", -1)

    def steps_of(rows: int) -> int:
        updates = math.ceil(math.ceil(rows / share) / accumulation)
        return limit if limit > 0 else math.ceil(training["num_train_epochs"] * updates)

    rows = each * most.examples
    steps = steps_of(rows) + (rounds.number - 1) * steps_of(2 * rows if rounds.mix else rows)
    if steps < 1:
        raise RecipeError(f"training.num_train_epochs is {training['num_train_epochs']}, so there is no step to take.")
    drawn = rounds.number * each
    return Plan(problems, steps, drawn * most.completions, drawn * most.tokens, 1)


UNCHANGED = (True, "gaussian", "orthogonal", "eva")  # initial adapters that leave the model as it is


def starts_unchanged(recipe: Recipe) -> bool:
    """Tells whether a model with adapters off stays what it was at the start."""
    lora = recipe.lora or {}
    return lora.get("bias", "none") == "none" and lora.get("init_lora_weights", True) in UNCHANGED


def check_annotator(recipe: Recipe, config: Any) -> None:
    """Refuses an offline annotator whose start nothing holds, and names the size of a copy."""
    lora = recipe.lora or {}
    bias, begin = lora.get("bias", "none"), lora.get("init_lora_weights", True)
    if recipe.annotator == "offline" and not starts_unchanged(recipe):
        key = f"bias={bias}" if bias != "none" else f"init_lora_weights={begin}"
        raise RecipeError(
            f"annotator offline is the model with its adapters off, which lora.{key} makes another than the start;"
            " leave that key out."
        )
    if recipe.annotator == "offline" and keeps_copy(recipe) and not recipe.annotator_copy:
        raise RecipeError(no_start(count_parameters(config) * BYTES[recipe.dtype] / 2**30))


def no_start(gibibytes: float) -> str:
    """Writes the message for a frozen start that nothing holds."""
    return (
        "annotator offline needs the frozen start: TRL's reference model (training.beta above 0), adapters that can be"
        f" switched off (lora), or a copy of {gibibytes:.2g} GiB on each device (annotator_copy=true); choose one."
    )


def count_parameters(config: Any) -> int:
    """Counts the parameters of a configuration, tied ones once, without allocating them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()  # transformers 5.0 has not done so without memory
    return sum(p.numel() for p in model.parameters())
