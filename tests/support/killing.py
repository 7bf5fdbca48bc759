"""Starts runs in processes that tests kill; a server that has imported everything once forks them.

The process calls functions of `sabotage`, sent by name, before `rlif train` begins.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from rlif.runs.folder import Run
from support import sabotage

SMALL = [
    "limit=6",
    "seed=3",
    "problems_per_update=2",
    "evaluate={}",
    "max_prompt_tokens=1024",
    "training.num_generations=2",
    "training.per_device_train_batch_size=2",
    "training.max_completion_length=6",
    "training.max_steps=4",
    "training.save_steps=1",
    "training.save_total_limit=2",
    "training.warmup_steps=2",
    "training.learning_rate=1e-3",
    "training.log_level=error",
    "guard={prompt_check: 0}",
]
# KL is to raise the alarm. In random text the words of the problem come by chance.
GUARD = "prompt_check: 0, start: 1, window: 1, patience: 1, kl: 1.0e-5, prompt_use: null"
CASES = {
    "full": [],
    "lora": ["lora={r: 4, target_modules: [q_proj]}"],
    "rloo": ["algorithm=rloo", "normalisation=none"],
    "two iterations": ["training.num_iterations=2", "training.save_steps=2"],
    "cosine over two epochs": [
        "training.lr_scheduler_type=cosine",
        "limit=4",
        "training.max_steps=-1",
        "training.num_train_epochs=2",
    ],
    "an epoch and three quarters": [  # an epoch has two steps, so four steps in all
        "training.lr_scheduler_type=cosine",
        "limit=5",
        "training.max_steps=-1",
        "training.num_train_epochs=1.75",
    ],
    "epochs that end with half an update": [
        "limit=3",
        "training.max_steps=-1",
        "training.num_train_epochs=2",
        "training.steps_per_generation=1",
    ],
    "ema annotator": ["annotator=ema", "annotator_decay=0.5"],
    "rewards mixed by a schedule": [
        "reward={self_certainty: {linear: [[0, 1.0], [4, 0.25]]}, format: 0.5, random: 0}",
        "training.lr_scheduler_type=linear",
    ],
    "stopped by the guard": [f"guard={{{GUARD}, policy: stop}}"],
    "rolled back by the guard": [f"guard={{{GUARD}, policy: rollback, rollbacks: 1, strengthen: 50}}"],
    "evaluated": ["evaluate={tasks: [cups], limit: 2, every: 1}"],
}
TIMES = ("step_seconds", "seconds")
LIMIT = 240  # seconds after which a process counts as hung


@functools.cache
def server() -> Any:
    """The server that forks processes; it imports torch, transformers and trl once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "support.models",
            "rlif.cli.main",
            "rlif.engines.trl.setup",
            "rlif.engines.trl.callbacks",
            "rlif.training.session",
            "rlif.training.rounds.phases",
            "rlif.engines.rounds.trainers",
            "rlif.evaluation.evaluate",
        ]
    )
    return context


def child(arguments: list[str], log: str, environment: dict[str, str], saboteurs: list[tuple[str, tuple]]) -> None:
    """Runs `rlif ARGUMENTS` in a forked process, with its output in a file."""
    out = open(log, "a", buffering=1)  # noqa: SIM115 - open until the process ends
    os.dup2(out.fileno(), 1)
    os.dup2(out.fileno(), 2)
    sys.stdout = sys.stderr = out
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background jobs ignore SIGINT
    torch.set_num_threads(1)
    PartialState._reset_state()  # an import may have made the state of a single process
    for name, parameters in saboteurs:
        getattr(sabotage, name)(*parameters)
    from rlif.cli.main import main

    sys.argv = ["rlif", *arguments]
    main()


def start(arguments: list[Any], log: Path, *saboteurs: tuple, **environment: str) -> Any:
    """Starts a process and returns it."""
    named = [(saboteur.__name__, parameters) for saboteur, *parameters in saboteurs]
    process = server().Process(target=child, args=([str(a) for a in arguments], str(log), environment, named))
    process.start()
    return process


def finish(process: Any) -> int:
    """Waits for a process; returns its exit code, or minus the signal that killed it."""
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        raise AssertionError("the process hangs")
    return process.exitcode


def rlif_process(arguments: list[Any], log: Path, *saboteurs: tuple, **environment: str) -> tuple[int, str]:
    """Runs `rlif ARGUMENTS`; returns its exit code and output."""
    code = finish(start(arguments, log, *saboteurs, **environment))
    return code, log.read_text(encoding="utf-8")


def killed_then_resumed(arguments: list[Any], folder: Path, saboteurs: Sequence[tuple], ends: int = 0) -> Path:
    """Kills a run by each saboteur in turn, resumes it each time, and finally lets it finish; returns its folder."""
    run = folder / "run"
    for saboteur in saboteurs:
        code, said = rlif_process(arguments, folder / "log", saboteur)
        assert code == -signal.SIGKILL, f"{saboteur[1:]} did not kill it: {said}"
        if run.is_dir():
            arguments = ["train", "--resume", run]
    code, said = rlif_process(arguments, folder / "log")
    assert code == ends, said
    return run


def train_arguments(model: Path, output: Path, *overrides: str) -> list[str]:
    return ["train", "demo", *SMALL, f"model={model}", f"output={output}", "name=run", *overrides]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(arguments: list[Any], log: Path, *saboteurs: tuple) -> list[Any]:
    """Starts one run on two gloo processes, without a launcher that would notice a killed process."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_WORLD_SIZE": "2"}
    return [
        start(arguments, log.with_suffix(f".{rank}"), *saboteurs, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in (0, 1)
    ]


def outcome(path: Path) -> dict[str, Any]:
    """Reads what equal runs have in common: all that was logged except times, and the bits of the weights."""
    from safetensors.torch import load_file

    run = Run.open(path)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_bytes().splitlines()]
    weights = {}
    for file in sorted(run.model.glob("*.safetensors")):
        weights |= {name: value.numpy().tobytes() for name, value in load_file(file).items()}
    return {
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "completions": {p.name: p.read_text(encoding="utf-8") for p in sorted(run.path.glob("completions/*"))},
        "evaluations": {p.name: p.read_text(encoding="utf-8") for p in sorted(run.path.glob("eval/*.jsonl"))},
        "guard": {
            p.name: p.read_text(encoding="utf-8") for p in run.path.glob("*s.jsonl") if p.name != "metrics.jsonl"
        },
        "weights": weights,
        "checkpoints": [p.name for p in sorted(run.checkpoints.iterdir())],
        "litter": sorted(str(p) for p in run.path.rglob("*.draft*")),
    }
