"""Refuses runs that cannot be compared, and notes what a reader has to know about the others.

Refused: runs evaluated on a task with different problems, prompt, template or decoding; seeds of a method with
different recipes. Noted: runs that did not finish, `CONDITIONS` that differ between methods, and different problems
in the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlif.comparison.summary import COUNTED_STATES, RunSummary, differing, flatten
from rlif.config.recipe import Recipe
from rlif.errors import DataError, RecipeError
from rlif.tasks import find_task

CONDITIONS = (
    "model", "revision", "task", "source", "split", "limit", "prompt", "prompt.user", "prompt.system", "chat",
    "max_prompt_tokens", "problems_per_update", "evaluate.every", "training.num_generations", "training.max_steps",
    "training.num_train_epochs", "training.max_completion_length", "training.temperature",
)  # fmt: skip
FINGERPRINTS = ("ids", "content")  # of the problems evaluated


def check_evaluated_alike(recipes: Mapping[str, Recipe]) -> None:
    """Refuses recipes that would evaluate one task in different ways, before any of them is run."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for method, recipe in recipes.items():
        for task in recipe.evaluate.tasks:
            protocol = find_task(task).protocol
            ways = {
                "evaluate.limit": recipe.evaluate.limit,
                f"evaluate.sources.{task}": recipe.evaluate.sources.get(task),
                "prompt": recipe.prompt or protocol.prompt,
                "chat": recipe.chat,
                "completion limit": min(protocol.max_tokens, recipe.resolved_training["max_completion_length"]),
            }
            other, there = first.setdefault(task, (method, ways))
            for key, (one, two) in differing(there, ways).items():
                raise RecipeError(
                    f"{other} and {method} would be evaluated on {task} in two ways: {key} is {one!r} and {two!r}; give"
                    " all of them the same, or compare them apart."
                )


def check_settings(runs: Sequence[RunSummary]) -> None:
    """Refuses runs that were evaluated on one task in different ways."""
    first: dict[str, RunSummary] = {}
    for run in runs:
        for task, settings in run.settings.items():
            other = first.setdefault(task, run)
            for key, (one, two) in differing(other.settings[task], settings).items():
                if key in FINGERPRINTS and None in (one, two):
                    continue  # not kept by one of them
                raise DataError(
                    f"{other.label} and {run.label} were evaluated on {task} in two ways: {key} is {one!r} and {two!r};"
                    " evaluate both in one way, or compare them apart."
                )


def check_seeds(methods: Mapping[str, Sequence[RunSummary]]) -> None:
    """Refuses a method whose seeds are not runs of one recipe."""
    for first, *later in methods.values():
        for run in later:
            for key, (one, two) in differing(first.whole, run.whole).items():
                raise DataError(
                    f"{first.label} and {run.label} are not seeds of one method: {key} is {one!r} and {two!r}; name"
                    " their folders apart."
                )


def check_twice(runs: Sequence[tuple[str, int]]) -> None:
    """Refuses two runs of one method with one seed."""
    for i, (method, seed) in enumerate(runs):
        if (method, seed) in runs[:i]:
            raise DataError(
                f"there are two runs of {method} with seed {seed}; compare their folders apart, or rename one."
            )


def notes_on(methods: Mapping[str, Sequence[RunSummary]]) -> list[str]:
    """Collects what a reader has to know beside the rows, a sentence each."""
    runs = [run for mine in methods.values() for run in mine]
    notes = [f"{run.label}: {run.said}." for run in runs if run.said]
    recipes = {method: flatten(mine[0].whole) for method, mine in methods.items()}
    for key in CONDITIONS:
        values: dict[str, list[str]] = {}
        for method, recipe in recipes.items():
            values.setdefault(repr(recipe.get(key)), []).append(method)
        if len(values) > 1:
            text = "; ".join(f"{value} for {', '.join(names)}" for value, names in values.items())
            notes.append(f"Not the same for all: {key} is {text}.")
    seeds: dict[tuple[int, ...], list[str]] = {}
    for method, mine in methods.items():
        seeds.setdefault(tuple(run.seed for run in mine if run.state in COUNTED_STATES), []).append(method)
    if len(seeds) > 1:
        text = "; ".join(f"{', '.join(map(str, some)) or 'none'} for {', '.join(m)}" for some, m in seeds.items())
        notes.append(f"Not the same for all: the seeds that count are {text}.")
    notes += _other_problems(runs)
    if any(len(some) == 1 for some in seeds):
        notes.append("One seed gives no interval: one over problems would not say what another seed gives.")
    return notes


def _other_problems(runs: Sequence[RunSummary]) -> list[str]:
    """Notes runs of one seed that were trained on different problems, or in another order."""
    first: dict[int, RunSummary] = {}
    notes = []
    for run in runs:
        if not run.trained_on and not run.first_problems:
            continue
        other = first.setdefault(run.seed, run)
        pairs = zip(other.first_problems, run.first_problems, strict=False)
        if run.trained_on and other.trained_on and run.trained_on != other.trained_on:
            notes.append(f"{run.label} was trained on other problems than {other.label}.")
        elif any(one != two for one, two in pairs):
            notes.append(f"{run.label} met other problems in its first step than {other.label}.")
    return notes
