"""Runs the commands of one machine to their end, and says in one sentence how they ended.

Torch's elastic agent, by which accelerate starts the processes, ends all of them when one fails. What it says then -
which one, a table, a traceback of its own - becomes a sentence here and an exit code:

    a process's own      2 a mistake of the user's, 3 the guard, 75 and 130 stopped at a checkpoint; 1 a traceback
    128 + n              signal n killed it: 137 where the machine had no memory left
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) ")  # the agent, when all have ended
IN_TABLE = re.compile(r"\s*(?:rank\s*: \d+ \(local_rank: (?P<rank>\d+)\)|exitcode\s*: (?P<code>-?\d+) )")
PATIENCE = 30  # seconds that a server is given to end


@contextmanager
def _serving(command: Sequence[str] | None, environment: Mapping[str, str]) -> Iterator[None]:
    """A server beside what is done inside; ended with it, however that ends."""
    if command is None:
        yield
        return
    server = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
    try:
        yield
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextmanager
def _signals_go_to(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ctrl-C reaches the processes by itself; SIGTERM and SIGUSR1 are passed on. This one waits for their end."""
    passed = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda n, _: process.send_signal(n)) for number in passed}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Ending:
    """How a launched run ended.

    Attributes:
        code: of the process that failed first, 128 + the signal where one killed it; 0 where none failed.
        sentence: what to say; empty where the processes have said it.
    """

    code: int
    sentence: str = ""


def run(
    train: Sequence[str],
    folder: Path,
    *,
    server: Sequence[str] | None = None,
    train_environment: Mapping[str, str] | None = None,
    server_environment: Mapping[str, str] | None = None,
) -> Ending:
    """Runs the commands of one machine to their end.

    What the processes write goes where it would; a sentence that all of them say is said once.

    Args:
        train: from `train_command`.
        folder: of the run, for what is said at the end.
        server: from `server_command`; ended with the training.
        train_environment: variables beside those of this process.
        server_environment: the same for the server.
    """
    environment = {**os.environ, **(train_environment or {})}
    with _serving(server, server_environment or {}):
        process = subprocess.Popen(train, env=environment, stderr=subprocess.PIPE, text=True, errors="replace")
        assert process.stderr is not None
        with _signals_go_to(process):
            failed = _pass_on(process.stderr)
            code = process.wait()
    return Ending(code) if failed is None else _ending(*failed, folder)


def _pass_on(lines: Iterable[str]) -> tuple[int, int] | None:
    """Writes what processes say; exit code and local rank of the one that failed first, if the launcher names one.

    What the launcher says after that is a table and a traceback of its own and is left out. From the table: a process
    that was killed comes before those that ended for want of it, which may be counted in the same moment.
    """
    said: set[str] = set()
    failed, rank = None, 0
    for line in lines:
        if failed is None and (found := FAILED.search(line)):
            failed = int(found[1]), int(found[2])
        elif failed is None:
            if "torch/distributed/elastic/" not in line and not (line.startswith("rlif: ") and line in said):
                sys.stderr.write(line)
                said.add(line)
        elif found := IN_TABLE.match(line):
            code = int(found["code"] or 0)
            rank = int(found["rank"] or rank)
            if failed[0] > 0 and code < 0 and code != -signal.SIGTERM:
                failed = code, rank
    return failed


def _ending(code: int, rank: int, folder: Path) -> Ending:
    where = f"; go on with: rlif launch --resume {shlex.quote(str(folder))}" if folder.exists() else ""
    if code < 0:
        name = signal.Signals(-code).name
        return Ending(128 - code, f"process {rank} was killed ({name}), so the others were ended{where}")
    if code == 1:
        return Ending(1, f"process {rank} failed, so the others were ended; what it said is above{where}")
    return Ending(code)
