"""What a run will take, before it starts: steps, tokens, memory. Estimates, from arithmetic alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlif.config.passes import keeps_copy
from rlif.config.recipe import Recipe
from rlif.config.schedule import first_gap
from rlif.errors import RlifError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}


@dataclass(frozen=True)
class Plan:
    """Steps and completions of a run; tokens are an upper limit, every completion as long as it may be."""

    problems: int
    steps: int
    completions: int
    tokens: int
    updates_per_rollout: int


def plan_steps(recipe: Recipe, problems: int, processes: int) -> Plan:
    """Counts optimiser steps and completions as TRL's sampler and transformers' loop do.

    Each epoch drops an incomplete rollout and ends with an update, be it of fewer batches; a part of an epoch is
    rounded up to whole updates.

    Raises:
        RlifError: too few problems for one rollout, steps that are rewarded by nothing, checkpoints within a rollout.
    """
    training = recipe.resolved_training
    accumulation = recipe.accumulation(processes)
    group, share = training["num_generations"], training["per_device_train_batch_size"] * processes
    slices = training.get("steps_per_generation") or accumulation
    rollout = share * slices // group
    if problems < rollout:
        raise RlifError(
            f"{problems} problems are too few for one rollout of {rollout}; lower problems_per_update, or give more."
        )
    reuse = slices * training.get("num_iterations", 1)
    if reuse % accumulation and accumulation % reuse:
        raise RlifError(
            f"a rollout is used for {reuse} batches (training.steps_per_generation x training.num_iterations) and an"
            f" update takes {accumulation}, so no checkpoint could lie between two rollouts; choose them so that one"
            " divides the other."
        )
    batches = problems // rollout * reuse  # of an epoch
    updates = math.ceil(batches / accumulation)
    steps = math.ceil(training["num_train_epochs"] * updates)
    if training.get("max_steps", -1) > 0:
        steps = training["max_steps"]
    epochs, rest = divmod(steps, updates)
    rollouts = math.ceil((epochs * batches + min(rest * accumulation, batches)) / reuse)
    completions = rollouts * rollout * group
    shared = max(1, reuse // accumulation)
    gap = first_gap(list(recipe.weights.values()))
    if gap is not None and gap + 1 < steps:
        raise RlifError(f"from step {gap} on every reward weighs 0, so there is nothing to learn from; close the gap.")
    if training.get("save_strategy", "steps") == "steps" and training["save_steps"] % shared:
        raise RlifError(
            f"training.save_steps ({training['save_steps']}) must be a multiple of the {shared} updates that share a"
            " rollout: a run resumed in between would sample anew and not be the same run."
        )
    return Plan(problems, steps, completions, completions * training["max_completion_length"], shared)


def check_annotator(recipe: Recipe, config: Any) -> None:
    """Refuses an offline annotator that nothing holds, and says what a copy of it would cost.

    Raises:
        RlifError: neither a reference model nor adapters nor leave to keep a copy.
    """
    if recipe.annotator == "offline" and keeps_copy(recipe) and not recipe.annotator_copy:
        size = count_parameters(config) * BYTES[recipe.dtype] / 2**30
        raise RlifError(no_start(size))


def no_start(gibibytes: float) -> str:
    """What to say where the frozen start is asked for and nothing holds it."""
    return (
        "annotator offline needs the frozen start: TRL's reference model (training.beta above 0), adapters that can be"
        f" switched off (lora), or a copy of {gibibytes:.2g} GiB on each device (annotator_copy=true); choose one."
    )


def count_parameters(config: Any) -> int:
    """Parameters of a model of this configuration, tied ones once; no memory is taken for them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def estimate_memory(recipe: Recipe, config: Any, processes: int) -> dict[str, float]:
    """GiB per process, by part, when parameters are not sharded. Activations and adapters are not counted.

    Where vLLM shares the device, its cache is as large as `vllm_gpu_memory_utilization` leaves room for: what is given
    is what it needs for each completion that it works on.
    """
    training, text = recipe.resolved_training, config.get_text_config()
    parameters, size = count_parameters(config), BYTES[recipe.dtype]
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    key_value_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * key_value_heads * head_dim * size
    rows = recipe.problems_per_update * training["num_generations"] // processes
    length = recipe.max_prompt_tokens + training["max_completion_length"]
    parts = {"weights": parameters * size}
    if recipe.lora is None:
        parts |= {"gradients": parameters * size, "optimiser state": 2 * parameters * size}
        parts |= {"reference model": parameters * size} if training.get("beta") else {}
    if keeps_copy(recipe) and recipe.lora is None:
        parts["annotator's copy"] = parameters * (BYTES["float32"] if recipe.annotator == "ema" else size)
    if not training.get("use_vllm"):
        parts["key-value cache of one rollout, at full length"] = per_token * rows * length
    elif training.get("vllm_mode", "colocate") == "colocate":
        over = training.get("vllm_tensor_parallel_size", 1)
        served = BYTES["bfloat16"] / size / over  # vLLM takes the type of the checkpoint
        parts["vLLM's weights"] = parameters * size * served
        parts["vLLM's key-value cache of one completion, at full length"] = per_token * length * served
    return {name: amount / 2**30 for name, amount in parts.items()}
