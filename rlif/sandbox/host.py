"""Starts a sandbox from the host, runs programs in it, collects their output, then discards the sandbox.

The supervisor inside (`rlif.sandbox.supervisor`) receives an order: the limits, and descriptors from which the
program's texts can be read and to which its output goes. It replies once, when the program has ended and nothing of it
is left. The host reads the output meanwhile, so it cannot pile up, and only the host measures time. When time is over,
output is too long or no reply comes, the sandbox is discarded. A supervisor ends when its socket closes, and the kernel
then ends everything else in its process namespace. If it does not end, the host kills its process group.
"""

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

from rlif.errors import MachineError
from rlif.sandbox.bubblewrap import local_command, no_sandbox, sandbox_command
from rlif.sandbox.program import Limits, Outcome, Program

_START_LIMITS = Limits(seconds=60.0, memory_mib=1024, processes=64, output_bytes=1, disk_mib=1)
_END_SECONDS = 5.0  # for a sandbox to end by itself
_POLL_SECONDS = 0.1  # between two checks whether the run is cancelled
_STDERR_TAIL = 4096  # bytes
_PIPE_BYTES = 1 << 20  # a pipe holds no more


class SandboxBroken(Exception):
    """Reports that the sandbox failed before the program began, so there is no verdict."""


class Cancelled(Exception):
    """Reports that the run ended before this program did."""


class Sandbox:
    """One running sandbox; the constructor tests it with an empty program.

    Args:
        local: start plain processes without a sandbox.
        cancelled: once set, a program that runs ends with `Cancelled`.

    Raises:
        MachineError: it cannot be made.
    """

    def __init__(self, local: bool = False, cancelled: threading.Event | None = None) -> None:
        self.spent = False
        self.cancelled = cancelled or threading.Event()
        self.folder = tempfile.mkdtemp() if local else ""
        command, environment, self.user = local_command(self.folder) if local else sandbox_command()
        self.control, theirs = socket.socketpair()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self.log,
                env=environment,
                start_new_session=True,  # the caller handles Ctrl-C
            )
        try:
            outcome = self.run(Program(""), _START_LIMITS)
            failure = "" if outcome.ok else f"an empty program gives {outcome}"
        except SandboxBroken as error:
            failure = str(error)
        except BaseException:
            self.close()
            raise
        if failure:
            reason = self.close() or failure
            if local:
                raise MachineError(f"programs cannot be run here: {reason}")
            raise no_sandbox(reason)

    def close(self) -> str:
        """Ends the sandbox with all of its processes. Returns the last line that it wrote to stderr."""
        self.control.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        with self.log as file:
            file.seek(0)
            return file.read().decode(errors="replace").strip().rpartition("\n")[2]

    def run(self, program: Program, limits: Limits) -> Outcome:
        """Runs one program under these limits, whatever its own; the sandbox may be `spent` afterwards.

        Raises:
            SandboxBroken: the program could not begin; the sandbox is spent.
            Cancelled: the event `cancelled` is set.
        """
        self.spent = True  # until there is a reply
        texts = [program.source, program.stdin, *([] if program.tests is None else [program.tests])]
        with contextlib.ExitStack() as stack:
            source, stdin, *tests = (_readable(stack, text) for text in texts)
            (stdout, their_stdout), (stderr, their_stderr) = (self._pipe(stack) for _ in range(2))
            started = time.monotonic()
            try:
                order = json.dumps(dataclasses.asdict(limits)).encode() + b"\n"
                socket.send_fds(self.control, [order], [source, stdin, their_stdout, their_stderr, *tests])
            except OSError as error:
                raise SandboxBroken(f"it ended while idle: {error}") from None
            collector = _Collector(self.control.fileno(), stdout, stderr, limits.output_bytes)
            stopped = collector.collect(started + limits.seconds, self.cancelled)
            seconds = time.monotonic() - started
        reply = {} if stopped else json.loads(collector.reply)
        if "broken" in reply:
            raise SandboxBroken(reply["broken"])
        self.spent = bool(stopped)
        output = collector.stdout[: limits.output_bytes].decode(errors="replace")
        errors = collector.stderr.decode(errors="replace")
        status = stopped or _status(reply, collector.too_much)
        return Outcome(status, output, errors, reply.get("exit"), seconds)

    def _pipe(self, stack: contextlib.ExitStack) -> tuple[int, int]:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        os.set_blocking(reader, False)
        if self.user is not None:
            os.fchown(writer, self.user, -1)  # so that the program can open /dev/stdout
        return reader, writer


class _Collector:
    """Collects a program's output, as far as it is used, and the supervisor's reply.

    The host holds the writing ends of the output too, so end of file can occur on the supervisor's socket only.
    """

    def __init__(self, control: int, stdout: int, stderr: int, output_bytes: int) -> None:
        self.control, self.output_bytes = control, output_bytes
        self.reply, self.stdout, self.stderr = bytearray(), bytearray(), bytearray()
        self.received = {control: self.reply, stdout: self.stdout, stderr: self.stderr}
        self.poll = select.poll()
        for descriptor in self.received:
            self.poll.register(descriptor, select.POLLIN)

    @property
    def too_much(self) -> bool:
        return len(self.stdout) > self.output_bytes

    def collect(self, deadline: float, cancelled: threading.Event) -> str:
        """Reads until the reply is complete and returns "", or returns the status that ends program and sandbox."""
        while True:
            left = deadline - time.monotonic()
            for descriptor, _ in self.poll.poll(1000 * max(0.0, min(left, _POLL_SECONDS))):
                if not self._read(descriptor) and descriptor == self.control:
                    return "killed"
            if self.reply.endswith(b"\n"):
                for descriptor in self.received:
                    if descriptor != self.control:
                        self._read(descriptor)
                return ""
            if self.too_much:
                return "output"
            if left <= 0:
                return "timeout"
            if cancelled.is_set():
                raise Cancelled

    def _read(self, descriptor: int) -> bool:
        try:
            chunk = os.read(descriptor, _PIPE_BYTES)
        except (BlockingIOError, ConnectionResetError):
            chunk = b""
        received = self.received[descriptor]
        received += chunk
        if received is self.stderr:
            del received[:-_STDERR_TAIL]
        return bool(chunk)


def _status(reply: Mapping[str, Any], too_much: bool) -> str:
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
    return "error"


def _readable(stack: contextlib.ExitStack, text: str) -> int:
    """Opens a descriptor from which a text can be read; sealed against writing where the system supports that."""
    data = text.encode("utf-8", "surrogatepass")
    if not hasattr(os, "memfd_create"):
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        file.write(data)
        file.seek(0)
        return file.fileno()
    from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

    descriptor = os.memfd_create("text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl(descriptor, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
    return descriptor
