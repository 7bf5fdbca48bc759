"""`rlif launch`: parsing and printing only."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rlif.cli.console import quiet_transformers, working
from rlif.cli.options import Overrides, RecipeOrNone, Resume, ServerGpus, Strategy, find_settings
from rlif.errors import MachineError, RecipeError
from rlif.runs.launcher_contract import GUARD_STOPPED

if TYPE_CHECKING:
    from rlif.config.recipe import Recipe
    from rlif.runs.folder import Run


def launch(
    recipe: RecipeOrNone = None,
    overrides: Overrides = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Over all machines; one per GPU by default.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that train.")] = 1,
    strategy: Strategy = "ddp",
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit a batch script instead; needs --processes.")] = False,
    head: Annotated[str | None, typer.Option(help="Several machines without Slurm: HOST[:PORT] of the first.")] = None,
    rank: Annotated[int, typer.Option(help="Several machines without Slurm: the number of this one, from 0.")] = 0,
    server_gpus: ServerGpus = 1,
    engine: Annotated[str | None, typer.Option(help="trl or verl, instead of the recipe's.")] = None,
    resume: Resume = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, check the run, and stop.")] = False,
) -> None:
    """Train on several GPUs or machines.

    Example: `rlif launch --processes 8 intuitor-qwen2.5-3b-math`.
    """
    import torch

    from rlif.launching import commands as launching
    from rlif.launching import supervise
    from rlif.launching.slurm import batch_script
    from rlif.training.prepare import check_settings

    overrides = [*(overrides or []), *([f"engine={engine}"] if engine and resume is None else [])]
    settings, stem, run = find_settings(recipe, overrides, resume, "launch --processes 2 demo")
    _refuse_other_engine(engine, settings.engine)
    if settings.engine == "verl":
        return _launch_verl(settings, stem, run, processes, nodes, dry_run, slurm or head or rank or strategy != "ddp")
    folder = resume or launching.run_folder(settings, stem, rank)
    server = server_gpus if launching.wants_server(settings) else 0
    gpus = None if dry_run or slurm else torch.cuda.device_count()
    processes = processes or _training_gpus(server, gpus or 0) * nodes
    check_settings(settings, processes)
    layout = launching.Layout(processes, nodes, strategy, server)
    launching.check_layout(settings, layout, gpus)
    start = ["--resume", str(resume)] if recipe is None else [recipe, *overrides]
    named = bool(resume or settings.name)
    if slurm:
        script = batch_script(settings, layout, start, stem, folder if named else None)
        return _rehearse(script, settings, processes, here=False) if dry_run else _submit(script)
    _refuse_servers(server, nodes)
    start += [] if named else [f"name={folder.name}"]
    train = launching.train_command(layout, launching.machine_options(layout, rank, head), ["train", *start])
    serve = launching.server_command(settings, server) if server else None
    shares = launching.shares_of_gpus(layout, os.environ.get("CUDA_VISIBLE_DEVICES"))
    environments = [{"CUDA_VISIBLE_DEVICES": share} if server else {} for share in shares]
    if dry_run:
        lines = [_line(serve, environments[1]) + " &"] if serve else []
        return _rehearse("\n".join([*lines, _line(train, environments[0]), ""]), settings, processes, here=True)
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


def _refuse_other_engine(engine: str | None, of_run: str) -> None:
    if engine not in (None, of_run):
        raise RecipeError(f"--engine is {engine}, but the run was started with {of_run}; leave it out.")


def _refuse_servers(server: int, nodes: int) -> None:
    if server and nodes > 1:
        raise RecipeError(
            "several machines and a vLLM server are started by --slurm; without it start `trl vllm-serve` yourself and"
            " give training.vllm_server_host."
        )


@working("training")
def _launch_verl(
    recipe: Recipe, stem: str, resume: Run | None, processes: int | None, nodes: int, dry_run: bool, others: object
) -> None:
    """Trains by verl on the GPUs of a Ray cluster, or prints its options; refuses `others`, options for TRL."""
    import torch

    from rlif.cli.train import print_options
    from rlif.engines.trl.callbacks import PipeSafeConsole
    from rlif.engines.verl.options import Machines
    from rlif.training.prepare import rehearse
    from rlif.training.verl_run import train_by_verl

    if others:
        raise RecipeError(
            "with engine verl, Ray starts the processes and FSDP2 shards the model; leave --slurm, --head, --rank and"
            " --strategy out, and start Ray on every machine before (docs/verl.md)."
        )
    processes = processes or _training_gpus(0, torch.cuda.device_count()) * nodes
    if processes % nodes:
        raise RecipeError(f"{processes} processes cannot be shared equally by {nodes} machines.")
    quiet_transformers()
    machines = Machines(processes // nodes, nodes)
    if dry_run:
        print_options(recipe, machines.gpus, nodes)
        rehearse(recipe, processes)
    else:
        run = train_by_verl(recipe, name=stem, resume=resume, console=PipeSafeConsole(), machines=machines)
        if run.summary()["guard"]["stopped"]:
            raise typer.Exit(GUARD_STOPPED)


def _training_gpus(server: int, gpus: int) -> int:
    """Counts the GPUs that train: all that the vLLM server leaves."""
    if gpus == 0:
        raise RecipeError("how many processes? give --processes: there is no GPU here to count.")
    if gpus <= server:
        raise RecipeError(f"{gpus} GPUs leave none to train beside {server} of the vLLM server.")
    return gpus - server


def _line(command: list[str], environment: dict[str, str]) -> str:
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(command)])


def _rehearse(text: str, recipe: Recipe, processes: int, *, here: bool) -> None:
    """Prints what would be started, then prepares the run, which is refused here as it would be there."""
    from rlif.training.prepare import rehearse

    print(text, end="", flush=True)
    with working("preparing the run"):
        quiet_transformers()
        rehearse(recipe, processes, here=here)


def _submit(script: str) -> None:
    """Gives a batch script to Slurm."""
    try:
        done = subprocess.run(["sbatch"], input=script, encoding="utf-8")
    except FileNotFoundError as error:
        raise MachineError("there is no sbatch on this machine; print the script with --dry-run.") from error
    raise typer.Exit(done.returncode)
