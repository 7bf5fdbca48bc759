"""`rlif launch`: parsing and printing only."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlif.cli.options import Overrides, RecipeOrNone
from rlif.errors import MachineError, RecipeError

if TYPE_CHECKING:
    from rlif.config.recipe import Recipe


def launch(
    recipe: RecipeOrNone = None,
    overrides: Overrides = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many, over all machines; one for each GPU if left out.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that train.")] = 1,
    strategy: Annotated[str, typer.Option(help="ddp, fsdp2, zero2 or zero3.")] = "ddp",
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit a batch script instead; needs --processes.")] = False,
    head: Annotated[str | None, typer.Option(help="Several machines without Slurm: HOST[:PORT] of the first.")] = None,
    rank: Annotated[int, typer.Option(help="Several machines without Slurm: the number of this one, from 0.")] = 0,
    server_gpus: Annotated[int, typer.Option(min=1, help="GPUs of the vLLM server, if the recipe has one.")] = 1,
    resume: Annotated[Path | None, typer.Option(help="Resume this run folder from its last checkpoint.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, and stop.")] = False,
) -> None:
    """Train on several GPUs or machines.

    Example: `rlif launch --processes 8 intuitor-qwen2.5-3b-math`.
    """
    from rlif.launching import commands as launching
    from rlif.launching import supervise
    from rlif.launching.slurm import batch_script
    from rlif.training.prepare import check_settings

    settings, folder, stem = _target(recipe, overrides or [], resume, rank)
    server = server_gpus if launching.wants_server(settings) else 0
    gpus = None if dry_run or slurm else _gpus()
    processes = processes or _training_gpus(server, gpus or 0) * nodes
    check_settings(settings, processes)
    layout = launching.Layout(processes, nodes, strategy, server)
    launching.check_layout(settings, layout, gpus)
    start = ["--resume", str(resume)] if recipe is None else [recipe, *(overrides or [])]
    if slurm:
        known = folder if resume or settings.name else None
        _submit(batch_script(settings, layout, start, stem, known), dry_run)
        return
    if server and nodes > 1:
        raise RecipeError(
            "several machines and a vLLM server are started by --slurm; without it start `trl vllm-serve` yourself and"
            " give training.vllm_server_host."
        )
    start += [] if resume or settings.name else [f"name={folder.name}"]
    train = launching.train_command(layout, launching.machine_options(layout, rank, head), ["train", *start])
    serve = launching.server_command(settings, server) if server else None
    shares = launching.shares_of_gpus(layout, os.environ.get("CUDA_VISIBLE_DEVICES"))
    environments = [{"CUDA_VISIBLE_DEVICES": share} if server else {} for share in shares]
    if dry_run:
        lines = [] if serve is None else [_line(serve, environments[1]) + " &"]
        print("\n".join([*lines, _line(train, environments[0])]))
        return
    machine = [] if nodes == 1 else ["--head", str(head), "--rank", str(rank)]
    ending = supervise.run(
        train,
        folder,
        again=launching.again(folder, layout, ["--slurm"] if "SLURM_PROCID" in os.environ else machine),
        first=rank * layout.per_node,
        server=serve,
        train_environment=environments[0],
        server_environment=environments[1],
    )
    if ending.sentence:
        print(f"rlif: {ending.sentence}", file=sys.stderr)
    raise typer.Exit(ending.code)


def _target(recipe: str | None, overrides: list[str], resume: Path | None, rank: int) -> tuple[Recipe, Path, str]:
    """Finds the recipe, the run folder and the stem of its name."""
    from rlif.config.loading import find_recipe, load_recipe
    from rlif.launching.commands import run_folder
    from rlif.runs.folder import Run

    if resume is not None:
        if recipe is not None:
            raise RecipeError("--resume takes the recipe from the run folder; give none beside it.")
        return Run.open(resume).recipe(), resume, resume.name
    if recipe is None:
        raise RecipeError("give a recipe, e.g. `rlif launch --processes 2 demo`, or a run folder with --resume.")
    settings, stem = load_recipe(recipe, overrides), find_recipe(recipe).stem
    return settings, run_folder(settings, stem, rank), stem


def _training_gpus(server: int, gpus: int) -> int:
    """Counts the GPUs that train: all that the vLLM server leaves."""
    if gpus == 0:
        raise RecipeError("how many processes? give --processes: there is no GPU here to count.")
    if gpus <= server:
        raise RecipeError(f"{gpus} GPUs leave none to train beside {server} of the vLLM server.")
    return gpus - server


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _line(command: list[str], environment: dict[str, str]) -> str:
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(command)])


def _submit(script: str, dry_run: bool) -> None:
    """Gives a batch script to Slurm, or prints it."""
    if dry_run:
        print(script, end="")
        return
    try:
        done = subprocess.run(["sbatch"], input=script, text=True)
    except FileNotFoundError as error:
        raise MachineError("there is no sbatch on this machine; print the script with --dry-run.") from error
    raise typer.Exit(done.returncode)
