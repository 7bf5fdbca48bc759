"""Starts a sandbox from the host, runs programs in it, collects their output, then discards the sandbox.

The supervisor inside (`rlif.sandbox.supervisor`) gets an order - the limits, and descriptors from which the
program's texts can be read and to which its output goes - and answers once, when the program has ended and nothing
of it is left. The host reads the output meanwhile, so it cannot pile up, and only the host watches the clock. When
time is over, output is too long or no answer comes, the sandbox is discarded. A supervisor ends when its socket does,
and the kernel ends everything else in its process namespace with it. Should it not end, its process group is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlif.errors import MachineError
from rlif.sandbox.bubblewrap import INSTALL, local_command, sandbox_command

_START_LIMITS = {"seconds": 60.0, "memory_mib": 1024, "processes": 64, "output_bytes": 1, "disk_mib": 1}
_END_SECONDS = 5.0  # for a sandbox to end by itself
_GLANCE = 0.1  # seconds between two looks at whether the run has been given up
_STDERR_TAIL = 4096  # bytes that are kept
_PIPE_BYTES = 1 << 20  # a pipe holds no more
_OUT_OF_MEMORY = re.compile(r"^([\w.]*CandidateError: )?[\w.]*MemoryError\b")  # as the last line of a traceback


class Broken(Exception):
    """The sandbox failed before the program began, so this is no verdict."""


class GivenUp(Exception):
    """The run ends before this program."""


class Ending(NamedTuple):
    """How a program ended: the fields of `rlif.sandbox.runner.Outcome`."""

    status: str
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float


class Sandbox:
    """A sandbox that has shown that it works.

    Args:
        local: no sandbox, plain processes.
        given_up: when set, whatever goes on ends as `GivenUp`.

    Raises:
        MachineError: it cannot be made.
    """

    def __init__(self, local: bool = False, given_up: threading.Event | None = None) -> None:
        self.spent = False
        self.given_up = given_up or threading.Event()
        command, environment, self.user = local_command() if local else sandbox_command()
        self.control, theirs = socket.socketpair()
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self.complaints,
                env=environment,
                start_new_session=True,  # Ctrl-C is the caller's to handle
            )
        try:
            ending = self.run(["", ""], _START_LIMITS)
            failure = "" if ending.status == "ok" else f"an empty program gives {ending}"
        except Broken as error:
            failure = str(error)
        except BaseException:
            self.close()
            raise
        if failure:
            said = self.close() or failure
            if local:
                raise MachineError(f"programs cannot be run here: {said}")
            raise MachineError(
                f"{INSTALL}; here it cannot make a sandbox ({said}): allow unprivileged user namespaces, on Ubuntu by "
                "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, in a container by its seccomp profile."
            )

    def close(self) -> str:
        """Ends it; when this returns, none of its processes is left. Returns the last line of what it complained."""
        self.control.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        with self.complaints as file:
            file.seek(0)
            return file.read().decode(errors="replace").strip().rpartition("\n")[2]

    def run(self, texts: Sequence[str], limits: Mapping[str, Any]) -> Ending:
        """Runs one program; the sandbox may be spent afterwards.

        Args:
            texts: source, stdin and, if there are any, tests.
            limits: as in `rlif.sandbox.runner.Limits`.

        Raises:
            Broken: it could not begin; the sandbox is spent.
            GivenUp: somebody set the event.
        """
        self.spent = True  # until there is an answer
        with contextlib.ExitStack() as stack:
            source, stdin, *tests = (_paper(stack, text) for text in texts)
            (stdout, their_stdout), (stderr, their_stderr) = (self._pipe(stack) for _ in "12")
            started = time.monotonic()
            try:
                order = json.dumps(limits).encode() + b"\n"
                socket.send_fds(self.control, [order], [source, stdin, their_stdout, their_stderr, *tests])
            except OSError as error:
                raise Broken(f"it ended while idle: {error}") from None
            ears = _Ears(self.control.fileno(), stdout, stderr, limits["output_bytes"])
            stopped = ears.listen(started + limits["seconds"], self.given_up)
            seconds = time.monotonic() - started
        reply = {} if stopped else json.loads(ears.reply)
        if "broken" in reply:
            raise Broken(reply["broken"])
        self.spent = bool(stopped)
        output = ears.stdout[: limits["output_bytes"]].decode(errors="replace")
        complaints = ears.stderr.decode(errors="replace")
        status = stopped or _status(reply, ears.too_much, complaints)
        return Ending(status, output, complaints, reply.get("exit"), seconds)

    def _pipe(self, stack: contextlib.ExitStack) -> tuple[int, int]:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        os.set_blocking(reader, False)
        if self.user is not None:
            os.fchown(writer, self.user, -1)  # so that the program can open /dev/stdout
        return reader, writer


class _Ears:
    """Hear a program out: its output, as far as it is kept, and the supervisor's reply.

    The host holds the writing ends of the output too, so only the supervisor's socket can end.
    """

    def __init__(self, control: int, stdout: int, stderr: int, most: int) -> None:
        self.control, self.most = control, most
        self.reply, self.stdout, self.stderr = bytearray(), bytearray(), bytearray()
        self.heard = {control: self.reply, stdout: self.stdout, stderr: self.stderr}
        self.poll = select.poll()
        for descriptor in self.heard:
            self.poll.register(descriptor, select.POLLIN)

    @property
    def too_much(self) -> bool:
        return len(self.stdout) > self.most

    def listen(self, deadline: float, given_up: threading.Event) -> str:
        """Until the reply is there (then returns ""), or the status that ends the program and its sandbox."""
        while True:
            left = deadline - time.monotonic()
            for descriptor, _ in self.poll.poll(1000 * max(0.0, min(left, _GLANCE))):
                if not self._hear(descriptor) and descriptor == self.control:
                    return "killed"
            if self.reply.endswith(b"\n"):
                for descriptor in self.heard:
                    if descriptor != self.control:
                        self._hear(descriptor)
                return ""
            if self.too_much:
                return "output"
            if left <= 0:
                return "timeout"
            if given_up.is_set():
                raise GivenUp

    def _hear(self, descriptor: int) -> bool:
        try:
            chunk = os.read(descriptor, _PIPE_BYTES)
        except (BlockingIOError, ConnectionResetError):
            chunk = b""
        heard = self.heard[descriptor]
        heard += chunk
        if heard is self.stderr:
            del heard[:-_STDERR_TAIL]
        return bool(chunk)


def _status(reply: Mapping[str, Any], too_much: bool, complaints: str) -> str:
    if reply["out_of_memory"]:
        return "memory"
    if too_much:
        return "output"
    if reply["exit"] is None:
        return "killed"
    if reply["exit"] == 0:
        return "ok"
    if reply["exit"] == -signal.SIGXCPU:
        return "timeout"
    return "memory" if _OUT_OF_MEMORY.match(complaints.rstrip().rpartition("\n")[2]) else "error"


def _paper(stack: contextlib.ExitStack, text: str) -> int:
    """A descriptor from which a text can be read; sealed against writing where the system has that."""
    data = text.encode("utf-8", "surrogatepass")
    if not hasattr(os, "memfd_create"):
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        file.write(data)
        file.seek(0)
        return file.fileno()
    from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

    paper = os.memfd_create("paper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, paper)
    with open(paper, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(paper, 0, os.SEEK_SET)
    fcntl(paper, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
    return paper
