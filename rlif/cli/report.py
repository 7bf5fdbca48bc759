"""Commands that look at runs: report and watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are laid over each other.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page; RUN/report.html, or report.html for several runs.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for the figures as files, .svg and .png.")] = None,
) -> None:
    """Write a page about one run or several: verdict, curves, the paper's figures, completions."""
    from rlif.reporting.page import report as write

    place, verdicts = write(runs, output, figures)
    for verdict in verdicts:
        print(verdict)
    print(f"the report: {place}" + (f", its figures: {figures}" if figures else ""))


def watch(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    once: Annotated[bool, typer.Option("--once", help="Show it as it is, and stop.")] = False,
) -> None:
    """Follow a run that is going; q or Ctrl-C ends the view, not the run."""
    from rlif.reporting.watch import watch as follow

    follow(run, once=once)


def after_training(run: Path) -> str:
    """Writes the report of a run that has just ended, and says so, or why not; a sentence either way."""
    from rlif.reporting.page import report as write

    try:
        return f"the report: {write([run])[0]}"
    except Exception as error:  # the run is finished and saved, whatever becomes of the page about it
        return f"no report: {error}"
