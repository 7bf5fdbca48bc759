"""Runs programs that a model wrote, many per sandbox, and says how each ended. Linux with bubblewrap.

    sandbox   bubblewrap: no network, no file of the host but a read-only /usr and Python with numpy, no environment, no
              capability, process ids and host name of its own. One per worker. Root enters it as another user, because
              the kernel does not limit root's processes (`rlif.sandbox.bubblewrap`)
    room      inside it, one per program: namespaces, disk and limits of its own, and a filter of system calls. A
              program can name no process but its own, and the kernel takes the room down as one piece
              (`rlif.sandbox.room`)
    verdict   an exit status seen from outside the room: of the program, or of its tests, which run in another process
              and get plain data (`rlif.sandbox.calls`). What a program printed is compared by the caller, outside

The files, in reading order: runner.py (front door), host.py (one sandbox seen from the host), bubblewrap.py (the
command that enters it); inside it supervisor.py, room.py, calls.py and values.py, which use the standard library alone.
Imports errors only. `__init__.py` is mounted inside and stays empty.

When time is over, output is too long or the sandbox breaks, the host discards that sandbox. The other programs continue
in a fresh one. A sandbox that cannot be made is a `MachineError`, never a verdict.

Stopped: reading and writing files of the host, its environment, its network and its processes; fork bombs; memory
(address space of each process; resident memory of all of a program's, looked at 20 times a second, so it can overshoot
by what is written in between); disk, output and time; processes, files, sockets and queues left for the next program;
forged verdicts. Not stopped: bugs of the kernel; side channels; load on processors and memory bus (a busy machine makes
programs slow, hence more time-outs); kernel memory of pipes and sockets, bounded by their number only; a look at the
kind of machine in /proc and at names of files under /usr and Python's folder. Made for scoring what a model wrote, not
for a service that strangers can reach. Needs Linux on x86_64 or aarch64 with unprivileged user namespaces.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlif.errors import MachineError, RecipeError
from rlif.sandbox.bubblewrap import find_bubblewrap
from rlif.sandbox.host import Broken, GivenUp, Sandbox


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        seconds: wall clock, from its start to its end, tests included.
        memory_mib: MiB of address space of each process, and of resident memory of all its processes together.
        processes: how many processes and threads at a time.
        output_bytes: bytes of stdout; more ends the program.
        disk_mib: MiB of all it writes, /tmp and /dev/shm together.
    """

    seconds: float = 6.0
    memory_mib: int = 2048
    processes: int = 64
    output_bytes: int = 1 << 20
    disk_mib: int = 64

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise RecipeError(f"a limit must be positive; {name} is {value}.")


@dataclass(frozen=True)
class Program:
    """Untrusted Python, and how to judge it.

    Args:
        source: the program. Without tests it runs as `__main__`, with tests it is imported as `program`.
        stdin: what it can read.
        tests: trusted Python for another process. It sees `call(name, *args)`, which calls what the program calls
            `name` ("f", "Solution().two_sum") or returns it if it is no function; `proxy(name)`, the same as a
            function; and `CandidateError`, which a call raises when the program does. Arguments and results travel
            as copies of plain data (`rlif.sandbox.values`). Tests that reach their end have passed.
        limits: instead of those of the run.
    """

    source: str
    stdin: str = ""
    tests: str | None = None
    limits: Limits | None = None


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Args:
        status: "ok" (exit code 0; with tests, all passed), "error" (exception, other exit code, failed test),
            "timeout", "memory", "output" (too much of it), "killed" (it ended together with its sandbox).
        stdout: as UTF-8, at most `output_bytes`; with tests too, the program's.
        stderr: the last few KB, the tests' included.
        exit_code: of the program, or of its tests if there are any; -n for signal n; None if it did not come to that.
        seconds: wall clock.
    """

    status: str
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it ran to its end, and passed its tests if it has any."""
        return self.status == "ok"


def run_programs(
    programs: Sequence[Program],
    limits: Limits = Limits(),
    *,
    workers: int | None = None,
    unsafe_local: bool = False,
    on_outcome: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    r"""Runs programs in sandboxes, several at a time.

        >>> run_programs([Program("print(input()[::-1])", stdin="abc")])[0].stdout
        'cba\n'
        >>> run_programs([Program("def f(x): return x + 1", tests="assert call('f', 1) == 2")])[0].ok
        True

    Works from any thread. Ctrl-C, or an exception of `on_outcome`, ends all sandboxes first.

    Args:
        programs: what to run, in any order.
        limits: of each program that has none of its own.
        workers: sandboxes at a time; as many as there are processors if left out.
        unsafe_local: without bubblewrap, as plain processes of this user, with nothing but resource limits. That stops
            accidents: endless loops, runaway memory of one process. It does NOT stop a program from reading your
            files and keys, using the network, killing your processes (and so its judge), forging its verdict, leaving
            files and processes behind or, as root, forking without end.
        on_outcome: called in this thread as each program ends, with its index.

    Returns:
        One outcome per program, in their order.

    Raises:
        MachineError: no bubblewrap, or it cannot make a sandbox here.
    """
    if not unsafe_local:
        find_bubblewrap()
    if workers is not None and workers < 1:
        raise RecipeError(f"workers must be at least 1, not {workers}.")
    crew = _Crew(programs, limits, unsafe_local)
    outcomes: dict[int, Outcome] = {}
    try:
        crew.start(min(workers or _processors(), len(programs)))
        while len(outcomes) < len(programs):
            index, outcome = crew.done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes[index] = outcome
            if on_outcome:
                on_outcome(index, outcome)
    finally:
        crew.end()
    return [outcomes[index] for index in range(len(programs))]


def require_sandbox() -> None:
    """Returns if programs can be run safely here.

    Raises:
        MachineError: bubblewrap is missing or cannot make namespaces; the sentence says what to do.
    """
    Sandbox().close()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Crew:
    """Threads that take programs from one heap; each has a sandbox."""

    def __init__(self, programs: Sequence[Program], limits: Limits, local: bool) -> None:
        self.programs, self.limits, self.local = programs, limits, local
        self.todo = deque(range(len(programs)))
        self.done: queue.SimpleQueue[tuple[int, Outcome | BaseException]] = queue.SimpleQueue()
        self.given_up = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self, workers: int) -> None:
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        self.given_up.set()
        for thread in self.threads:
            thread.join()

    def _work(self) -> None:
        sandbox: Sandbox | None = None
        try:
            while not self.given_up.is_set():
                index = self.todo.popleft()
                for last_try in (False, True):
                    try:
                        sandbox = sandbox or Sandbox(self.local, self.given_up)
                        self.done.put((index, self._run(sandbox, self.programs[index])))
                        break
                    except Broken as error:
                        if last_try:
                            raise MachineError(f"the sandbox broke twice in a row ({error}).") from None
                    finally:
                        if sandbox and sandbox.spent:
                            sandbox.close()
                            sandbox = None
        except (GivenUp, IndexError):  # told to end, or nothing left to do
            pass
        except BaseException as error:
            self.done.put((-1, error))
        finally:
            if sandbox:
                sandbox.close()

    def _run(self, sandbox: Sandbox, program: Program) -> Outcome:
        texts = [program.source, program.stdin, *([] if program.tests is None else [program.tests])]
        return Outcome(*sandbox.run(texts, dataclasses.asdict(program.limits or self.limits)))
