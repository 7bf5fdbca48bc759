"""Makes things fail in a process: each function patches something, which then fails at a given moment.

The package itself has no code for this.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlif.runs.folder import Run


def _wrapped(where: str, wrap: Callable[[Callable], Callable]) -> None:
    """Replaces the function at `module:attribute.path` by its wrapped form."""
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
    """Kills the process before or after the n-th call of a function."""
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
    """Lets the n-th call write its file, cuts the file in half, and kills the process."""
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


def die_in_a_draft(name: str, nth: int) -> None:
    """Kills the process when half of a file of this name is written, at the n-th time."""
    calls = []

    def wrap(sync: Callable) -> Callable:
        def wrapper(path: Path) -> None:
            calls.extend([1] if path.name == f".{name}.draft" else [])
            if path.name == f".{name}.draft" and len(calls) == nth:
                os.truncate(path, path.stat().st_size // 2)
                die()
            sync(path)

        return wrapper

    _wrapped("rlif.files.atomic:sync", wrap)


def die_in_a_line(nth: int) -> None:
    """Kills the process when half of the n-th line of metrics.jsonl is written."""

    def torn(path: Path) -> None:
        os.truncate(path, path.stat().st_size - len(path.read_bytes().splitlines()[-1]) // 2)
        die()

    _after_line(nth, torn)


def _after_line(nth: int, then: Callable[[Path], None]) -> None:
    """Calls a function on metrics.jsonl once its n-th line is written."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(run: Run, metrics: Any) -> None:
            calls.append(1)
            original(run, metrics)
            if len(calls) == nth:
                then(run.path / "metrics.jsonl")

        return wrapper

    _wrapped("rlif.runs.folder:Run.append_metrics", wrap)


def die_in_backward(nth: int) -> None:
    """Kills the process in the n-th backward pass, when only some gradients exist."""
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
    """Sends signals to the process itself before the n-th call of a function."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == nth:
                for number in numbers:
                    # The signal is handled before the call returns. With raise_signal, two signals could arrive as one.
                    signal.pthread_kill(threading.get_ident(), number)
            return original(*args, **kwargs)

        return wrapper

    _wrapped(where, wrap)


def signal_ranks(moments: dict[str, tuple[str, int, int]]) -> None:
    """Calls `signal_at` in some of several processes, each with its own moment."""
    if moment := moments.get(os.environ["RANK"]):
        signal_at(*moment)


def nobody_reads() -> None:
    """Makes standard output a pipe without a reader, as after `| head -2`."""
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

    _wrapped("rlif.training.lifecycle:prepare", wrap)


def fail_at(where: str, nth: int, kind: str, *arguments: Any) -> None:
    """Makes the n-th call of a function raise an error; other calls work."""
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
    """Fills the file system of a folder before the n-th call of a function."""
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
    """Lets half of the n-th line of metrics.jsonl be written, then raises a system error."""

    def refused(path: Path) -> None:
        os.truncate(path, path.stat().st_size - 100)
        raise OSError(number, os.strerror(number), str(path))

    _after_line(nth, refused)


def take_all_memory_at(where: str, nth: int) -> None:
    """Asks for a tensor of a million GiB before the n-th call of a function."""
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
    """Makes the n-th loss NaN, and so its gradients."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(self: Any, loss: Any, **kwargs: Any) -> None:
            calls.append(1)
            original(self, loss * float("nan") if len(calls) == nth else loss, **kwargs)

        return wrapper

    _wrapped("accelerate:Accelerator.backward", wrap)


def raising_reward(completions: list[Any], **columns: Any) -> list[float]:
    """A reward of the user's own that raises."""
    raise ValueError("out of luck")


def reward_is(name: str) -> None:
    """Replaces self_certainty by a signal that hangs or raises in its second batch."""
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


OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def die_at_operation(folder: str, nth: int) -> None:
    """Kills the process before its n-th operation on files below a folder: open to write, rename, delete, make."""
    calls = []

    def watch(event: str, arguments: tuple) -> None:
        writes = event in OPERATIONS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not writes or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:  # in a folder that is open, as rmtree does it
            path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
        if path.startswith(folder):
            calls.append(event)
            if len(calls) == nth:
                die()

    sys.addaudithook(watch)


def die_in_an_append(nth: int) -> None:
    """Kills the process when half of the n-th rows that are appended to a log of JSON lines are written."""
    calls = []

    def wrap(original: Callable) -> Callable:
        def wrapper(self: Any, *rows: Any) -> None:
            calls.extend([1] if rows else [])
            original(self, *rows)
            if rows and len(calls) == nth:
                written = len(self._text(rows).encode())
                os.truncate(self.path, self.path.stat().st_size - written // 2)
                die()

        return wrapper

    _wrapped("rlif.files.jsonl:JsonLog.append", wrap)
