"""Runs recipes x seeds: makes missing runs, resumes unfinished ones and reads finished ones.

Runs are called RECIPE-seedS and lie in one folder. All recipes run with the first seed before the second seed begins,
so that an interrupted sweep can still compare methods. Unknown keys, duplicate names and folders that hold another
run are refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlif.comparison.summary import NAMES, RunSummary, differing, portable_recipe, summarise_run, whole_recipe
from rlif.config.loading import check_recipe, find_recipe, load_recipe
from rlif.config.recipe import Recipe
from rlif.errors import RecipeError, RlifError
from rlif.runs.folder import Run, is_free, resolved

if TYPE_CHECKING:
    from rich.console import Console

SETS = {"seed": "--seeds", "name": "the recipe's own name", "output": "--folder"}
AGAIN = "give the same command again"  # which resumes the unfinished runs of a sweep


def plan_sweep(
    recipes: Sequence[str | Path], seeds: Sequence[int], overrides: Sequence[str], folder: str | Path
) -> dict[tuple[str, int], Recipe]:
    """Resolves the recipe of each run by method and seed, in their order; refuses folders that hold another run."""
    for override in overrides:
        key = override.partition("=")[0]
        if key in SETS:
            raise RecipeError(f"{key} differs from run to run in a comparison; it is set by {SETS[key]}.")
    loaded: dict[str, Recipe] = {}
    for recipe in recipes:
        method = find_recipe(recipe).stem
        if method in loaded:
            raise RecipeError(f"two recipes are called {method}; rename one of the files.")
        loaded[method] = load_recipe(recipe, overrides)
    runs = {}
    for seed in seeds:
        for method, recipe in loaded.items():
            own = {"seed": seed, "name": f"{method}-seed{seed}", "output": str(folder)}
            runs[method, seed] = check_recipe(recipe.model_dump() | own)
    for recipe in runs.values():
        _refuse_another(recipe)
    return runs


def run_sweep(
    runs: Mapping[tuple[str, int], Recipe],
    say: Callable[[str], None] = lambda line: None,
    console: Console | None = None,
) -> list[RunSummary]:
    """Makes the missing runs and reads all of them.

    A run that ends in an RlifError is recorded as failed, and the others continue.
    An unknown name in a recipe is refused before anything runs.
    """
    if not all(_is_finished(recipe) for recipe in runs.values()):
        from rlif.training.prepare import check_names

        for recipe in {method: recipe for (method, _), recipe in runs.items()}.values():
            check_names(recipe)
    found = []
    for number, ((method, _), recipe) in enumerate(runs.items(), start=1):
        path, finished = _path(recipe), _is_finished(recipe)
        say(f"{path.name}, {number} of {len(runs)}{': finished, read' if finished else ''}")
        try:
            if not finished:
                from rlif.training.lifecycle import train

                existing = None if is_free(path) else Run.open(path)
                train(existing.recipe() if existing else recipe, resume=existing, console=console, again=AGAIN)
            found.append(summarise_run(path, method))
        except RlifError as error:
            say(f"{path.name} failed: {error}")
            found.append(_failed(recipe, method, str(error)))
    return found


def _path(recipe: Recipe) -> Path:
    return Path(recipe.output).expanduser() / str(recipe.name)


def _is_finished(recipe: Recipe) -> bool:
    return (_path(recipe) / "summary.json").is_file()


def _refuse_another(recipe: Recipe) -> None:
    path = _path(recipe)
    if is_free(path):
        return
    if not (path / "recipe.yaml").is_file():
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise RecipeError(f"{path} is not a run folder; give another --folder, or remove it.")
        return
    existing, planned = whole_recipe(Run.open(path)), resolved(recipe, str(recipe.name))
    for key, (then, now) in differing(existing, planned).items():
        if key == "seed" or key not in NAMES:
            raise RecipeError(
                f"{path} holds a run with {key} {then!r}, and this one has {now!r}; give another --folder, or"
                " remove it."
            )


def _failed(recipe: Recipe, method: str, error: str) -> RunSummary:
    """Summarises a run that failed, from whatever its folder holds."""
    path = _path(recipe)
    said = f"failed: {error.replace(str(path), path.name)}"
    try:
        found = summarise_run(path, method)
    except RlifError:
        return RunSummary(method, recipe.seed, portable_recipe(resolved(recipe, str(recipe.name))), "failed", said)
    return replace(found, state="failed", said=said)
