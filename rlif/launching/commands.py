"""Writes the commands that start several processes and machines. Accelerate, Slurm and TRL do the starting.

    here             accelerate launch --config_file CONFIG --num_processes N -m rlif train RECIPE
    several machines the same on each, with its rank and the address of the first
    Slurm            a batch script that does this by srun, one task on each machine: `rlif.launching.slurm`
    vLLM             where a recipe has vllm_mode server, `trl vllm-serve` beside it: on GPUs of its own here, on a
                     machine of its own under Slurm

CONFIG is a file of accelerate's in launchers/:

    ddp     whole model on every process
    fsdp2   weights, gradients and optimiser state in shards (torch's fully_shard)
    zero2   gradients and optimiser state in shards (DeepSpeed)
    zero3   weights as well (DeepSpeed)

problems_per_update counts all processes together; each gets an equal share.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from rlif.config.loading import folder_name
from rlif.config.passes import keeps_copy
from rlif.config.recipe import Recipe
from rlif.errors import MachineError, RecipeError, RlifError, lookup
from rlif.launching.hardware import config_of
from rlif.runs.folder import check_name, is_free, numbered
from rlif.runs.launcher_contract import SERVER_HOST
from rlif.sampling.loading import model_path

STRATEGIES = {"ddp": None, "fsdp2": None, "zero2": "deepspeed", "zero3": "deepspeed"}  # and the package that each needs
IN_SHARDS = ("fsdp2", "zero3")  # no process has the whole weights
PORT = 29500  # of the first process, where machines have to agree on one


@dataclass(frozen=True)
class Layout:
    """How many processes, where."""

    processes: int  # over all machines
    nodes: int = 1  # machines that train
    strategy: str = "ddp"  # of `STRATEGIES`
    server_gpus: int = 0  # of the vLLM server; 0 where the recipe wants none

    @property
    def per_node(self) -> int:
        return self.processes // self.nodes


def config_file(strategy: str) -> Path:
    """Accelerate's configuration of a strategy."""
    return Path(str(resources.files("rlif.launching"))) / "launchers" / f"{strategy}.yaml"


def wants_server(recipe: Recipe) -> bool:
    """Whether the recipe generates by a vLLM server and names none that runs already."""
    training = recipe.training
    ours = not training.keys() & {"vllm_server_base_url", "vllm_server_host"} and not os.environ.get(SERVER_HOST)
    return bool(training.get("use_vllm")) and training.get("vllm_mode") == "server" and ours


def check_layout(recipe: Recipe, layout: Layout, gpus: int | None) -> None:
    """Refuses layouts that cannot start: too few GPUs, a missing package, and what `check_strategy` refuses.

    Args:
        gpus: number on this machine; None where another machine will train.
    """
    check_strategy(recipe, layout)
    _check_heads(recipe, layout)
    package, wanted = STRATEGIES[layout.strategy], layout.per_node + layout.server_gpus
    if gpus is not None and package and find_spec(package) is None:
        raise MachineError(f"strategy {layout.strategy} needs {package}: pip install {package}.")
    if gpus is not None and gpus < wanted and not recipe.training.get("use_cpu"):
        server = f" and {layout.server_gpus} for the vLLM server" if layout.server_gpus else ""
        raise MachineError(
            f"{layout.per_node} processes on this machine need a GPU each{server}, found {gpus}; lower --processes, or"
            " print the commands with --dry-run."
        )


def check_strategy(recipe: Recipe, layout: Layout) -> None:
    """Refuses strategies that cannot serve the recipe, on any machine and with any model."""
    lookup(STRATEGIES, layout.strategy, "strategy")
    if layout.processes < 1 or layout.nodes < 1 or layout.processes % layout.nodes:
        raise RecipeError(f"{layout.processes} processes cannot be shared equally by {layout.nodes} machines.")
    recipe.accumulation(layout.processes)
    if recipe.training.get("use_cpu") and layout.strategy != "ddp":
        raise RecipeError(f"strategy {layout.strategy} needs GPUs; a recipe with training.use_cpu runs with ddp.")
    if layout.strategy in IN_SHARDS and recipe.evaluate.tasks:
        raise RecipeError(
            f"evaluation on the way needs whole weights, and {layout.strategy} keeps shards; set evaluate={{}} and use"
            " `rlif eval` on the finished run."
        )
    if layout.strategy in IN_SHARDS and recipe.vllm_capture:
        raise RecipeError(
            "vllm_capture runs a pass where a token was not seen, which no process can run alone where weights are in"
            f" shards, as with {layout.strategy}; leave vllm_capture out, or use ddp or zero2."
        )
    if layout.strategy != "ddp" and keeps_copy(recipe):
        raise RecipeError(
            f"annotator {recipe.annotator} keeps a copy of whole parameters, which needs strategy ddp and not"
            f" {layout.strategy}."
        )


def _check_heads(recipe: Recipe, layout: Layout) -> None:
    """Refuses tensor parallelism that would split an attention head, where the model is known."""
    training = recipe.training
    option, gpus = "--server-gpus", layout.server_gpus
    if training.get("use_vllm") and training.get("vllm_mode", "colocate") == "colocate":
        option, gpus = "training.vllm_tensor_parallel_size", training.get("vllm_tensor_parallel_size", 1)
    if gpus < 2:
        return
    try:
        heads = config_of(recipe).get_text_config().num_attention_heads
    except RlifError:
        return  # training reports the model
    if heads % gpus:
        whole = [str(number) for number in range(1, gpus) if heads % number == 0]
        raise RecipeError(
            f"{option} is {gpus}, but vLLM cannot share {heads} attention heads of {recipe.model} equally among {gpus}"
            f" GPUs; use {' or '.join(whole)}."
        )


def train_command(layout: Layout, machine: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Writes the command that starts the processes of one machine."""
    if layout.processes == 1 and layout.strategy == "ddp":
        return [sys.executable, "-m", "rlif", *arguments]  # signals and exit codes arrive directly
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config_file(layout.strategy))),
        *("--num_processes", str(layout.processes), "--num_machines", str(layout.nodes), *machine),
        *("--module", "rlif", *arguments),
    ]


def machine_options(layout: Layout, rank: int = 0, head: str | None = None) -> list[str]:
    """Writes accelerate's options for the machine of a rank; `head` is HOST or HOST:PORT of the first of several."""
    if layout.nodes == 1:
        return ["--main_process_port", "0"]  # any that is free
    host, _, port = (head or "").partition(":")
    if not host or not (port or str(PORT)).isdigit():
        raise RecipeError(
            f"{layout.nodes} machines have to find each other: start this on each with --head HOST[:PORT] of the first"
            f" and --rank 0 to {layout.nodes - 1}, or let Slurm do it with --slurm; found --head {head or 'nothing'}."
        )
    if not 0 <= rank < layout.nodes:
        raise RecipeError(f"--rank is the number of this machine, 0 to {layout.nodes - 1}, found {rank}.")
    return ["--machine_rank", str(rank), "--main_process_ip", host, "--main_process_port", port or str(PORT)]


def server_command(recipe: Recipe, gpus: int) -> list[str]:
    """Writes the command that starts a recipe's vLLM server."""
    training = recipe.resolved_training
    longest = recipe.max_prompt_tokens + training["max_completion_length"]
    return [
        *(sys.executable, "-c", "from trl.cli import main; main()", "vllm-serve"),
        *("--model", model_path(recipe), *(("--revision", recipe.revision) if recipe.revision else ())),
        *("--tensor_parallel_size", str(gpus), "--max_model_len", str(training.get("vllm_max_model_length", longest))),
        *("--port", str(training.get("vllm_server_port", 8000))),
    ]


def shares_of_gpus(layout: Layout, visible: str | None) -> tuple[str, str]:
    """Shares out CUDA_VISIBLE_DEVICES: the first GPUs train, the next ones serve."""
    first, last = layout.per_node, layout.per_node + layout.server_gpus
    names = visible.split(",") if visible else [str(i) for i in range(last)]
    return ",".join(names[:first]), ",".join(names[first:last])


def run_folder(recipe: Recipe, stem: str, rank: int = 0) -> Path:
    """Chooses the run folder before the start: the recipe's own name, else the first free one.

    A start that took no step leaves its name free. On later ranks the folder may exist already.
    """
    root = Path(recipe.output).expanduser()
    if recipe.name:
        if rank == 0:
            check_name(recipe)
        return root / recipe.name
    return next(root / name for name in numbered(folder_name(stem)) if is_free(root / name))


def options(layout: Layout, *, server: bool = True) -> list[str]:
    """Writes the options of `rlif launch` for a layout."""
    found = ["--processes", str(layout.processes)]
    found += ["--nodes", str(layout.nodes)] if layout.nodes > 1 else []
    found += ["--strategy", layout.strategy] if layout.strategy != "ddp" else []
    return found + (["--server-gpus", str(layout.server_gpus)] if server and layout.server_gpus else [])


def again(folder: Path, layout: Layout, machine: Sequence[str] = ()) -> str:
    """Writes the command line that resumes a run with the layout it was started with."""
    return shlex.join(["rlif", "launch", "--resume", str(folder), *options(layout), *machine])
