"""`rlif recipes`: parsing and printing only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from rlif.config.about import About

SHOWN = 2  # published scores in the table; --show has all
WIDE = 160  # columns; below that the table leaves out what the name says, too
PIPED = 200


def recipes(
    show: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print this one, its base and all defaults written out.")
    ] = None,
) -> None:
    """List the recipes that ship, or write one out."""
    from rich.console import Console
    from ruamel.yaml import YAML

    from rlif.config.about import as_file, evaluation_of, read_about

    if show is None:
        console = Console()
        console = console if console.is_terminal else Console(width=PIPED)
        console.print(table(wide=console.width >= WIDE), highlight=False)
        return
    yaml = YAML()
    yaml.width = 120
    yaml.dump(as_file(show), sys.stdout)
    if command := evaluation_of(read_about(show)):
        print(f"# what was published is measured by: {command}")


def table(wide: bool) -> Table:
    """All recipes, a row each."""
    from rich.table import Table

    from rlif.config.about import method, read_about
    from rlif.config.loading import load_recipe, shipped_recipes

    said_by_name = ("reward", "model", "data") if wide else ()
    result = Table(
        "recipe", *said_by_name, "what it is", "hardware", "published, before -> after", box=None, pad_edge=False
    )
    for column in (result.columns[0], result.columns[-2]):
        column.no_wrap = True
    for name in shipped_recipes():
        recipe, about = load_recipe(name), read_about(name)
        facts = (method(recipe), recipe.model.rpartition("/")[2], recipe.task) if wide else ()
        result.add_row(name, *facts, about.reproduces or recipe.description, about.machine, published(about))
    return result


def published(about: About) -> str:
    """The first scores that the paper reports, shortly."""
    scores = list(about.published.items())[:SHOWN]
    shown = [
        f"{task.partition('.')[0]} {before:.3f} -> {after:.3f}".replace(" 0.", " .") for task, (before, after) in scores
    ]
    return ", ".join(shown) or "-"
