"""Runs inside the sandbox: forks a jail per program, waits, reports how it ended. `rlif.sandbox.runner` has the map.

    host --(an order: limits, and the program's texts and output as descriptors)--> supervisor, which forks
        the tester    if there are tests: runs them, and judges by calling into the program over a pipe
        init          first process of the jail (`rlif.sandbox.jail`); mounts its disk, then forks and waits for
            the program. Without tests, Python itself runs it: the worker is `python program.py`, which imports
            `rlif.sandbox.start.sitecustomize` before anything else, and the supervisor serves in that import. The
            forked process returns from it (`ProgramBegins`), and so runs program.py as Python always does
    host <--(a reply: how it ended)-- supervisor, once waitpid shows that none of these processes is left

A verdict is hard to forge because it is an exit status, read by a process that the program cannot address. The
supervisor never reads source, stdin or tests, it passes their descriptors on. So a program finds neither its tests nor
another program in the memory that it was forked with. The host limits time and amount of output: it discards the
sandbox when either is exceeded. Standard library only.
"""

import contextlib
import fcntl
import gc
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

from rlif.sandbox import jail
from rlif.sandbox.calls import FILE, Note, answer_calls, begin_anew, keep_forever, note_memory_error, run_tests

_WATCH_SECONDS = 0.05  # between two checks of the memory in use
_HIGHEST = 128  # more descriptors than a supervisor ever has open
_MEMORY = "m"  # ends a report: an exception that nobody caught was a MemoryError
_CALLS, _REPORT, _TEXT = 3, 4, 5  # a forked process's descriptors: pipe for calls, report pipe, source or tests


class HostClosed(Exception):
    """Reports that the host has closed its end of the socket."""


class ProgramBegins(BaseException):
    """Unwinds the stack of a forked process, so that nothing of the supervisor is beneath the program."""


class Child:
    """A forked process, and what it and its descendants wrote to their report pipe.

    The pipe ends when all of them have ended or closed it.
    """

    def __init__(self, process: int, pipe: int) -> None:
        self.process, self.pipe, self.report = process, pipe, b""
        self.exit: int | None = None

    def read(self) -> bool:
        """Waits for more of the report; returns False at its end."""
        chunk = os.read(self.pipe, 4096)
        self.report += chunk
        return bool(chunk)


class Supervisor:
    """Serves orders, one program at a time.

    Args:
        control: the socket to the host.
        local: run plain processes of the host instead of jails (`unsafe_local` in `rlif.sandbox.runner`).
        present: names of the modules that a program finds imported.
    """

    def __init__(self, control: socket.socket, local: bool, present: set[str]) -> None:
        self.control, self.local, self.present = control, local, present
        self.folder = os.path.dirname(os.path.abspath(sys.argv[0])) if local else "/tmp"
        self.forked = False  # in a process that will run a program, whose unwinding must not end or close anything
        self.fork = os.fork if local else jail.fork_into_jail
        self.counted = jail.processes_counted()

    def serve(self) -> None:
        """Serves until the host closes its end, which it may do while a program runs."""
        while True:
            limits, files = self._receive()
            if self.local:
                from shutil import rmtree

                rmtree(self.folder, ignore_errors=True)
                os.makedirs(self.folder, exist_ok=True)
            try:
                reply = self._run(limits, files)
            except OSError as error:
                reply = {"broken": str(error)}
            self.control.sendall(json.dumps(reply).encode() + b"\n")

    def _receive(self) -> tuple[dict[str, float], list[int]]:
        data, files = b"", []
        while not data.endswith(b"\n"):
            chunk, more, _, _ = socket.recv_fds(self.control, 4096, 8)
            if not chunk:
                raise HostClosed
            data, files = data + chunk, files + more
        return json.loads(data), files

    def _run(self, limits: dict[str, float], files: list[int]) -> dict[str, object]:
        children: list[Child] = []
        if self.local:  # all processes of the user count, and their number changes
            self.counted = jail.processes_counted() + jail.COUNT_STEP
        try:
            with contextlib.ExitStack() as ours:
                for file in files:
                    ours.callback(self._close, file)
                source, stdin, stdout, stderr, *tests = files
                calls = stdin  # not read unless there are tests
                if tests:
                    calls, testers_end = (end.detach() for end in socket.socketpair())
                    ours.callback(self._close, calls)
                    ours.callback(self._close, testers_end)
                    descriptors = [0, stderr, stderr, testers_end, *tests]
                    children.append(self._fork(lambda: self._become_tester(limits), descriptors))
                descriptors = [stdin, stdout, stderr, calls, source]
                children.append(self._fork(lambda: self._become_init(limits, bool(tests)), descriptors, self.fork))
            out_of_memory = self._wait(children, int(limits["memory_mib"]) << 20)
        finally:
            if not self.forked:
                self._kill_all(children)
        judge, init = children[0], children[-1]
        report = init.report.decode(errors="replace")
        told = judge.report.decode(errors="replace").removeprefix("+").removesuffix(_MEMORY)
        if not report.startswith("+") or (judge is not init and told):
            return {"broken": report.removeprefix("+") or told or "no report from the jail"}
        if judge is init:
            judge.exit = int(told) if told.lstrip("-").isdigit() else None
        return {"out_of_memory": out_of_memory or judge.report.endswith(_MEMORY.encode()), "exit": judge.exit}

    def _close(self, descriptor: int) -> None:
        if not self.forked:
            os.close(descriptor)

    def _fork(self, body: Callable[[], None], descriptors: list[int], fork: Callable[[], int] = os.fork) -> Child:
        reader, writer = os.pipe()
        process = fork()
        if process == 0:
            try:
                _arrange([*descriptors[:_REPORT], writer, *descriptors[_REPORT:]])
                body()
                os._exit(0)
            except ProgramBegins:
                raise
            except BaseException as error:  # nothing may continue as a second supervisor
                try:
                    os.write(_REPORT, f"{type(error).__name__}: {error}".encode()[:1000])
                finally:
                    os._exit(70)
        os.close(writer)
        return Child(process, reader)

    def _become_tester(self, limits: dict[str, float]) -> None:
        os.setsid()
        with contextlib.suppress(OSError):  # where there is no /proc
            # Opens stderr again, because the program shares the other and can make it non-blocking.
            again = os.open("/proc/self/fd/2", os.O_WRONLY)
            os.dup2(again, 2)
            os.close(again)
        jail.set_limits(limits, self.counted)
        code, memory = run_tests(_read(_TEXT).decode("utf-8", "surrogatepass"), socket.socket(fileno=_CALLS))
        if memory:
            os.write(_REPORT, _MEMORY.encode())
        os._exit(code)

    def _become_init(self, limits: dict[str, float], with_calls: bool) -> None:
        os.setsid()
        if not self.local:
            jail.mount_disk(int(limits["disk_mib"]))
        note = mmap.mmap(-1, 1) if self.local else jail.shared_byte()
        program = os.fork()
        if program == 0:
            self._become_program(limits, with_calls, note)
        ended, status = os.waitpid(-1, 0)
        while ended != program:  # an orphan of the program's
            ended, status = os.waitpid(-1, 0)
        code = os.waitstatus_to_exitcode(status)
        os.write(_REPORT, f"{code}{_MEMORY if code and note[0] else ''}".encode())

    def _become_program(self, limits: dict[str, float], with_calls: bool, note: Note) -> None:
        self.forked = True
        self.control.detach()
        os.chdir(self.folder)
        try:
            with open(FILE, "wb") as file:
                file.write(_read(_TEXT))
        except OSError:  # it is larger than its disk; then Python says that there is no such file
            os.remove(FILE)
        os.environ.update(HOME=self.folder, TMPDIR=self.folder, PWD=self.folder)
        jail.set_limits(limits, self.counted)
        jail.hide(False)  # the program may read its own /proc/self
        if not self.local:
            jail.drop_privileges()
        os.write(_REPORT, b"+")
        os.close(_REPORT)
        begin_anew(self.present)
        if with_calls:
            answer_calls(socket.socket(fileno=_CALLS), self.folder)
            os._exit(0)
        os.close(_CALLS)
        note_memory_error(note)
        raise ProgramBegins

    def _wait(self, children: list[Child], memory: int) -> bool:
        """Waits until the tester, or init if there are no tests, has ended. Returns True if memory ran out before."""
        judge, init = children[0], children[-1]
        ours = {os.getpid(), judge.process, init.process}
        open_pipes = {child.pipe: child for child in children}
        while True:
            ready, _, _ = select.select([*open_pipes, self.control], [], [], _WATCH_SECONDS)
            if self.control in ready:  # there is one order at a time, so this is the end
                raise HostClosed
            for pipe in [pipe for pipe in open_pipes if pipe in ready]:
                if not open_pipes[pipe].read() and open_pipes.pop(pipe) is judge:
                    return False
            begun = init.report and not self.local
            if not ready and begun and jail.memory_in_use(ours, memory) > memory:
                return True

    def _kill_all(self, children: list[Child]) -> None:
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
            while child.read():
                pass
            os.close(child.pipe)


def _kill_group(leader: int) -> None:
    """Kills a process and its group: before, at and after the moment in which it becomes the leader."""
    for kill in (os.killpg, os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)


def _arrange(descriptors: list[int]) -> None:
    """Makes these the process's descriptors 0, 1, 2 ..., and closes all others."""
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _HIGHEST // 2) for descriptor in descriptors]
    for number, descriptor in enumerate(copies):
        os.dup2(descriptor, number, inheritable=number < _CALLS)
    os.closerange(len(copies), _HIGHEST)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def main(local: bool, present: set[str]) -> None:
    """Serves the host at the other end of descriptor 0, a socket. Returns only where a program begins.

    Args:
        local: without jails.
        present: names of the modules that Python itself had imported.
    """
    try:
        control = socket.socket(fileno=os.dup(0))
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        jail.hide()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a jail's first process must not run a Python handler
        keep_forever([module for name, module in sys.modules.items() if name not in present])
        gc.freeze()  # forked processes need not visit, and thereby copy, what is here
        Supervisor(control, local, present).serve()
    except ProgramBegins:
        return
    except HostClosed:
        os._exit(0)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)
