"""Refuses runs that cannot be compared, and notes what a reader has to know about the others.

Refused: runs evaluated on a task with different problems, prompt, template or decoding; seeds of a method with
different recipes. Noted: runs that did not finish, `CONDITIONS` that differ between methods, and different problems
in the first step.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlif.comparison.summary import RunSummary, differing, flatten
from rlif.config.recipe import Recipe
from rlif.errors import DataError, RecipeError, RlifError
from rlif.tasks import find_task

CONDITIONS = (
    "model", "revision", "task", "source", "columns.prompt", "columns.gold", "split", "limit", "prompt",
    "prompt.user", "prompt.system", "chat", "max_prompt_tokens", "problems_per_update", "evaluate.every",
    "training.num_generations", "training.max_steps", "training.num_train_epochs", "training.max_completion_length",
    "training.temperature",
)  # fmt: skip
FINGERPRINTS = ("ids", "content")  # of the problems evaluated


def check_planned_evaluations(recipes: Mapping[str, Recipe]) -> None:
    """Refuses recipes that would evaluate one task in different ways, before any of them is run."""
    planned = []
    for method, recipe in recipes.items():
        for task in recipe.evaluate.tasks:
            protocol = find_task(task).protocol
            settings = {
                "evaluate.limit": recipe.evaluate.limit,
                f"evaluate.sources.{task}": recipe.evaluate.sources.get(task),
                f"evaluate.columns.{task}": recipe.evaluate.columns.get(task),
                "prompt": recipe.prompt or protocol.prompt,
                "chat": recipe.chat,
                "completion limit": min(protocol.max_tokens, recipe.resolved_training["max_completion_length"]),
            }
            planned.append((method, task, settings))
    _refuse_two_ways(planned, RecipeError, "would be", "give all of them the same")


def check_evaluations(runs: Sequence[RunSummary]) -> None:
    """Refuses runs that were evaluated on one task in different ways."""
    made = [(run.label, task, settings) for run in runs for task, settings in run.settings.items()]
    _refuse_two_ways(made, DataError, "were", "evaluate both in one way")


def _refuse_two_ways(
    evaluations: Iterable[tuple[str, str, Mapping[str, Any]]], kind: type[RlifError], were: str, advice: str
) -> None:
    """Compares the settings of each evaluation, given as label, task and settings, with the first on its task."""
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for label, task, settings in evaluations:
        other, there = first.setdefault(task, (label, settings))
        for key, (one, two) in differing(there, settings).items():
            if not (key in FINGERPRINTS and None in (one, two)):  # older runs kept no fingerprints
                raise kind(
                    f"{other} and {label} {were} evaluated on {task} in two ways: {key} is {one!r} and {two!r};"
                    f" {advice}, or compare them apart."
                )


def check_seeds(methods: Mapping[str, Sequence[RunSummary]]) -> None:
    """Refuses seeds of a method that are not runs of one recipe."""
    for first, *later in methods.values():
        for run in later:
            for key, (one, two) in differing(first.whole, run.whole).items():
                raise DataError(
                    f"{first.label} and {run.label} are not seeds of one method: {key} is {one!r} and {two!r}; name"
                    " their folders apart."
                )
            if first.weights != run.weights:
                raise DataError(
                    f"{first.label} and {run.label} began with other weights: {first.weights or 'not named'}, and"
                    f" {run.weights or 'not named'}; name their folders apart."
                )


def check_duplicates(runs: Sequence[tuple[str, int]]) -> None:
    """Refuses two runs of one method with one seed."""
    for (method, seed), number in Counter(runs).items():
        if number > 1:
            raise DataError(
                f"there are two runs of {method} with seed {seed}; compare their folders apart, or rename one."
            )


def notes_on(methods: Mapping[str, Sequence[RunSummary]]) -> list[str]:
    """Collects what a reader has to know beside the rows, a sentence each."""
    runs = [run for mine in methods.values() for run in mine]
    notes = [f"{run.label}: {run.said}." for run in runs if run.said]
    recipes = {method: flatten(mine[0].whole) for method, mine in methods.items()}
    for key in CONDITIONS:
        notes += _note_unequal(f"{key} is", {method: repr(recipe.get(key)) for method, recipe in recipes.items()})
    weights = {method: mine[0].weights or "not named" for method, mine in methods.items()}
    notes += _note_unequal("the weights are", weights)
    if len({*weights.values()}) == 1 and runs[0].weights:
        notes.append(f"Weights: {runs[0].weights}.")
    seeds = {method: [str(run.seed) for run in mine if run.counts] for method, mine in methods.items()}
    notes += _note_unequal("the seeds that count are", {m: ", ".join(some) or "none" for m, some in seeds.items()})
    notes += _note_other_problems(runs)
    if any(len(some) == 1 for some in seeds.values()):
        notes.append("One seed gives no interval: one over problems would not say what another seed gives.")
    return notes


def _note_unequal(what: str, values: Mapping[str, str]) -> list[str]:
    """Notes a condition that differs between methods; `values` are by method."""
    methods: dict[str, list[str]] = {}
    for method, value in values.items():
        methods.setdefault(value, []).append(method)
    text = "; ".join(f"{value} for {', '.join(names)}" for value, names in methods.items())
    return [f"Not the same for all: {what} {text}."] if len(methods) > 1 else []


def _note_other_problems(runs: Sequence[RunSummary]) -> list[str]:
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
