"""Which forward passes a recipe takes beside the training ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlif.config.recipe import LEAVE_ONE_OUT, Recipe


def scored_anyway(recipe: Recipe, options: Mapping[str, Any]) -> str | None:
    """Why TRL runs a pass for the policy's log-probabilities after each rollout, as GRPOTrainer decides; None if not.

    Args:
        recipe: to be trained.
        options: for TRL's config, gradient_accumulation_steps among them.
    """
    if recipe.algorithm in LEAVE_ONE_OUT:
        return f"algorithm is {recipe.algorithm}"
    if options.get("use_vllm") and options.get("vllm_importance_sampling_correction", True):
        return "training.vllm_importance_sampling_correction is on"
    steps = options["gradient_accumulation_steps"]
    if steps % (options.get("steps_per_generation", steps) * options.get("num_iterations", 1)):
        return "a rollout serves more than one update"
    return None


def keeps_copy(recipe: Recipe) -> bool:
    """Whether the annotator is a copy: one that follows the policy, or a start that nothing else holds."""
    if recipe.annotator == "offline":
        return not recipe.resolved_training["beta"] and recipe.lora is None
    return recipe.annotator != "online"
