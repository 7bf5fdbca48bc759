"""Runs programs that a model wrote, many per sandbox, and returns how each ended. Linux with bubblewrap.

    sandbox   one per worker: bubblewrap without network, environment, capabilities or files of the host, except a
              read-only /usr and Python with numpy; with process ids and a host name of its own. Root enters it as
              another user, because the kernel does not limit root's processes (`rlif.sandbox.bubblewrap`)
    jail      inside it, one per program: namespaces, disk, limits and a filter of system calls. A program can
              address only its own processes, and the kernel removes the jail as a whole (`rlif.sandbox.jail`)
    program   run and ended by Python itself, as `python program.py` in a fresh folder (`rlif.sandbox.start`)
    verdict   an exit status, read from outside the jail: of the program, or of its tests, which run in another process
              and receive plain data (`rlif.sandbox.calls`). The caller compares what a program printed, outside

The files, in reading order: runner.py (front door), program.py (`Program`, `Limits`, `Outcome`), backend.py (what can
run programs instead of bubblewrap), host.py (starts one sandbox, sends it programs), bubblewrap.py (the command that
enters it); inside it supervisor.py, jail.py, filters.py, calls.py and values.py, which use the standard library alone,
and start/, by which Python starts them. `__init__.py` is mounted inside and stays empty.

When a program exceeds its time or output, or breaks the sandbox, the host discards that sandbox. The other programs
continue in a new one. A program that breaks two sandboxes has the status "broken"; their number is logged. A sandbox
that cannot be made at all is a `MachineError`, never a verdict.

Stopped:

    the host            its files, environment, network (every family of sockets but UNIX, inside), processes, keys, and
                        the paths of its folders in /proc, which shows processes only
    system calls        all but those that Python needs (`rlif.sandbox.filters`)
    memory              of each process: address space. Of a program: resident and swapped pages, page tables, mappings,
                        shared memory without a file (at most 8 MiB a piece), open files with their pipes, sockets with
                        their queues, locks, checked 20 times a second, so it can overshoot by what is taken in between.
                        System V and POSIX queues, semaphores and segments, larger pipes and buffers, watches and timers
                        are refused
    other limits        processes, disk and its inodes, output, time, pending signals
    other programs      nothing is left for the next one, and no order of programs ends a run
    verdicts            cannot be forged; stderr that is full or does not block changes none

Not stopped: bugs of the kernel; side channels; load on processors and memory bus (a busy machine makes programs slow,
hence more time-outs); the names of files under /usr and Python's folder, the kind of disk they lie on, and before Linux
5.11 or where overlays cannot be stacked the paths that they were mounted from. Made for scoring what a model wrote, not
for a service that strangers can reach. Needs Linux on x86_64 or aarch64 with unprivileged user namespaces.

Otherwise than under plain Python: there is no network, not even to itself by 127.0.0.1 (UNIX sockets work), and no
/proc/meminfo or /proc/cpuinfo (`os.cpu_count` and `os.sysconf` work); `mmap.mmap(-1, n)` fails beyond 8 MiB (memory
shared by `multiprocessing` may be as large as the disk); a program's other processes end with its first one.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait

from rlif import progress
from rlif.errors import MachineError, RecipeError
from rlif.sandbox.backend import Backend, Local, Worker, chosen_backend
from rlif.sandbox.host import SandboxBroken
from rlif.sandbox.program import Limits, Outcome, Program

__all__ = ["Limits", "Outcome", "Program", "require_sandbox", "run_programs"]

logger = logging.getLogger(__name__)
_RESTART_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # waits before a sandbox is tried again, where one could be made before


def run_programs(
    programs: Sequence[Program],
    limits: Limits | None = None,
    *,
    workers: int | None = None,
    unsafe_local: bool = False,
    backend: Backend | None = None,
    on_outcome: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    r"""Runs programs in sandboxes, several at a time.

        >>> run_programs([Program("print(input()[::-1])", stdin="abc")])[0].stdout
        'cba\n'
        >>> run_programs([Program("def f(x): return x + 1", tests="assert call('f', 1) == 2")])[0].ok
        True

    Works from any thread. Ctrl-C, or an exception of `on_outcome`, ends all sandboxes first.

    Args:
        limits: apply to programs that have none of their own; the defaults of `Limits` if left out.
        workers: sandboxes at a time; as many as there are processors if left out.
        unsafe_local: without bubblewrap, as plain processes of this user, with nothing but resource limits. That stops
            accidents: endless loops, runaway memory of one process. It does NOT stop a program from reading your
            files and keys, using the network, killing your processes (and so its judge), forging its verdict, leaving
            files and processes behind or, as root, forking without end.
        backend: what runs them; left out, the one that RLIF_SANDBOX names, or bubblewrap (`rlif.sandbox.backend`).
        on_outcome: called in this thread as each program ends, with its index.

    Returns:
        One outcome per program, in their order.

    Raises:
        MachineError: bubblewrap is missing, or cannot make a sandbox here.
    """
    backend = Local() if unsafe_local else backend or chosen_backend()
    backend.check()
    if workers is not None and workers < 1:
        raise RecipeError(f"workers must be at least 1, not {workers}.")
    cancelled = threading.Event()
    available = _Workers(backend, cancelled)

    def run(program: Program) -> Outcome:
        reason = ""
        for _ in range(2):
            worker = available.take()
            try:
                return worker.run(program, program.limits or limits or Limits())
            except SandboxBroken as error:
                reason = str(error)
            finally:
                available.give_back(worker)
        return Outcome("broken", "", f"the sandbox broke twice: {reason}", None, 0.0)

    outcomes: dict[int, Outcome] = {}
    threads = max(1, min(workers or _processors(), len(programs)))
    with ThreadPoolExecutor(threads) as pool, progress.task("running programs", len(programs)) as advance:
        futures: dict[Future[Outcome], int] = {}
        try:
            for index, program in enumerate(programs):
                futures[pool.submit(run, program)] = index
            for future in as_completed(futures):
                outcomes[futures[future]] = outcome = future.result()
                advance()
                if on_outcome:
                    on_outcome(futures[future], outcome)
        finally:
            cancelled.set()
            wait([future for future in futures if not future.cancel()])
            available.close()  # before the pool's threads end: the kernel kills a sandbox with its thread
    if broken := [outcome.stderr for outcome in outcomes.values() if outcome.status == "broken"]:
        logger.warning(
            "%d of %d programs have no verdict and count as failed: %s", len(broken), len(programs), broken[0]
        )
    return [outcomes[index] for index in range(len(programs))]


class _Workers:
    """Workers that are idle, and new ones where there are none."""

    def __init__(self, backend: Backend, cancelled: threading.Event) -> None:
        self.backend, self.cancelled = backend, cancelled
        self.idle: list[Worker] = []
        self.started = False

    def take(self) -> Worker:
        """Returns an idle worker or starts one. Tries again for a while if one could be started before."""
        with contextlib.suppress(IndexError):
            return self.idle.pop()
        delays = iter(_RESTART_SECONDS)
        while True:
            try:
                worker = self.backend.start(self.cancelled)
            except (MachineError, OSError) as error:  # an OSError if the machine has no process or file left
                delay = next(delays, None) if self.started else None
                if delay is None or self.cancelled.wait(delay):
                    raise MachineError(str(error)) from error
            else:
                self.started = True
                return worker

    def give_back(self, worker: Worker) -> None:
        """Keeps a worker for the next program, unless it is spent."""
        if worker.spent:
            worker.close()
        else:
            self.idle.append(worker)

    def close(self) -> None:
        """Ends the idle workers."""
        for worker in self.idle:
            worker.close()


def require_sandbox() -> None:
    """Returns if programs can be run safely here.

    Raises:
        MachineError: bubblewrap is missing or cannot make namespaces; the sentence says what to do.
    """
    backend = chosen_backend()
    backend.check()
    backend.start(threading.Event()).close()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
