"""`rlif train`: parsing and printing only."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlif.cli.console import keeps, quiet_transformers, working
from rlif.cli.options import Overrides, RecipeOrNone, Resume, find_settings
from rlif.cli.plan import print_memory
from rlif.cli.probe import show_guard
from rlif.cli.report import report_of
from rlif.cli.tables import number, share
from rlif.errors import RecipeError, RlifError
from rlif.runs.launcher_contract import GUARD_STOPPED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rlif.config.recipe import Recipe
    from rlif.runs.folder import Run


@working("training")
def train(
    recipe: RecipeOrNone = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and its costs, and stop.")] = False,
    resume: Resume = None,
) -> None:
    """Train a model by a recipe.

    Example: `rlif train demo seed=1`. KEY=VALUE changes any key of the recipe.
    """
    if resume is not None and dry_run:
        raise RecipeError("--dry-run is for a recipe; give it without --resume.")
    settings, name, run = find_settings(recipe, overrides, resume, "train demo")
    if dry_run:
        _show_plan(settings)
    else:
        _train(settings, name, run)


def _train(recipe: Recipe, name: str, resume: Run | None) -> None:
    from accelerate import PartialState

    from rlif.engines.trl.callbacks import PipeSafeConsole
    from rlif.training.lifecycle import train

    quiet_transformers()
    console = PipeSafeConsole()
    run = train(recipe, name=name, resume=resume, console=console)
    keeps(f"the run is finished; `rlif report {shlex.quote(str(run.path))}` writes its report")
    if recipe.engine == "verl":  # whose processes are verl's own
        _show(run, console)
    else:
        state = PartialState()
        if state.is_main_process:
            _show(run, console)
        state.destroy_process_group()
    if run.summary()["guard"]["stopped"]:
        raise typer.Exit(GUARD_STOPPED)


def _show(run: Run, console: Console) -> None:
    """Prints what the run has come to, and writes its report."""
    from rlif.config.rounds import feedback_of, in_rounds

    summary = run.summary()
    if summary["evaluations"]:
        console.print(before_and_after(run))
    names = feedback_of(run.recipe())
    feedback = f"{names[0]} alone" if len(names) == 1 else " and ".join(names)
    how = "on samples chosen by" if in_rounds(run.recipe()) else "rewarded by"
    steps = "1 step" if summary["steps"] == 1 else f"{summary['steps']} steps"
    model = f"the trained model: {run.model}" if run.model.is_dir() else f"the trained model is gone from {run.model}"
    console.print(
        f"{steps} in {summary['seconds']:.0f} s, {how} {feedback};"
        f" extra passes per completion: {summary['extra_passes']:g} ({summary['path']})"
        f"\n{model}\n{report_of(run.path)}",
        highlight=False,
        soft_wrap=True,
    )
    show_guard(run, console)


def before_and_after(run: Run) -> Table:
    """Makes the table of held-out accuracy, length and self-certainty of a finished run."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("held-out", ""):
        table.add_column(heading, no_wrap=True)
    for heading in ("accuracy [95 %]", "n", "tokens", "self-certainty"):
        table.add_column(heading, justify="right", no_wrap=True)
    trained = run.recipe().task
    for task, pair in run.summary()["evaluations"].items():
        for when in ("before", "after"):
            row = [share(pair[when]["accuracy"]), str(pair[when]["accuracy"]["n"])]
            row += [number(pair[when]["completion_length"], 1), number(pair[when]["self_certainty"], 2)]
            name = f"{task} (trained)" if task == trained else task
            table.add_row(name if when == "before" else "", when, *row, end_section=when == "after")
    return table


def _show_plan(recipe: Recipe) -> None:
    """Prints the resolved recipe, its steps and memory as far as known here; then raises what would stop the run."""
    from ruamel.yaml import YAML

    from rlif.runs.folder import check_name
    from rlif.sampling.loading import load_config
    from rlif.training.prepare import check_settings, rehearse

    quiet_transformers()
    _, _, training = check_settings(recipe, processes=1)
    YAML().dump(recipe.written_out() | {"training": training}, sys.stdout)
    if recipe.engine == "verl":
        print_options(recipe)
    config, failure = None, None
    try:
        config = load_config(recipe)
        check_name(recipe)
        plan = rehearse(recipe)
        rounds, most, rows = recipe.rounds, "", "problems"
        if rounds is not None:
            number = "one round" if rounds.number == 1 else f"{rounds.number} rounds"
            most, rows = f"{number}, at most ", "completions or pairs"
        print(f"\n{plan.problems:,} problems, {most}{plan.steps:,} steps of {recipe.problems_per_update} {rows}")
        print(f"{plan.completions:,} completions, at most {plan.tokens:,} tokens to generate")
    except RlifError as error:
        failure = error
    online = recipe.rounds is None and recipe.engine == "trl"
    if config is not None and online and not isinstance(failure, RecipeError):
        print("memory of a GPU that trains alone, GiB (estimate; `rlif plan` does the same for several):")
        try:
            _show_memory(recipe, config)
        except RlifError as error:
            print(f"  unknown: {error}")
    if failure is not None:
        raise failure


def print_options(recipe: Recipe, gpus: int = 1, nodes: int = 1) -> None:
    """Prints the options that a recipe becomes with engine verl, one a line."""
    from pathlib import Path

    from rlif.engines.verl.options import Machines, command, translate

    run = Path(recipe.output).expanduser().absolute() / (recipe.name or "RUN")
    print("\npython -m verl.trainer.main_ppo", *command(translate(recipe, Machines(gpus, nodes), run)), sep=" \\\n  ")


def _show_memory(recipe: Recipe, config: Any) -> None:
    """Prints the parts of memory for an unknown GPU; a vLLM server has a GPU of its own."""
    from rlif.launching import cost_model as costs
    from rlif.launching.hardware import shape_of

    longest, shape = recipe.resolved_training["max_completion_length"], shape_of(config)
    server = int(bool(recipe.training.get("use_vllm")) and recipe.training.get("vllm_mode") == "server")
    setting = costs.Setting(recipe, shape, None, 1 + server, "ddp", server, recipe.max_prompt_tokens / 2, longest)
    print_memory(costs.memory(setting), digits=3)
