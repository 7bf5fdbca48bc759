"""Runs the commands of one machine to their end, and reports in one sentence how they ended.

Torch's elastic agent, by which accelerate starts the processes, ends all of them when one fails. Its report - which
one, a table, a traceback - becomes one sentence here and an exit code:

    a process's own      2 an error to put right, 3 the guard, 75 and 130 stopped at a checkpoint; 1 a traceback
    128 + n              signal n killed it: 137 where the machine had no memory left

SIGTERM, SIGUSR1 and SIGHUP ask for the machine back. Every process is sent SIGTERM and stops at a checkpoint; all of
them are waited for, and the code is 75. Ctrl-C does the same with code 130. SIGUSR1 would kill the agent and leave its
processes behind; after SIGTERM it waits thirty seconds, less than a step of a real run. A second signal ends all at
once, but not within `ECHO_SECONDS`: a scheduler that signals every process of a job means one signal.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import psutil

from rlif.runs.launcher_contract import ECHO_SECONDS, INTERRUPTED, PREEMPTED, RESUMES

FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) ")  # the agent, when all have ended
IN_TABLE = re.compile(r"\s*(?:rank\s*: \d+ \(local_rank: (?P<rank>\d+)\)|exitcode\s*: (?P<code>-?\d+) )")
PATIENCE = 30  # seconds that a server has to end
STOPPING = 600  # and the processes that train: the rest of a step and a checkpoint
AGENTS = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # where the agent reads that number
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


@contextmanager
def _serving(command: Sequence[str] | None, environment: Mapping[str, str]) -> Iterator[None]:
    """Runs a server while the body runs; ends it in any case with all that it started, which holds GPU memory."""
    if command is None:
        yield
        return
    server = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with suppress(subprocess.TimeoutExpired):
                server.wait(PATIENCE)


class _Signals:
    """Passes signals on to a command and its processes, which are in a session of their own.

    Args:
        limit: seconds after the first one in which they have to end by themselves.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.came: signal.Signals | None = None  # the first one
        self.process: subprocess.Popen[str] | None = None
        self.family: list[psutil.Process] = []

    def __enter__(self) -> _Signals:
        self.before = {number: signal.signal(number, self._come) for number in PASSED_ON}
        self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: self._kill())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        signal.alarm(0)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if kind is not None:
            self._kill()

    def watch(self, process: subprocess.Popen[str]) -> None:
        """Sets the command that signals go to, and passes on one that came during its start."""
        self.process = process
        self._pass_on()

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self.came is None:
            self.came, self.since = signal.Signals(number), time.monotonic()
            self._pass_on()
        elif time.monotonic() - self.since > ECHO_SECONDS:
            self._kill()

    def _pass_on(self) -> None:
        if self.process is not None and self.came is not None:
            self._remember_family()
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGINT if self.came == signal.SIGINT else signal.SIGTERM)
            signal.alarm(self.limit + PATIENCE)  # the agent's own limit comes first, if there is an agent still

    def _remember_family(self) -> None:
        """Remembers the processes below; once its parent has died, a process cannot be found."""
        if self.process is not None:
            with suppress(psutil.NoSuchProcess):
                self.family += psutil.Process(self.process.pid).children(recursive=True)

    def _kill(self) -> None:
        self._remember_family()
        if self.process is not None:
            self.process.kill()
        for each in self.family:
            with suppress(psutil.NoSuchProcess):
                each.kill()


@dataclass(frozen=True)
class Ending:
    """How a launched run ended."""

    code: int  # of the process that failed first, 128 + the signal where one killed it; 0 where none failed
    sentence: str = ""  # to be printed; empty where the processes have printed it


def run(
    train: Sequence[str],
    folder: Path,
    *,
    again: str,
    first: int = 0,
    server: Sequence[str] | None = None,
    train_environment: Mapping[str, str] = {},
    server_environment: Mapping[str, str] = {},
) -> Ending:
    """Runs the commands of one machine to their end.

    The output of the processes is passed through; a sentence that all of them print is printed once.

    Args:
        again: the command that resumes the run; the processes name it too.
        first: the rank of this machine's first process.
    """
    environment = {AGENTS: str(STOPPING), **os.environ, RESUMES: again, **train_environment}
    with _serving(server, server_environment), _Signals(int(environment[AGENTS])) as signals:
        process = subprocess.Popen(
            train,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            # SIGUSR1 would kill the agent; the training processes install handlers.
            preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        )
        signals.watch(process)
        assert process.stderr is not None
        failed = _pass_on(process.stderr)  # until the last process ends
        code = process.wait()
    go_on = f"; go on with: {again}" if folder.exists() else ""
    own = code if failed is None else failed[0]
    if signals.came is not None and own not in (0, 2, 3) and (failed is None or own in (PREEMPTED, INTERRUPTED)):
        if (folder / "summary.json").exists():
            return Ending(0)  # the agent's own exit code says nothing about its processes
        return Ending(
            INTERRUPTED if signals.came == signal.SIGINT else PREEMPTED, f"stopped by {signals.came.name}{go_on}"
        )
    if failed is None:
        return Ending(128 - code if code < 0 else code)
    return _ending(own, first + failed[1], go_on)


def _pass_on(lines: Iterable[str]) -> tuple[int, int] | None:
    """Passes output on; returns exit code and local rank of the process that failed first, if the launcher names one.

    The launcher's table and traceback that follow are left out. In the table, a killed process comes before those that
    ended because of it, which may be reported in the same moment.
    """
    printed: set[str] = set()
    failed, rank = None, 0
    for line in _with_tracebacks_whole(lines):
        if "SignalException" in line:
            continue  # the agent's, from a signal that was passed on to it
        if failed is None and (found := FAILED.search(line)):
            failed = int(found[1]), int(found[2])
        elif failed is None:
            if "torch/distributed/elastic/" not in line and not (line.startswith("rlif: ") and line in printed):
                sys.stderr.write(line)
                printed.add(line)
        elif found := IN_TABLE.match(line):
            code = int(found["code"] or 0)
            rank = int(found["rank"] or rank)
            if failed[0] > 0 and code < 0 and code != -signal.SIGTERM:
                failed = code, rank
    return failed


def _with_tracebacks_whole(lines: Iterable[str]) -> Iterator[str]:
    """Joins the lines of each traceback."""
    held = ""
    for line in lines:
        held += line
        if held.startswith("Traceback (most recent call last)") and line.startswith((" ", "Traceback")):
            continue
        yield held
        held = ""
    if held:
        yield held


def _ending(code: int, rank: int, go_on: str) -> Ending:
    if code < 0:
        name = signal.Signals(-code).name
        return Ending(128 - code, f"process {rank} was killed ({name}), so the others were ended{go_on}")
    if code == 1:
        return Ending(1, f"process {rank} failed, so the others were ended; what it said is above{go_on}")
    if code in (PREEMPTED, INTERRUPTED):
        return Ending(code, f"stopped{go_on}")
    return Ending(code)
