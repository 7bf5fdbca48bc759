"""`rlif report` and `rlif watch`: parsing and printing only."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rlif.cli.console import working
from rlif.errors import RlifError


@working("writing the report", "no report was written; give the same command again")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the curves of several share their figures.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page; RUN/report.html, or report.html for several runs.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for the figures as files, .svg and .png.")] = None,
) -> None:
    """Write a page about one run or several.

    It has a verdict, curves, the paper's figures and completions.
    """
    from rlif.reporting.page import report as write

    place, verdicts = write(runs, output, figures)
    for verdict in verdicts:
        print(verdict)
    print(f"the report: {place}" + (f", its figures: {figures}" if figures else ""))


def watch(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the rows of several stand side by side.")],
    once: Annotated[bool, typer.Option("--once", help="Show the runs once, and stop.")] = False,
) -> None:
    """Follow one run or several while they train.

    q or Ctrl-C ends the view and leaves the runs alone.
    """
    from rlif.reporting.watch import watch as follow

    follow(runs, once=once)


def report_of(run: Path) -> str:
    """Writes the report of a run that has just ended; returns a line with its path, or why there is none."""
    import logging

    from rlif.reporting.page import report as write

    try:
        return f"the report: {write([run])[0]}"
    except RlifError as error:
        return f"no report: {error}"
    except Exception:  # a mistake of ours; the finished run is saved, so it must not change the exit code
        logging.getLogger(__name__).exception("writing the report failed; this is a mistake of rlif.")
        return f"no report: rlif failed to write it; `rlif report {shlex.quote(str(run))}` tries again."
