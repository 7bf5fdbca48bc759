"""Runs inside the sandbox: forks a room per program, waits, says how it ended. `rlif.sandbox.runner` is the other side.

    host --(an order: limits, and what the program needs as descriptors)--> supervisor, which forks
        the tester    if there are tests: reads them, and judges by calling into the program over a pipe
        the keeper    first process of the room (`rlif.sandbox.room`); furnishes it, then forks and waits for
            the program
    host <--(a reply: how it ended)-- supervisor, once waitpid has said that nothing of all this is left

A verdict is hard to forge because it is an exit status, seen by a process that the program cannot name. The supervisor
never reads source, stdin or tests, it hands their descriptors on; so no program finds its own tests, or another
program, in the memory it was forked with. Time and amount of output are the host's business: it throws the sandbox
away when either is exceeded. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from rlif.sandbox import room
from rlif.sandbox.calls import run_program, run_tests

_WATCH_SECONDS = 0.05  # between two looks at the memory in use
_HIGHEST = 128  # more descriptors than a supervisor ever has open
_PIPE, _BELL, _TEXT = 3, 4, 5  # where a forked process finds the pipe for calls, its bell, and source or tests


class Gone(Exception):
    """The host has closed its end."""


class Child:
    """A forked process, and what it and those it forked in turn have said on their bell.

    The bell is a pipe; it ends when all of them have ended or closed it.
    """

    def __init__(self, process: int, bell: int) -> None:
        self.process, self.bell, self.told = process, bell, b""
        self.exit: int | None = None

    def listen(self) -> bool:
        """Waits for a word; False when there will be no more."""
        word = os.read(self.bell, 4096)
        self.told += word
        return bool(word)


class Supervisor:
    """Serves orders, one program at a time.

    Args:
        control: the socket to the host.
        local: no rooms, plain processes of the host (`unsafe_local` in `rlif.sandbox.runner`).
    """

    def __init__(self, control: socket.socket, local: bool) -> None:
        self.control, self.local = control, local
        self.fork = os.fork if local else room.fork_into_room
        self.counted = room.processes_counted()

    def serve(self) -> None:
        """Serves until the host closes its end, which it may do in the middle of a program."""
        while True:
            limits, files = self._receive()
            folder = tempfile.mkdtemp() if self.local else "/tmp"
            try:
                reply = self._run(limits, files, folder)
            except OSError as error:
                reply = {"broken": str(error)}
            finally:
                if self.local:
                    shutil.rmtree(folder, ignore_errors=True)
            self.control.sendall(json.dumps(reply).encode() + b"\n")

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        data, files = b"", []
        while not data.endswith(b"\n"):
            chunk, more, _, _ = socket.recv_fds(self.control, 4096, 8)
            if not chunk:
                raise Gone
            data, files = data + chunk, files + more
        return json.loads(data), files

    def _run(self, limits: dict[str, Any], files: list[int], folder: str) -> dict[str, Any]:
        children: list[Child] = []
        if self.local:  # all processes of the user count, and others come and go
            self.counted = room.processes_counted() + room.COUNTED_BY
        try:
            with contextlib.ExitStack() as ours:
                for file in files:
                    ours.callback(os.close, file)
                source, stdin, stdout, stderr, *tests = files
                pipe = stdin  # nobody looks there unless there are tests
                if tests:
                    pipe, testers_pipe = (end.detach() for end in socket.socketpair())
                    ours.callback(os.close, pipe)
                    ours.callback(os.close, testers_pipe)
                    given = [0, stderr, stderr, testers_pipe, *tests]
                    children.append(self._fork(lambda: self._judge(limits), given))
                given = [stdin, stdout, stderr, pipe, source]
                children.append(self._fork(lambda: self._keep(limits, folder, bool(tests)), given, self.fork))
            out_of_memory = self._wait(children, limits["memory_mib"] << 20)
        finally:
            self._sweep(children)
        judge, keeper = children[0], children[-1]
        told = keeper.told.decode(errors="replace")
        if not told.startswith("+") or (judge is not keeper and judge.told):
            return {"broken": told.removeprefix("+") or judge.told.decode(errors="replace") or "no word from the room"}
        if judge is keeper:
            judge.exit = int(told[1:]) if told[1:] else None
        return {"out_of_memory": out_of_memory, "exit": judge.exit}

    def _fork(self, body: Callable[[], None], descriptors: list[int], fork: Callable[[], int] = os.fork) -> Child:
        bell, ring = os.pipe()
        process = fork()
        if process == 0:
            try:
                _arrange([*descriptors[:_BELL], ring, *descriptors[_BELL:]])
                body()
                os._exit(0)
            except BaseException as error:
                os.write(_BELL, f"{type(error).__name__}: {error}".encode()[:1000])
            finally:
                os._exit(70)
        os.close(ring)
        return Child(process, bell)

    def _judge(self, limits: dict[str, Any]) -> None:
        os.setsid()
        room.limit(limits, self.counted)
        os._exit(run_tests(_read(_TEXT).decode("utf-8", "surrogatepass"), socket.socket(fileno=_PIPE)))

    def _keep(self, limits: dict[str, Any], folder: str, with_calls: bool) -> None:
        os.setsid()
        if not self.local:
            room.furnish(limits["disk_mib"])
        program = os.fork()
        if program == 0:
            self._become_program(limits, folder, with_calls)
        ended, status = os.waitpid(-1, 0)
        while ended != program:  # an orphan of the program's
            ended, status = os.waitpid(-1, 0)
        os.write(_BELL, str(os.waitstatus_to_exitcode(status)).encode())

    def _become_program(self, limits: dict[str, Any], folder: str, with_calls: bool) -> None:
        source = _read(_TEXT)
        if not with_calls:
            os.close(_PIPE)
        os.chdir(folder)
        os.environ.update(HOME=folder, TMPDIR=folder)
        tempfile.tempdir = None
        room.limit(limits, self.counted)
        room.hide(False)  # its own /proc/self is the program's
        if not self.local:
            room.drop_rights()
        os.write(_BELL, b"+")
        os.close(_BELL)
        os._exit(run_program(source, socket.socket(fileno=_PIPE) if with_calls else None))

    def _wait(self, children: list[Child], memory: int) -> bool:
        """Until the judge - the tester, or the keeper if there is none - has ended. True if memory ran out before."""
        judge = children[0]
        ours = {os.getpid()} | ({judge.process} if len(children) > 1 else set())
        while True:
            ready, _, _ = select.select([judge.bell, self.control], [], [], _WATCH_SECONDS)
            if self.control in ready:  # there is one order at a time, so this is the end
                raise Gone
            if judge.bell in ready and not judge.listen():
                return False
            if not ready and not self.local and _memory_in_use(ours) > memory:
                return True

    def _sweep(self, children: list[Child]) -> None:
        """Kills whatever is left of a program, and returns when nothing is."""
        if self.local:
            for child in children:
                _kill_group(child.process)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # everything in this namespace and those below, but not us
        exits = {}
        with contextlib.suppress(ChildProcessError):
            while True:
                process, status = os.waitpid(-1, 0)
                exits[process] = os.waitstatus_to_exitcode(status)
        for child in children:
            child.exit = exits.get(child.process)
            while child.listen():
                pass
            os.close(child.bell)


def _memory_in_use(but: set[int]) -> int:
    return sum(
        room.memory_of(process) for process in map(int, filter(str.isdigit, os.listdir("/proc"))) if process not in but
    )


def _kill_group(leader: int) -> None:
    """Before, at and after the moment in which it becomes the leader."""
    for kill in (os.killpg, os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)


def _arrange(descriptors: list[int]) -> None:
    """Makes these the process's descriptors 0, 1, 2 ..., and closes all others."""
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _HIGHEST // 2) for descriptor in descriptors]
    for place, descriptor in enumerate(aside):
        os.dup2(descriptor, place, inheritable=place < _PIPE)
    os.closerange(len(aside), _HIGHEST)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def main() -> None:
    """Descriptor 0 is the socket to the host; `--local` means no rooms."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    room.hide()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a room's first process must not have a handler: it could be called
    with contextlib.suppress(Gone):
        Supervisor(control, local="--local" in sys.argv).serve()


if __name__ == "__main__":
    main()
