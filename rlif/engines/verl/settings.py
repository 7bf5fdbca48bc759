"""Reads what rlif needs from verl's configuration: the section `rlif`.

+rlif.reward=self_certainty     of a plain command line of verl's, with other keys of a recipe beside it
+rlif.run=FOLDER                of a run that `rlif train` prepared: its recipe, and the problems that rewards read
"""

# pyright: reportMissingImports=false, reportUnknownParameterType=false
# verl lies in an environment of its own.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif.config.loading import check_recipe
from rlif.config.recipe import Recipe
from rlif.engines.verl.names import SECTION
from rlif.errors import RecipeError, nearest
from rlif.files.jsonl import read_lines
from rlif.rewards.measuring import text_of
from rlif.runs.folder import Run
from rlif.tasks import Task, find_task
from rlif.types import Problem

# verl's estimators of advantages, and the algorithm that each belongs to.
ESTIMATORS = {"grpo": "grpo", "rloo": "rloo", "gae": "ppo", "reinforce_plus_plus_baseline": "reinforce_plus_plus"}
KEYS = (  # of a recipe, which a plain command line may give
    *("reward", "normalisation", "mixing", "annotator", "token_reward", "task", "spread_floor", "confidence_window"),
    *("rewarded_per_group", "equivalence", "reward_seconds", "seed"),
)
FOLDER = "checkpoints/verl"  # in a run folder: what a start writes for verl, and verl's checkpoints
PROBLEMS = "problems.jsonl"


@dataclass(frozen=True)
class Settings:
    """The recipe of a run, and where it is recorded."""

    recipe: Recipe
    task: Task
    run: Run | None = None  # where the run is recorded; None for a plain command line
    problems: list[Problem] | None = None  # by the column `index` of verl's data

    @staticmethod
    def problem(place: int, prompt: Any, truth: Any) -> Problem:
        """Returns a problem of verl's own columns: the last message, and `reward_model.ground_truth`."""
        gold = truth.get("ground_truth") if isinstance(truth, Mapping) else None
        return Problem(str(place), text_of(prompt), None if gold in (None, "") else str(gold))


def read_settings(config: Any) -> Settings:
    """Reads the section `rlif` of verl's configuration.

    Raises:
        RecipeError: there is none, it has an unknown key, or the recipe contradicts itself.
    """
    from omegaconf import OmegaConf

    section = config.get(SECTION)
    given = OmegaConf.to_container(section, resolve=True) if section is not None else {}
    if not isinstance(given, dict) or not (given.get("reward") or given.get("run")):
        raise RecipeError("trainer.v1.trainer_mode=rlif_sync needs a reward; add +rlif.reward=self_certainty.")
    if "run" in given:
        if others := [key for key in given if key != "run"]:
            raise RecipeError(f"rlif.run has a recipe, so rlif.{others[0]} has no effect; put it into the recipe.")
        run = Run.open(str(given["run"]))
        recipe = run.recipe()
        return Settings(recipe, find_task(recipe.task), run, read_problems(run.path))
    for key in given:
        if key not in KEYS:
            raise RecipeError(f"unknown option rlif.{key}; {nearest(str(key), KEYS)}")
    algorithm = algorithm_of(config)
    if config.algorithm.adv_estimator == "grpo":  # where verl's own option says whether a deviation divides
        given.setdefault("normalisation", "none")
    recipe = check_recipe({"engine": "verl", "algorithm": algorithm} | given)
    return Settings(recipe, find_task(recipe.task))


def algorithm_of(config: Any) -> str:
    """Returns the algorithm of verl's estimator; refuses estimators that rewards without labels do not suit."""
    estimator = str(config.algorithm.adv_estimator)
    if estimator == "reinforce_plus_plus":
        raise RecipeError(
            "algorithm.adv_estimator=reinforce_plus_plus compares completions of different prompts, whose"
            " self-certainty differs by prompt; use reinforce_plus_plus_baseline."
        )
    if estimator not in ESTIMATORS:
        raise RecipeError(
            f"algorithm.adv_estimator={estimator} is not one that rlif was tested with; use {', '.join(ESTIMATORS)}."
        )
    return ESTIMATORS[estimator]


def read_problems(folder: Path) -> list[Problem] | None:
    """Reads the problems that a start wrote for verl; None where there are none."""
    path = folder / FOLDER / PROBLEMS
    if not path.is_file():
        return None
    pairs = ("shots", "history", "other_golds")  # JSON has no tuples
    rows: list[dict[str, Any]] = [row for _, row in read_lines(path)]
    tuples: list[dict[str, Any]] = [{name: tuple(row[name]) for name in pairs} for row in rows]
    return [Problem(**{**row, **more}) for row, more in zip(rows, tuples, strict=True)]
