"""The contract of what runs programs, so that bubblewrap can be replaced: by a container service, or SandboxFusion.

    class Service:                                     # in a module of your own, my_service.py
        def check(self): ...                           # raises MachineError if the service does not answer
        def start(self, cancelled): return Worker()    # once for each of the programs that run at a time

    class Worker:
        spent = False                                  # set to True if it must not run another program
        def run(self, program, limits): return Outcome(...)
        def close(self): ...

`RLIF_SANDBOX=my_service:Service` in the environment chooses it for every command, and `run_programs(..., backend=...)`
for one call. A worker owes what `rlif.sandbox.runner` promises: a program that has no tests runs as `python program.py`
would; tests run where the program cannot reach them, and call into it by `call`, `proxy` and `CandidateError`
(`rlif.sandbox.calls` has both ends); and nothing that a program does changes the outcome of another.
"""

import importlib
import os
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from rlif.errors import RecipeError, first_line
from rlif.sandbox.bubblewrap import find_bubblewrap
from rlif.sandbox.host import Sandbox
from rlif.sandbox.program import Limits, Outcome, Program

SETTING = "RLIF_SANDBOX"


class Worker(Protocol):
    """Runs programs one after the other."""

    spent: bool

    def run(self, program: Program, limits: Limits) -> Outcome:
        """Runs one program under these limits, whatever its own.

        Raises:
            SandboxBroken: there is no verdict; the program is tried once more, by another worker.
            Cancelled: the event that `start` received is set.
        """
        ...

    def close(self) -> object:
        """Ends the worker and whatever it started."""
        ...


class Backend(Protocol):
    """Starts workers; used from several threads."""

    def check(self) -> None:
        """Returns if workers can probably be started here.

        Raises:
            MachineError: they cannot; the sentence says what to do.
        """
        ...

    def start(self, cancelled: threading.Event) -> Worker:
        """Starts a worker; it may give up its program once the event is set.

        Raises:
            MachineError: it cannot be started.
        """
        ...


class Bubblewrap:
    """Sandboxes of this machine, the default."""

    def check(self) -> None:
        """Looks for bubblewrap."""
        find_bubblewrap()

    def start(self, cancelled: threading.Event) -> Sandbox:
        """Starts a sandbox."""
        return Sandbox(cancelled=cancelled)


class Local:
    """Plain processes of this user, without a sandbox."""

    def check(self) -> None:
        """Returns, because it needs nothing."""

    def start(self, cancelled: threading.Event) -> Sandbox:
        """Starts a worker without a sandbox."""
        return Sandbox(local=True, cancelled=cancelled)


def chosen_backend() -> Backend:
    """Returns the backend that the environment chooses, or bubblewrap.

    Raises:
        RecipeError: it cannot be imported, or is not a backend.
    """
    name = os.environ.get(SETTING, "")
    if name in ("", "bubblewrap"):
        return Bubblewrap()
    backend = _import(name)
    if missing := [method for method in ("check", "start") if not callable(getattr(backend, method, None))]:
        raise RecipeError(f"{SETTING}={name} is not a backend: it has no method {missing[0]!r}.")
    return backend


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    here, known = str(Path.cwd()), list(sys.path)
    sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (Exception, SystemExit) as error:  # importing runs the user's code, which can raise anything
        raise RecipeError(
            f"cannot make the backend {SETTING}={name}: {type(error).__name__}: {first_line(error)}; name a class"
            " as `module:Class`, or bubblewrap."
        ) from error
    finally:
        sys.path[:] = known
