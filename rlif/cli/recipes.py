"""`rlif recipes`: parsing and printing only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rlif.cli.tables import print_table, screen_width

if TYPE_CHECKING:
    from rlif.config.about import About

SHOWN = 2  # published scores in the table; --show has all
WIDE = 160  # columns of a screen that shows the whole table


def recipes(
    show: Annotated[str | None, typer.Option(metavar="NAME", help="Print this one with base and defaults.")] = None,
) -> None:
    """List the recipes that ship, or write one out."""
    from ruamel.yaml import YAML

    from rlif.config.about import as_file, evaluation_of, read_about

    if show is None:
        headings, rows = table()
        if screen_width() < WIDE:  # the name says reward, model and data, too
            headings, *rows = [[row[0], *row[4:]] for row in (headings, *rows)]
        print_table(headings, rows, left=len(headings))
        return
    yaml = YAML()
    yaml.width = 120
    yaml.dump(as_file(show), sys.stdout)
    if command := evaluation_of(read_about(show)):
        print(f"# what was published is measured by: {command}")


def table() -> tuple[list[str], list[list[str]]]:
    """Returns the headings, and a row for each recipe."""
    from rlif.config.about import method, read_about
    from rlif.config.loading import load_recipe, shipped_recipes

    headings = ["recipe", "learns from", "model", "data", "hardware", "published, before -> after", "what it is"]
    rows = []
    for name in shipped_recipes():
        recipe, about = load_recipe(name), read_about(name)
        settings = (method(recipe), recipe.model.rpartition("/")[2], recipe.task)
        rows.append([name, *settings, about.machine, published(about), about.reproduces or recipe.description])
    return headings, rows


def published(about: About) -> str:
    """Writes the first scores that the paper reports, in short form."""
    scores = list(about.published.items())[:SHOWN]
    shown = [
        f"{task.partition('.')[0]} {before:.3f} -> {after:.3f}".replace(" 0.", " .") for task, (before, after) in scores
    ]
    return ", ".join(shown) or "-"
