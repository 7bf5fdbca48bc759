"""Compares methods: recipes run with the same seeds, or existing runs, as one table.

Runs come from recipes (`rlif.comparison.sweep`), run folders (`rlif.comparison.summary`) and files of earlier
comparisons (`rlif.comparison.summary_file`), in any mixture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif.comparison.checks import check_duplicates, check_evaluations, check_planned_evaluations, check_seeds, notes_on
from rlif.comparison.outcomes import MethodResult, evaluated_tasks, method_result
from rlif.comparison.summary import RunSummary, differing, summarise_run
from rlif.comparison.summary_file import read_summaries
from rlif.comparison.sweep import plan_sweep, run_sweep
from rlif.config.loading import find_recipe, shipped_recipes
from rlif.errors import DataError, RecipeError, lookup

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Comparison:
    """Holds the table, its notes and the runs behind it."""

    rows: list[MethodResult]  # by task, then method, in the order given
    notes: list[str]  # what a reader has to know beside the rows, a sentence each
    # by method, the keys of its recipe that differ from the first (or from the one compared against)
    differences: dict[str, dict[str, Any]]
    runs: list[RunSummary]  # the runs that it was computed from
    command: str = ""  # what made the table
    against: str | None = None  # the method that the others are compared with

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(run.method for run in self.runs))


def compare(
    what: Sequence[str | Path],
    *,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    folder: str | Path = "runs/compare",
    against: str | None = None,
    command: str = "",
    say: Callable[[str], None] = lambda line: None,
    console: Console | None = None,
) -> Comparison:
    """Compares methods: recipes, which are run with each seed, and existing runs.

    Args:
        what: recipes by name or file, run folders, folders of run folders, files that `rlif compare --out` wrote.
        seeds: run recipes with these seeds, 0, 1 and 2 if left out; of existing runs, select only these.
        overrides: `key=value`, applied to all recipes.
        folder: where the recipes' runs go; finished ones in it are read, unfinished ones resumed.
        command: what made the table, printed above it; a single file keeps its own.
        console: a rich console for the progress of runs; if left out, it is logged.

    Raises:
        RecipeError: a name is unknown, or recipes contradict each other.
        DataError: runs cannot be read, or cannot be compared.

    Example:
        >>> compare(["results/demo.json"], seeds=[0, 1, 2]).rows[0].change.percent("+")
        '+90.6 [+85.2, +96.0]'
    """
    what = [what] if isinstance(what, str | Path) else what
    if not isinstance(what, Sequence) or not all(isinstance(target, str | Path) for target in what):
        raise RecipeError(f"what to compare is {what!r:.40}; give a list of recipes, run folders or summaries.")
    methods: list[str] = []  # in the order given
    recipes, read, files = [], [], []
    for target in what:
        found = read_runs(Path(target))
        if found is None:
            recipes.append(target)
            methods.append(find_recipe(target).stem)
        else:
            read += [run for run in found[0] if seeds is None or run.seed in seeds]
            files.append(found[1])
            methods += [run.method for run in found[0]]
    if overrides and not recipes:
        raise RecipeError(
            f"{overrides[0]} changes recipes before they are run; what is given here has been run already."
        )
    planned = plan_sweep(recipes, [0, 1, 2] if seeds is None else seeds, overrides, folder)
    check_duplicates([*planned, *((run.method, run.seed) for run in read)])
    check_planned_evaluations({method: recipe for (method, _), recipe in planned.items()})
    runs = sorted([*read, *run_sweep(planned, say, console)], key=lambda run: (methods.index(run.method), run.seed))
    made = files[0] if len(what) == len(files) == 1 and seeds is None else {}
    if made.get("command") and against in (None, made["against"]):
        return table(runs, made["against"], made["command"])  # the file's own table again
    return table(runs, against, command)


def read_runs(path: Path) -> tuple[list[RunSummary], dict[str, str | None]] | None:
    """Reads the runs at a path, and how a file was made; None for a recipe, which has to run first."""
    if path.suffix == ".json" and path.is_file():
        return read_summaries(path)
    if not path.is_dir():
        return None
    folders = list(run_folders(path))
    if not folders and str(path) not in shipped_recipes():
        raise DataError(f"{path} is a folder without a run folder in it: none has a recipe.yaml.")
    runs = [summarise_run(folder) for folder in folders]
    return (sorted(runs, key=lambda run: _natural(run.method)), {}) if folders else None


def run_folders(path: Path) -> Iterator[Path]:
    """Finds the run folders at and below a path, in the order of their names."""
    if (path / "recipe.yaml").is_file():
        yield path
        return
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            yield from run_folders(folder)


def table(runs: Sequence[RunSummary], against: str | None = None, command: str = "") -> Comparison:
    """Builds the comparison of runs."""
    if not runs:
        raise RecipeError("there are no runs to compare; give recipes, or folders of runs of these seeds.")
    methods: dict[str, list[RunSummary]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    if against is not None:
        lookup(methods, against, "method")
    check_seeds(methods)
    check_evaluations(runs)
    tasks = dict.fromkeys(task for run in runs for task in evaluated_tasks([run]))
    rows = [
        method_result(method, task, mine, methods.get(against or ""))
        for task in sorted(tasks, key=lambda task: task is None)
        for method, mine in methods.items()
        if task in evaluated_tasks(mine)
    ]
    base = methods[against or runs[0].method][0].whole
    differences = {
        method: {key: now for key, (_, now) in differing(base, mine[0].whole).items()}
        for method, mine in methods.items()
    }
    return Comparison(rows, notes_on(methods), differences, list(runs), command, against)


def _natural(name: str) -> list[Any]:
    """Splits a name for sorting, with the numbers in it as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
