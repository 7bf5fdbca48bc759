"""`rlif compare`: parsing and printing only."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlif.cli.console import keeps, quiet_transformers, working
from rlif.cli.tables import print_table, print_text
from rlif.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlif.comparison.comparison import Comparison


@working("comparing")
def compare(
    what: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE|FOLDER|FILE.json... [KEY=VALUE]...", help="Recipes to run; runs to read."),
    ],
    seeds: Annotated[str | None, typer.Option(help="3 for 0, 1 and 2, or a list as 0,1,5; a single one as 5,")] = None,
    out: Annotated[list[Path] | None, typer.Option(help="Write the table: .md, .csv or .json; repeatable.")] = None,
    against: Annotated[str | None, typer.Option(help="The method that the others are compared with.")] = None,
    folder: Annotated[Path, typer.Option(help="Where runs of recipes go, as RECIPE-seedS.")] = Path("runs/compare"),
) -> None:
    """Compare methods on the same problems and seeds.

    Example: `rlif compare demo-long demo-collapse --seeds 3`. Recipes are run. Finished runs in the folder are read
    instead, and interrupted ones resume. Run folders, folders of them and tables written as .json are read. KEY=VALUE
    changes every recipe.
    """
    from rlif.comparison.comparison import compare as compare_runs
    from rlif.comparison.table import format_of, write

    for path in out or []:
        format_of(path)
    targets, overrides, console = [], [], None
    for argument in what:
        (overrides if "=" in argument and not Path(argument).exists() else targets).append(argument)
    if any(not Path(target).exists() or Path(target).suffix in (".yaml", ".yml") for target in targets):
        from rlif.engines.trl.callbacks import PipeSafeConsole

        quiet_transformers()
        console = PipeSafeConsole()
        keeps(f"finished runs are kept in {folder}; give the same command again")
    found = compare_runs(
        targets,
        seeds=None if seeds is None else read_seeds(seeds),
        overrides=overrides,
        folder=folder,
        against=against,
        command=_command(what, seeds, against),
        say=typer.echo,
        console=console,
    )
    show(found)
    for path in out or []:
        write(found, path)
        typer.echo(f"written: {path}")
    if any(run.state == "failed" for run in found.runs):
        raise typer.Exit(1)


def read_seeds(text: str) -> list[int]:
    """Reads how many seeds, as 3 for 0, 1 and 2, or a list with commas.

    Example:
        >>> read_seeds("3"), read_seeds("5,7"), read_seeds("5,")
        ([0, 1, 2], [5, 7], [5])
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdecimal() for part in parts) or text == "0":
        raise RecipeError(f"cannot read --seeds {text!r}; give how many, as 3, or which, as 0,1,2.")
    return sorted({int(part) for part in parts}) if "," in text else list(range(int(text)))


def show(found: Comparison) -> None:
    """Prints a table for each task, what differs between the recipes, and notes."""
    from rlif.comparison.table import groups, recipe_differences

    for title, headings, rows in groups(found):
        print(title)
        print_table(headings, rows, left=2)
    base, changes = recipe_differences(found)
    for method, changed in changes.items():
        keys = "; ".join(changed) if found.differences[method] else "none"
        print_text(f"Keys in which {method} differs from {base}: {keys}")
    for note in found.notes:
        print_text(note)


def _command(what: Sequence[str], seeds: str | None, against: str | None) -> str:
    """Writes down the command that made the table; absolute paths are cut to their names."""
    shown = [Path(argument).name if Path(argument).is_absolute() else argument for argument in what]
    options = [*(["--seeds", seeds] if seeds else []), *(["--against", against] if against else [])]
    return shlex.join(["rlif", "compare", *shown, *options])
