"""The command line: puts the commands together and says what went wrong."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Annotated

import typer

from rlif.cli import (
    check_graders,
    compare,
    eval,
    judge,
    launch,
    plan,
    probe,
    recipes,
    report,
    score,
    select,
    tasks,
    train,
)
from rlif.errors import RlifError
from rlif.runs.launcher_contract import INTERRUPTED, USER_ERROR
from rlif.version import __version__

DEBUG = "RLIF_DEBUG"
RESUMED, RESUMED_WITH_OUT = ("compare", "eval", "judge"), ("score", "select")  # by the same command, after Ctrl-C

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command(name="train")(train.train)
app.command(name="recipes")(recipes.recipes)
app.command(name="probe")(probe.probe)
app.command(name="plan")(plan.plan)
app.command(name="launch")(launch.launch)
app.command(name="watch")(report.watch)
app.command(name="report")(report.report)
app.command(name="compare")(compare.compare)
app.command(name="eval")(eval.evaluate)
app.command(name="tasks")(tasks.tasks)
app.command(name="check-graders")(check_graders.check_graders)
app.command(name="judge")(judge.judge)
app.command(name="score")(score.score)
app.command(name="select")(select.select)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rlif {__version__}")
        raise typer.Exit


@app.callback()
def general(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help=f"Also show the traceback of an error, for a report of a bug; {DEBUG}=1 does the same."
        ),
    ] = False,
) -> None:
    """Train language models by their own confidence."""
    context.with_resource(_warnings_on_stderr())
    context.with_resource(_quiet_hub())


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Prints warnings as lines on the error stream while a command runs."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("rlif: %(message)s"))
    logger = logging.getLogger("rlif")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silences the hub client's notes about each retry while a command runs; our sentence says what failed."""
    import logging

    logger = logging.getLogger("huggingface_hub.utils._http")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _interrupted(arguments: list[str]) -> str:
    """Says after Ctrl-C whether the same command resumes; empty for commands that say so themselves or cannot."""
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    if command in RESUMED_WITH_OUT and not any(argument.startswith(("--out", "-o")) for argument in arguments):
        return "interrupted; the same command resumes only with --out."
    if command not in (*RESUMED, *RESUMED_WITH_OUT) or "--overwrite" in arguments:
        return ""
    return "interrupted; finished work is kept, and the same command resumes."


def main() -> None:
    """Runs the command line: one sentence and exit code 2 for what the user can put right."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # before or after the command
    if len(arguments) < len(sys.argv[1:]):
        os.environ[DEBUG] = "1"  # processes that this one starts show theirs as well
    if isinstance(sys.stdout, TextIOWrapper):  # escape what the locale cannot show, as the error stream does
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(arguments)
    except RlifError as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            import traceback

            traceback.print_exception(error)
        print(f"rlif: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except SystemExit as end:  # Typer's too for Ctrl-C
        if end.code == INTERRUPTED and (said := _interrupted(arguments)):
            print(f"rlif: {said}", file=sys.stderr)
        raise
