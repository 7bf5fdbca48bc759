"""Runs programs that a model wrote, many per sandbox, and returns how each ended. Linux with bubblewrap.

    sandbox   one per worker: bubblewrap without network, environment, capabilities or files of the host, except a
              read-only /usr and Python with numpy; with process ids and a host name of its own. Root enters it as
              another user, because the kernel does not limit root's processes (`rlif.sandbox.bubblewrap`)
    jail      inside it, one per program: namespaces, disk, limits and a filter of system calls. A program can
              address only its own processes, and the kernel removes the jail as a whole (`rlif.sandbox.jail`)
    program   run and ended by Python itself, as `python program.py` in a fresh folder (`rlif.sandbox.start`)
    verdict   an exit status, read from outside the jail: of the program, or of its tests, which run in another process
              and receive plain data (`rlif.sandbox.calls`). The caller compares what a program printed, outside

The files, in reading order: runner.py (front door), program.py (`Program`, `Limits`, `Outcome`), host.py (starts one
sandbox, sends it programs), bubblewrap.py (the command that enters it); inside it supervisor.py, jail.py, calls.py and
values.py, which use the standard library alone, and start/, by which Python starts them. Imports errors only.
`__init__.py` is mounted inside and stays empty.

When a program exceeds its time or output, or breaks the sandbox, the host discards that sandbox. The other programs
continue in a new one. A sandbox that cannot be made is a `MachineError`, never a verdict.

Stopped: reading and writing files of the host, its environment, its network and its processes; fork bombs; memory
(address space of each process; resident memory of all of a program's, checked 20 times a second, so it can overshoot
by what is written in between); disk, output and time; processes, files, sockets and queues left for the next program;
forged verdicts. Not stopped: bugs of the kernel; side channels; load on processors and memory bus (a busy machine makes
programs slow, hence more time-outs); kernel memory of pipes and sockets, bounded by their number only; reading the kind
of machine in /proc and the names of files under /usr and Python's folder. Made for scoring what a model wrote, not
for a service that strangers can reach. Needs Linux on x86_64 or aarch64 with unprivileged user namespaces.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait

from rlif.errors import MachineError, RecipeError
from rlif.sandbox.bubblewrap import find_bubblewrap
from rlif.sandbox.host import Sandbox, SandboxBroken
from rlif.sandbox.program import Limits, Outcome, Program

__all__ = ["Limits", "Outcome", "Program", "require_sandbox", "run_programs"]


def run_programs(
    programs: Sequence[Program],
    limits: Limits | None = None,
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
        limits: apply to programs that have none of their own; the defaults of `Limits` if left out.
        workers: sandboxes at a time; as many as there are processors if left out.
        unsafe_local: without bubblewrap, as plain processes of this user, with nothing but resource limits. That stops
            accidents: endless loops, runaway memory of one process. It does NOT stop a program from reading your
            files and keys, using the network, killing your processes (and so its judge), forging its verdict, leaving
            files and processes behind or, as root, forking without end.
        on_outcome: called in this thread as each program ends, with its index.

    Returns:
        One outcome per program, in their order.

    Raises:
        MachineError: bubblewrap is missing, or cannot make a sandbox here.
    """
    if not unsafe_local:
        find_bubblewrap()
    if workers is not None and workers < 1:
        raise RecipeError(f"workers must be at least 1, not {workers}.")
    cancelled = threading.Event()
    idle: list[Sandbox] = []

    def run(program: Program) -> Outcome:
        reason = ""
        for _ in range(2):
            try:
                sandbox = idle.pop()
            except IndexError:
                sandbox = Sandbox(unsafe_local, cancelled)
            try:
                return sandbox.run(program, program.limits or limits or Limits())
            except SandboxBroken as error:
                reason = str(error)
            finally:
                if sandbox.spent:
                    sandbox.close()
                else:
                    idle.append(sandbox)
        raise MachineError(f"the sandbox broke twice in a row ({reason}).")

    outcomes: dict[int, Outcome] = {}
    with ThreadPoolExecutor(max(1, min(workers or _processors(), len(programs)))) as pool:
        futures: dict[Future[Outcome], int] = {}
        try:
            for index, program in enumerate(programs):
                futures[pool.submit(run, program)] = index
            for future in as_completed(futures):
                outcomes[futures[future]] = outcome = future.result()
                if on_outcome:
                    on_outcome(futures[future], outcome)
        finally:
            cancelled.set()
            wait([future for future in futures if not future.cancel()])
            for sandbox in idle:  # before the pool's threads end: the kernel kills a sandbox with its thread
                sandbox.close()
    return [outcomes[index] for index in range(len(programs))]


def require_sandbox() -> None:
    """Returns if programs can be run safely here.

    Raises:
        MachineError: bubblewrap is missing or cannot make namespaces; the sentence says what to do.
    """
    Sandbox().close()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
