"""Runs in processes of their own, to be killed: forked from a server that has imported everything once.

`Saboteur`s are named functions of this module, sent by name into the process, where they patch something before
`rlif train` begins: nothing of this is in the product's code.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from rlif.run import Run

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
GUARD = "prompt_check: 0, start: 1, window: 1, patience: 1, kl: 1.0e-5"
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
    "an epoch and three quarters": [  # of two steps each: four in all
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
LIMIT = 240  # seconds after which a process of a test is taken for hung


@functools.cache
def server() -> Any:
    """Where processes are forked from; importing torch, transformers and trl happens there, once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["conftest", "rlif.cli", "rlif.engines.trl_setup", "rlif.engines.callbacks", "rlif.session", "rlif.evaluate"]
    )
    return context


def child(arguments: list[str], log: str, environment: dict[str, str], saboteurs: list[tuple[str, tuple]]) -> None:
    """The body of a process: `rlif ARGUMENTS`, its output in a file."""
    out = open(log, "a", buffering=1)  # noqa: SIM115 - for the life of the process
    os.dup2(out.fileno(), 1)
    os.dup2(out.fileno(), 2)
    sys.stdout = sys.stderr = out
    os.environ.update(environment)
    torch.set_num_threads(1)
    PartialState._reset_state()  # something that was imported has asked, and took this for a process on its own
    for name, parameters in saboteurs:
        globals()[name](*parameters)
    from rlif.cli import main

    sys.argv = ["rlif", *arguments]
    main()


def start(arguments: list[Any], log: Path, *saboteurs: tuple, **environment: str) -> Any:
    """A process on its way."""
    named = [(saboteur.__name__, parameters) for saboteur, *parameters in saboteurs]
    process = server().Process(target=child, args=([str(a) for a in arguments], str(log), environment, named))
    process.start()
    return process


def finish(process: Any) -> int:
    """Its exit code; minus the signal that killed it."""
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        raise AssertionError("the process hangs")
    return process.exitcode


def rlif_process(arguments: list[Any], log: Path, *saboteurs: tuple, **environment: str) -> tuple[int, str]:
    """Exit code and output of `rlif ARGUMENTS`."""
    code = finish(start(arguments, log, *saboteurs, **environment))
    return code, log.read_text()


def train_arguments(model: Path, output: Path, *overrides: str) -> list[str]:
    return ["train", "demo", *SMALL, f"model={model}", f"output={output}", "name=run", *overrides]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(arguments: list[Any], log: Path, *saboteurs: tuple) -> list[Any]:
    """The same run on two processes under gloo, without a launcher that would notice a death."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_WORLD_SIZE": "2"}
    return [
        start(arguments, log.with_suffix(f".{rank}"), *saboteurs, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in (0, 1)
    ]


# What a run left.


def outcome(path: Path) -> dict[str, Any]:
    """What two runs must have in common: all that was logged but the seconds, and the bits of the weights."""
    from safetensors.torch import load_file

    run = Run.open(path)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    weights = {}
    for file in sorted(run.model.glob("*.safetensors")):
        weights |= {name: value.numpy().tobytes() for name, value in load_file(file).items()}
    return {
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "completions": {p.name: p.read_text() for p in sorted(run.path.glob("completions/*"))},
        "evaluations": {p.name: p.read_text() for p in sorted(run.path.glob("eval/*.jsonl"))},
        "guard": {p.name: p.read_text() for p in run.path.glob("*s.jsonl") if p.name != "metrics.jsonl"},
        "weights": weights,
        "checkpoints": [p.name for p in sorted(run.checkpoints.iterdir())],
        "litter": sorted(str(p) for p in run.path.rglob("*.draft*")),
    }


# Saboteurs.


def _wrapped(where: str, wrap: Callable[[Callable], Callable]) -> None:
    """Replaces `module:attribute.path` by a wrapped one."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(wrap(original)))


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(where: str, nth: int, moment: str = "before") -> None:
    """SIGKILL before or after the n-th call of a function."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == nth and moment == "before":
                die()
            result = original(*args, **kwargs)
            if len(calls) == nth:
                die()
            return result

        return wrapper

    _wrapped(where, wrap)


def die_halfway(where: str, nth: int) -> None:
    """The n-th call that writes a file is made, the file is cut in half, and SIGKILL comes."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            for path in [a for a in (*args, *kwargs.values()) if isinstance(a, str | os.PathLike)][:1]:
                calls.append(1)
                if len(calls) == nth:
                    os.truncate(path, os.path.getsize(path) // 2)
                    die()
            return result

        return wrapper

    _wrapped(where, wrap)


def die_in_a_line(nth: int) -> None:
    """SIGKILL when half of the n-th line of metrics.jsonl is on the disk."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(run: Run, metrics: Any) -> None:
            calls.append(1)
            original(run, metrics)
            if len(calls) == nth:
                path = run.path / "metrics.jsonl"
                size = path.stat().st_size
                os.truncate(path, size - len(path.read_bytes().splitlines()[-1]) // 2)
                die()

        return wrapper

    _wrapped("rlif.run:Run.append_metrics", wrap)


def die_in_backward(nth: int) -> None:
    """SIGKILL in the middle of the n-th backward pass, when some gradients are there and some are not."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(self: Any, loss: Any, **kwargs: Any) -> None:
            calls.append(1)
            if len(calls) == nth:
                node = loss.grad_fn
                while node.next_functions and node.next_functions[0][0] is not None and len(calls) < nth + 5:
                    node = node.next_functions[0][0]
                    calls.append(1)
                node.register_hook(die)
            original(self, loss, **kwargs)

        return wrapper

    _wrapped("accelerate:Accelerator.backward", wrap)


def signal_at(where: str, nth: int, *numbers: int) -> None:
    """Sends signals to itself before the n-th call of a function."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == nth:
                for number in numbers:
                    signal.raise_signal(number)  # to this thread: Python sees each before the next one comes
            return original(*args, **kwargs)

        return wrapper

    _wrapped(where, wrap)


def signal_ranks(moments: dict[str, tuple[str, int, int]]) -> None:
    """`signal_at` for some of several processes, each with its own moment."""
    if moment := moments.get(os.environ["RANK"]):
        signal_at(*moment)


def nobody_reads() -> None:
    """Standard output is a pipe whose reader has gone, as after `| head -2`."""
    reader, writer = os.pipe()
    os.close(reader)
    sys.stdout = os.fdopen(writer, "w")


def say_time_limit() -> None:
    """Prints the time limit of the process group when the problems are read."""
    from torch.distributed import distributed_c10d

    def wrap(original: Callable) -> Callable:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            backend = distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
            print("time limit", backend.options._timeout)
            return original(*args, **kwargs)

        return wrapper

    _wrapped("rlif.training:prepare", wrap)


def fail_at(where: str, nth: int, kind: str, *arguments: Any) -> None:
    """The n-th call of a function raises; those before and after do what they do."""
    calls = []
    module, _, name = kind.rpartition(".")
    error = getattr(importlib.import_module(module), name)

    def wrap(original: Callable) -> Callable:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == nth:
                raise error(*arguments)
            return original(*args, **kwargs)

        return wrapper

    _wrapped(where, wrap)


def fill_disk_at(where: str, nth: int, folder: str) -> None:
    """Before the n-th call of a function a file takes all that is left on the file system of a folder."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == nth:
                with open(os.path.join(folder, "filler"), "wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(b"x" * 4096)
                    except OSError:
                        pass
            return original(*args, **kwargs)

        return wrapper

    _wrapped(where, wrap)


def fail_in_a_line(nth: int, number: int) -> None:
    """Half of the n-th line of metrics.jsonl is written, then the system refuses."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(run: Run, metrics: Any) -> None:
            calls.append(1)
            original(run, metrics)
            if len(calls) == nth:
                path = run.path / "metrics.jsonl"
                os.truncate(path, path.stat().st_size - 100)
                raise OSError(number, os.strerror(number), str(path))

        return wrapper

    _wrapped("rlif.run:Run.append_metrics", wrap)


def take_all_memory_at(where: str, nth: int) -> None:
    """Before the n-th call of a function a tensor of a million GiB is asked for."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == nth:
                torch.empty(2**50)
            return original(*args, **kwargs)

        return wrapper

    _wrapped(where, wrap)


def nan_loss_at(nth: int) -> None:
    """The n-th loss is NaN, and so are its gradients."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(self: Any, loss: Any, **kwargs: Any) -> None:
            calls.append(1)
            original(self, loss * float("nan") if len(calls) == nth else loss, **kwargs)

        return wrapper

    _wrapped("accelerate:Accelerator.backward", wrap)


def reward_is(name: str) -> None:
    """Another signal under the name self_certainty: one that hangs or raises in its second batch."""
    from rlif.signals import SIGNALS

    calls, original = [], SIGNALS["self_certainty"]

    def signal_of(stats: Any) -> Any:
        calls.append(1)
        while name == "hanging" and len(calls) == 2:
            pass
        if name == "raising" and len(calls) == 2:
            raise ConnectionError("the judge did not answer")
        return original(stats)

    SIGNALS["self_certainty"] = signal_of
