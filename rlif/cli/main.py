"""The command line: one file per command, put together here."""

from __future__ import annotations

import sys

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

app = typer.Typer(
    help="Train language models by their own confidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
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


def main() -> None:
    """Runs the command line: one sentence and exit code 2 for what the user can put right."""
    try:
        app()
    except RlifError as error:
        print(f"rlif: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
