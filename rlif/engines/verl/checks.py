"""Refuses, in one sentence each, what the plug-in cannot measure in verl."""

# pyright: reportMissingImports=false, reportUnknownParameterType=false
# verl lies in an environment of its own.

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from rlif.config.recipe import Recipe
from rlif.engines.verl.names import MODE, VERSION
from rlif.engines.verl.options import command
from rlif.engines.verl.settings import algorithm_of
from rlif.errors import MachineError, RecipeError, RlifError, first_line

INSTALL = "install verl in an environment of its own, see docs/verl.md"


def is_installed() -> bool:
    """Tells whether verl can be imported here."""
    return find_spec("verl") is not None


def check_version() -> None:
    """Refuses another verl than the one whose names are used."""
    if not is_installed():
        raise MachineError(f"engine verl needs verl {VERSION}*, which is not installed here; {INSTALL}.")
    try:
        found = version("verl")
    except PackageNotFoundError:
        found = "unknown"
    if not found.startswith(VERSION):
        raise MachineError(f"rlif reads private names of verl {VERSION}*, found {found}; {INSTALL}.")


def check_loaded() -> None:
    """Refuses to start where verl does not load the plug-in by itself, as it does in each of its processes."""
    check_version()
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    if MODE not in TRAINER_REGISTRY:
        raise MachineError(
            "verl did not load rlif's plug-in: install rlif in verl's environment (pip install --no-deps rlif), and"
            " leave VERL_USE_EXTERNAL_PLUGINS unset, or let it name rlif."
        )


def compose(options: Mapping[str, Any]) -> Any:
    """Returns verl's whole configuration with these options; refuses options that verl does not know."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException

    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose("ppo_trainer", command(options))
    except HydraException as error:
        raise RecipeError(f"verl refuses these options: {first_line(error)}") from error


def no_field(name: str) -> RlifError:
    """Returns the error for a pass that gave no statistics."""
    return MachineError(
        f"verl's pass for log-probabilities gave no {name}: its worker did not load rlif's engine; install rlif on"
        " every machine of the Ray cluster, and use an NVIDIA or AMD GPU with strategy fsdp or fsdp2."
    )


def check_config(config: Any, recipe: Recipe) -> None:
    """Refuses a configuration of verl's in which rewards would not be measured, or be scaled twice.

    Args:
        config: all of it, as an omegaconf DictConfig.
    """
    algorithm_of(config)
    actor, model, algorithm = (config.actor_rollout_ref.actor, config.actor_rollout_ref.model, config.algorithm)
    correction = algorithm.get("rollout_correction") or {}
    if correction.get("bypass_mode", False):
        raise RecipeError(
            "algorithm.rollout_correction.bypass_mode skips the pass that rewards are read from; set it to False."
        )
    if model.get("use_fused_kernels", False) or actor.get("use_fused_kernels", False):
        raise RecipeError(
            "actor_rollout_ref.model.use_fused_kernels never forms the logits that rewards are read from; set it to"
            " False."
        )
    if actor.strategy not in ("fsdp", "fsdp2"):
        raise RecipeError(
            f"actor_rollout_ref.actor.strategy={actor.strategy} is an engine that rlif does not read; use fsdp2."
        )
    if actor.get("use_prefix_grouper", False):
        raise RecipeError("actor.use_prefix_grouper packs prompts in a way that rlif does not read; set it to False.")
    if (algorithm.get("filter_groups") or {}).get("enable", False):
        raise RecipeError(
            "algorithm.filter_groups drops groups by verl's own score before rewards are measured; set enable=False."
        )
    if config.reward.reward_model.enable:
        raise RecipeError(
            "reward.reward_model gives scores that rlif's rewards would replace; set enable=False, or name the model"
            " in rlif.reward."
        )
    _check_groups(config)
    _check_scaling(config, recipe)
    if recipe.annotator not in ("online", "offline"):
        raise RecipeError(
            f"annotator {recipe.annotator} keeps a copy that verl has no place for; use online or offline."
        )
    if recipe.annotator == "offline" and not (actor.use_kl_loss or algorithm.use_kl_in_reward):
        raise RecipeError(
            "annotator offline reads verl's reference pass, and there is none; set actor_rollout_ref.actor.use_kl_loss"
            "=True."
        )


def _check_groups(config: Any) -> None:
    rollout = config.actor_rollout_ref.rollout
    if config.algorithm.adv_estimator != "gae" and rollout.n < 2:
        raise RecipeError(
            "actor_rollout_ref.rollout.n is 1, but a completion is compared with the others of its problem, so its"
            " advantage would always be zero; use 4 or more."
        )
    if rollout.get("full_determinism", False):
        raise RecipeError(
            "actor_rollout_ref.rollout.full_determinism samples all completions of a problem by one seed, so none"
            " differs from the others; set it to False."
        )


def _check_scaling(config: Any, recipe: Recipe) -> None:
    algorithm = config.algorithm
    scales = algorithm.adv_estimator == "grpo" and algorithm.get("norm_adv_by_std_in_grpo", True)
    if scales and recipe.resolved_normalisation != "none":
        raise RecipeError(
            f"normalisation {recipe.resolved_normalisation} and algorithm.norm_adv_by_std_in_grpo both scale rewards"
            " within a group; set the latter to False, or the former to none."
        )
    if recipe.token_reward == "spread" and algorithm.adv_estimator != "gae":
        raise RecipeError("rlif.token_reward=spread needs a critic; set algorithm.adv_estimator=gae.")
