"""Finds signals, group signals and graders among the `reward_funcs` of a TRL trainer; all others are TRL's."""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, get_args

import datasets

from rlif.config.recipe import Annotator as Kind
from rlif.config.recipe import Normalisation
from rlif.engines.trl.measuring.annotator import Annotator
from rlif.engines.trl.rewards import GOLD_COLUMNS, Column, InternalReward
from rlif.errors import DataError, RecipeError, lookup, nearest
from rlif.graders import FACTORS
from rlif.graders.external import import_function
from rlif.own import is_own
from rlif.rewards.terms import TABLES, find_term, kind_of
from rlif.signals import RENAMED
from rlif.tasks import Task, find_task
from rlif.tasks.prompts_file import PromptsFile
from rlif.tasks.rendering import is_text

NAME = re.compile(r"[A-Za-z_]+")  # of a signal; hub ids of one word have digits or hyphens: gpt2, bert-base-uncased


def known_name(reward: Any) -> str | None:
    """Returns the name of a signal, group signal or grader, also one's own; None for what is TRL's.

    TRL's are functions, models and hub ids.

    Raises:
        RecipeError: a string is neither.
    """
    if callable(reward):
        return next((name for table in TABLES.values() for name, value in table.items() if value is reward), None)
    if not isinstance(reward, str):
        return None
    names = {*chain.from_iterable(TABLES.values()), *RENAMED}
    if reward in names or is_own(reward):
        return reward
    if "/" in reward or os.path.isdir(reward):
        return None
    advice = nearest(reward, sorted(names))
    if NAME.fullmatch(reward) or "did you mean" in advice:
        raise RecipeError(
            f"unknown reward {reward!r}; {advice} A model is named by its folder, or by a hub id with a slash."
        )
    return None


def resolve(reward_funcs: Any, task: Task | str | None, annotator: Annotator | str) -> tuple[Any, InternalReward]:
    """Returns the reward functions for TRL, and what measures those of them that are rlif's, if any."""
    if isinstance(reward_funcs, InternalReward):
        return reward_funcs.columns(), reward_funcs
    several = isinstance(reward_funcs, list | tuple)
    given = list(reward_funcs) if several else [] if reward_funcs is None else [reward_funcs]
    for each in given:
        if isinstance(each, InternalReward | Column):
            raise RecipeError(
                f"the reward {each.__name__} was made for another trainer; name it instead: 'self_certainty'."
            )
    of_own = [isinstance(each, str) and is_own(each) and kind_of(each) == "function" for each in given]
    given = [import_function(each) if own else each for own, each in zip(of_own, given, strict=True)]
    names = [known_name(each) for each in given]
    if isinstance(annotator, str):
        annotator = lookup({kind: Annotator(kind, may_copy=True) for kind in get_args(Kind)}, annotator, "annotator")
    terms = [find_term(name) for name in dict.fromkeys(filter(None, names))]
    if any(term.name == "semantic_entropy" for term in terms):
        raise RecipeError(
            "semantic_entropy needs a model that tells which texts mean the same; name it in a recipe (equivalence)."
        )
    if annotator.kind != "online" and all(term.kind != "token" for term in terms):
        raise RecipeError(f"annotator {annotator.kind} chooses the model that measures confidence; no reward does.")
    if not terms:
        return given if several or isinstance(reward_funcs, str) else reward_funcs, InternalReward([])
    reward = InternalReward(terms, annotator=annotator, task=_task(task, [term.name for term in terms]))
    columns = {column.__name__: column for column in reward.columns()}
    return [columns[name] if name else each for name, each in zip(names, given, strict=True)], reward


def _task(task: Task | str | None, names: Sequence[str]) -> Task:
    """Returns the task; without one, answers are boxed expressions and compared mathematically."""
    found = PromptsFile() if task is None else find_task(task) if isinstance(task, str) else task
    if found.runs_code:
        raise RecipeError(
            f"the answers of task {found.name} are programs, which {names[0]} cannot read here; use `rlif train`."
        )
    return found


def check_data(reward: InternalReward, dataset: Any, args: Any) -> None:
    """Refuses data and options that the rewards cannot be measured with, before a model is loaded."""
    names = getattr(dataset, "column_names", None)
    if any(term.kind == "token" for term in reward.terms):
        refuse_images(reward, dict.fromkeys(names or ()))
    if reward.annotator.kind == "offline" and getattr(args, "sync_ref_model", False):
        raise RecipeError(
            "sync_ref_model moves the reference, and annotator offline is its start; leave one of them out."
        )
    needing = [term.name for term in reward.terms if term.gold]
    if not needing or names is None or reward.problems is not None:
        return
    column = next((name for name in GOLD_COLUMNS if name in names), None)
    if column is None:
        raise DataError(
            f"the reward {needing[0]} needs gold answers, in a column {', '.join(GOLD_COLUMNS[:-1])} or"
            f" {GOLD_COLUMNS[-1]}; the data set has {', '.join(names)}."
        )
    if isinstance(dataset, datasets.Dataset) and all(value is None for value in dataset[column]):
        raise DataError(
            f"the reward {needing[0]} needs gold answers, and the column {column} is empty in every row; fill it, or"
            " use rewards without gold."
        )
    if getattr(args, "remove_unused_columns", False):
        raise RecipeError(f"the reward {needing[0]} reads the column {column}; set remove_unused_columns=False.")


def refuse_images(reward: InternalReward, row: Mapping[str, Any]) -> None:
    """Refuses a row with images, in a column or in the prompt, for token signals."""
    if not {"image", "images"}.isdisjoint(row) or not is_text(row.get("prompt") or ""):
        name = next(term.name for term in reward.terms if term.kind == "token")
        raise RecipeError(f"{name} is measured on text alone, and the data set has images; use other rewards.")


def check_scaling(args: Any, normalisation: Normalisation | None, names: Sequence[str], *, by_recipe: bool) -> None:
    """Refuses a second scaling of rewards: TRL's own beside `normalisation`.

    Args:
        by_recipe: for `rlif train`, whose algorithm reinforce normalises advantages besides.
    """
    if normalisation is None:
        if scaling := [name for name in names if name in FACTORS]:
            raise RecipeError(
                f"{scaling[0]} makes some advantages smaller, which TRL's scale_rewards would undo; pass"
                " normalisation='group_std'."
            )
        return
    usual: dict[str, tuple[Any, ...]] = {
        "scale_rewards": ("group", "none"),
        "multi_objective_aggregation": ("sum_then_normalize",),
        "normalize_advantages": (False, by_recipe),
    }
    for option, values in usual.items():
        if (value := getattr(args, option, values[0])) not in values:
            raise RecipeError(
                f"both {option}={value!r} and normalisation={normalisation!r} scale the rewards; leave one of them out."
            )
