"""`rlif plan`: parsing and printing only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from rlif.cli.options import Overrides, Recipe, ServerGpus, Strategy
from rlif.cli.tables import print_text
from rlif.errors import RecipeError, RlifError, lookup

if TYPE_CHECKING:
    from rlif.launching.cost_model import Setting
    from rlif.tasks import Task

Gpu = Annotated[
    str, typer.Option(help="The kind of GPU: b200, h200, h100, h100-pcie, a100, a100-40, l40s, a6000, 4090 or 3090.")
]


def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    gpu: Gpu = "h100",
    gpus: Annotated[
        int, typer.Option(min=1, help="Number of GPUs on all machines, without those of a running server.")
    ] = 8,
    strategy: Strategy = "ddp",
    server_gpus: ServerGpus = 1,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Mean length of a prompt; by default half of max_prompt_tokens.")
    ] = None,
    completion_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Mean length of a completion; by default the longest that the recipe allows."),
    ] = None,
    problems: Annotated[
        int | None, typer.Option(min=1, help="Number of training problems; counted in the data if left out.")
    ] = None,
) -> None:
    """Estimate memory and time of a run on given GPUs.

    Example: `rlif plan intuitor-qwen2.5-3b-math --gpu h100`. Nothing is loaded but the model's configuration. Use it
    before renting GPUs: it says whether the run fits, how long it takes and, where it does not fit, what would help.
    """
    from rlif.config.loading import load_recipe
    from rlif.config.steps import check_annotator
    from rlif.launching import cost_model as costs
    from rlif.launching import hardware
    from rlif.launching.commands import STRATEGIES, Layout, check_layout, wants_server
    from rlif.training.prepare import check_settings

    settings = load_recipe(recipe, overrides or [])
    if settings.rounds:
        raise RecipeError("rlif plan estimates online training; `rlif train RECIPE --dry-run` counts steps of rounds.")
    if settings.engine == "verl":
        raise RecipeError("rlif plan knows TRL's memory and time; give engine=trl for a comparable estimate.")
    card = lookup(hardware.GPUS, gpu, "gpu")
    server = server_gpus if settings.training.get("use_vllm") and settings.training.get("vllm_mode") == "server" else 0
    elsewhere = 0 if wants_server(settings) else server  # a running server has GPUs of its own
    trainers = gpus + elsewhere - server
    if trainers < 1:
        raise RecipeError(f"{gpus} GPUs leave none to train beside {server} of the vLLM server.")
    lookup(STRATEGIES, strategy, "strategy")
    task, *_ = check_settings(settings, trainers)
    check_layout(settings, Layout(trainers, 1, strategy, server), None)
    config = hardware.config_of(settings)
    check_annotator(settings, config)
    longest = settings.resolved_training["max_completion_length"]
    if completion_tokens is not None and completion_tokens > longest:
        raise RecipeError(f"completions have at most {longest} tokens here (training.max_completion_length).")
    setting = costs.Setting(
        recipe=settings,
        shape=hardware.shape_of(config),
        gpu=card,
        gpus=gpus + elsewhere,
        strategy=strategy,
        server_gpus=server,
        prompt=prompt_tokens or settings.max_prompt_tokens / 2,
        completion=completion_tokens or longest,
    )
    _show_setting(setting, f"{gpus} x {gpu}", completion_tokens is not None)
    _show_memory(setting)
    _show_time(setting, task, problems)


def _show_setting(setting: Setting, gpus: str, chosen: bool) -> None:
    """Prints model, GPUs and lengths; `chosen` where the length of completions was given."""
    shape, card = setting.shape, setting.card
    print_text(
        f"{setting.recipe.model}: {shape.parameters / 1e9:.2f} B parameters, {gpus} ({card.memory:g} GiB,"
        f" {card.flops / 1e12:g} TFLOP/s, {card.bandwidth / 1e12:g} TB/s; {card.source}), {setting.strategy}"
    )
    print_text(
        f"{setting.rows} completions per update, prompts of {setting.prompt:g} tokens, completions of"
        f" {setting.completion:g}" + ("" if chosen else " (the most; --completion-tokens says otherwise)")
    )


def _show_memory(setting: Setting) -> None:
    """Prints the parts of memory, whether they fit, and which settings would help."""
    from rlif.launching import cost_model as costs
    from rlif.launching.suggestions import suggestions

    parts, left = costs.memory(setting), costs.room(setting)
    print("\nmemory of a GPU that trains, GiB")
    print_memory(parts, digits=2)
    if costs.fits(setting):
        print(f"  fits, {left:.1f} GiB to spare")
        return
    if left < 0:
        print(f"  does not fit, {-left:.1f} GiB too much")
    if costs.vllm_room(setting) < 0:
        print(f"  vLLM's share is {-costs.vllm_room(setting):.1f} GiB too small for the weights and a completion")
    found = suggestions(setting)
    print("  what would help:" if found else "  no three changes help: more GPUs, or a smaller model")
    for name, spare in found:
        print(f"    {name}: {spare:.1f} GiB to spare")


def print_memory(parts: dict[str, float], digits: int) -> None:
    """Prints the parts of memory and their sum in GiB."""
    for name, size in {**parts, "together": sum(parts.values())}.items():
        print(f"  {name:<28}{size:9.{digits}f}")


def _show_time(setting: Setting, task: Task, problems: int | None) -> None:
    """Prints the time of an update, and of the run where the number of updates is known."""
    from rlif.config.steps import plan_steps
    from rlif.launching import cost_model as costs

    time, recipe = costs.step_time(setting), setting.recipe
    if math.isinf(time.total):
        print("\ntime unknown: vLLM cannot generate here")
        return
    print(f"\ntime of an update, seconds ({costs.passes(setting)} scoring passes)")
    for name in ("generation", "scoring", "training", "total"):
        print(f"  {name:<28}{getattr(time, name):9.2f}")
    try:
        steps = recipe.training.get("max_steps", -1)
        if steps <= 0:
            data = {"source": recipe.source, "limit": recipe.limit, "seed": recipe.seed}
            number = len(task.load(recipe.split, **data)) if problems is None else problems
            steps = plan_steps(recipe, number, setting.trainers).steps
    except RlifError as error:
        if problems is not None:
            raise
        print_text(f"updates of the run unknown: {error}")
        return
    hours = steps * time.total / 3600
    print(f"{steps:,} updates: {hours:.2g} hours, {hours * setting.gpus:.2g} GPU hours")
    print_text("estimates, each part right to about a factor of two at best: docs/scaling.md says what they assume")
