"""Converts failures of the machine during a run into errors that say what to do.

Torch, safetensors, gloo, NCCL and Python report a full disk, lost memory or a dead process in their own words. Each
becomes one sentence here; anything else keeps its type and traceback. Logged lines and sealed checkpoints stay. Only
the process that holds the run folder removes what is half written: others cannot tell torn from being sealed.
"""

import errno
import os
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from rlif.errors import DataError, Interrupted, MachineError, Preempted, RecipeError, RlifError, first_line
from rlif.runs.folder import Run

if TYPE_CHECKING:
    from rich.console import Console

    from rlif.engines.trl.stopping import Stop

MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad allocation", "bad_alloc")
PEER = (
    "connection closed by peer", "connection reset by peer", "socket closed", "broken pipe", "connection refused",
    "connection was likely closed", "remote process exited", "timed out waiting", "watchdog",
)  # fmt: skip
NOT_FINITE = "probability tensor contains"
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EDQUOT, errno.EFBIG)
BATCH = "training.per_device_train_batch_size"

# By a function that is on the stack where memory ran out: what was done then, and which key to lower. The first match.
STAGES = {
    "evaluate": ("while evaluating", "evaluate.batch_size"),
    "_own_pass": ("while scoring completions", BATCH),
    "_generate": ("while generating", "training.max_completion_length, or problems_per_update"),
    "training_step": ("while training", f"{BATCH}, or set training.gradient_checkpointing=true"),
}


@dataclass
class Started:
    """Says how far a run has come."""

    run: Run | None  # None until its folder is made
    stop: "Stop | None" = None


@contextmanager
def says_how_to_go_on(console: "Console", run: Run | None) -> Iterator[Started]:
    """Prints what a signal leaves and how to go on; yields what the caller fills in on the way."""
    started = Started(run)
    try:
        yield started
    except (KeyboardInterrupt, Preempted) as end:
        if started.run is None:
            kept = "interrupted before the run began, so nothing is lost; give the same command again"
        elif started.stop is None or started.stop.at is None:
            kept = f"interrupted; what the run had saved is kept; {started.run.go_on}"
        else:
            kept = f"stopped at step {started.stop.at}; {started.run.go_on}"
        console.out(kept, highlight=False)
        if isinstance(end, KeyboardInterrupt):
            raise Interrupted from None
        raise


@contextmanager
def faults_as_errors(run: Run, processes: int = 1, *, tidies: bool = False) -> Iterator[None]:
    """Converts system failures into errors that say what to do.

    Args:
        tidies: removes what is half written; only for the main process, under its lock.

    Raises:
        MachineError: disk full, folder not writable or its files gone, out of memory, another process or vLLM's server
            gone.
        RecipeError: probabilities not finite.
        DataError: a checkpoint with pickled code.
    """
    from safetensors import SafetensorError

    try:
        yield
    except UnpicklingError as error:
        raise DataError(
            f"a checkpoint in {run.checkpoints} holds pickled code, which is not run ({first_line(error)}); rlif did"
            " not write it."
        ) from error
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        if (known := _known(error, run, processes)) is None:
            raise
        if tidies:
            run.remove_torn()
        raise known from error


def _known(error: Exception, run: Run, processes: int) -> RlifError | None:
    """Returns the error that says what to do; None where the failure is not known."""
    text, number, reason = str(error).lower(), getattr(error, "errno", None), first_line(error)
    go_on = run.go_on
    if number == errno.ENOSPC or os.strerror(errno.ENOSPC).lower() in text or _is_full(run):
        sentence = f"the disk is full; make room and {go_on}"
    elif number in NOT_WRITABLE or any(os.strerror(code).lower() in text for code in (errno.EROFS, errno.EDQUOT)):
        sentence = f"cannot write to {run.path} any more: {reason}; put that right and {go_on}"
    elif isinstance(error, FileNotFoundError) and str(run.path) in str(error.filename):
        sentence = f"{error.filename} was removed while the run was at work on it; leave {run.path} alone and {go_on}"
    elif isinstance(error, MemoryError) or any(sign in text for sign in MEMORY):
        stack = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        where, lower = next((STAGES[name] for name in STAGES if name in stack), ("in this run", BATCH))
        sentence = f"out of memory {where}; lower {lower} {run.change_and_go_on}"
    elif processes > 1 and any(sign in text for sign in PEER):
        sentence = f"another process of this run died or cannot be reached ({reason[:200]}); {go_on}"
    elif type(error).__module__.startswith("requests."):
        sentence = f"the vLLM server cannot be reached any more ({reason[:200]}); start it again and {go_on}"
    elif NOT_FINITE in text:
        return RecipeError(
            "the model's probabilities are not finite any more, so nothing can be sampled. The same recipe would come"
            " here again: lower training.learning_rate, raise training.beta, or compute in float32 or bfloat16."
        )
    else:
        return None
    return MachineError(sentence)


def _is_full(run: Run) -> bool:
    return run.path.exists() and shutil.disk_usage(run.path).free <= 2**20
