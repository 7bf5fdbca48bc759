"""The command line: puts the commands together and says what went wrong."""

import os
import sys
from functools import partial
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rlif.cli import (
    check_graders,
    compare,
    eval,
    export,
    init,
    judge,
    launch,
    leaderboard,
    plan,
    probe,
    recipes,
    report,
    score,
    select,
    tasks,
    train,
)
from rlif.cli.console import show_work
from rlif.errors import RlifError
from rlif.runs.launcher_contract import USER_ERROR
from rlif.version import __version__

DEBUG = "RLIF_DEBUG"
HUB_LOGGER = "huggingface_hub.utils._http"
UsageError: Any = typer.BadParameter.__base__

COMMANDS = {
    "Train": {
        "train": train.train, "recipes": recipes.recipes, "probe": probe.probe, "plan": plan.plan,
        "launch": launch.launch,
    },
    "Follow and use runs": {
        "watch": report.watch, "report": report.report, "compare": compare.compare,
        "leaderboard": leaderboard.leaderboard, "export": export.export,
    },
    "Evaluate models, score texts": {
        "eval": eval.evaluate, "score": score.score, "select": select.select, "judge": judge.judge,
    },
    "Tasks and code of your own": {
        "tasks": tasks.tasks, "init": init.init, "check-graders": check_graders.check_graders,
    },
}  # fmt: skip


class Grouped(TyperGroup):
    """Shows the commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for title, names in COMMANDS.items():
            rows = [(name.ljust(width), self.commands[name].get_short_help_str(formatter.width)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=Grouped, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
for group in COMMANDS.values():
    for command, function in group.items():
        app.command(name=command)(function)


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
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show the progress of long work.")] = False,
) -> None:
    """Train language models by their own confidence."""
    _direct_logs(context)
    show_work(not quiet)


def _direct_logs(context: typer.Context) -> None:
    """While a command runs, prints our warnings on the error stream, and none of the hub client about its retries."""
    import logging

    handler, ours, hub = logging.StreamHandler(), logging.getLogger("rlif"), logging.getLogger(HUB_LOGGER)
    handler.setFormatter(logging.Formatter("rlif: %(message)s"))
    ours.addHandler(handler)
    context.call_on_close(partial(ours.removeHandler, handler))
    context.call_on_close(partial(hub.setLevel, hub.level))
    hub.setLevel(logging.ERROR)


def main() -> None:
    """Runs the command line: one sentence and exit code 2 for what the user can put right."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # before or after the command
    if len(arguments) < len(sys.argv[1:]):
        os.environ[DEBUG] = "1"  # processes that this one starts show theirs as well
    if isinstance(sys.stdout, TextIOWrapper):  # escape what the locale cannot show, as the error stream does
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(app(arguments, standalone_mode=False) or 0)
    except UsageError as error:
        if not arguments:  # the message is the help
            error.show()
            sys.exit(error.exit_code)
        text, command = error.format_message().rstrip("."), error.ctx.command_path if error.ctx else "rlif"
        print(f"rlif: {text[:1].lower()}{text[1:]}; see `{command} --help`.", file=sys.stderr)
        sys.exit(USER_ERROR)
    except typer.Abort:
        print("rlif: aborted.", file=sys.stderr)
        sys.exit(1)
    except RlifError as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            import traceback

            traceback.print_exception(error)
        print(f"rlif: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
