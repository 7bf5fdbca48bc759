"""Faults of the machine while a run is under way, as one sentence each that says what to do.

Torch, safetensors, gloo, NCCL and Python each have their own way to say that a disk is full, that memory is gone, that
another process died. Here they become `RlifError`; whatever is not recognised stays what it is, with its traceback.
Nothing that was logged or sealed before is touched; what was left half written is removed by the process that holds the
run folder, and by no other: to those that do not know, a checkpoint that is being sealed looks torn.
"""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from rlif.errors import RlifError, first_line
from rlif.runs.folder import Run

MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad allocation", "bad_alloc")
PEER = (
    "connection closed by peer",
    "connection reset by peer",
    "socket closed",
    "broken pipe",
    "connection was likely closed",
    "connection refused",
    "remote process exited",
    "timed out waiting",
    "watchdog",
)
NOT_FINITE = "probability tensor contains"
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EDQUOT, errno.EFBIG)

# Where memory ran out, by a function that is then on the stack, and what is smaller with which key. The first match.
PLACES = (
    ("evaluate", "while evaluating", "evaluate.batch_size"),
    ("_own_pass", "while scoring completions", "training.per_device_train_batch_size"),
    ("_generate", "while generating", "training.max_completion_length, or problems_per_update"),
    (
        "training_step",
        "while training",
        "training.per_device_train_batch_size, or set training.gradient_checkpointing=true",
    ),
)


@contextmanager
def said(run: Run, processes: int = 1, *, tidies: bool = False) -> Iterator[None]:
    """Turns what the machine did into what to do about it.

    Args:
        run: that is under way.
        processes: of it.
        tidies: removes what is half written; only for the main process, under its lock.

    Raises:
        RlifError: disk full, folder not writable or its files gone, out of memory, another process or vLLM's server
            gone, probabilities not finite.
    """
    from safetensors import SafetensorError

    try:
        yield
    except UnpicklingError as error:
        raise RlifError(
            f"a checkpoint in {run.checkpoints} holds pickled code, which is not run ({first_line(error)}); it is none"
            " that rlif wrote."
        ) from error
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        sentence = _sentence(error, run, processes)
        if sentence is None:
            raise
        if tidies:
            run.remove_torn()
        raise RlifError(sentence) from error


def _sentence(error: Exception, run: Run, processes: int) -> str | None:
    text, number = str(error).lower(), getattr(error, "errno", None)
    go_on = f"go on with: rlif train --resume {run.path}"
    if number == errno.ENOSPC or os.strerror(errno.ENOSPC).lower() in text or _is_full(run):
        return f"the disk is full; make room and {go_on}"
    if number in NOT_WRITABLE or any(os.strerror(code).lower() in text for code in (errno.EROFS, errno.EDQUOT)):
        return f"cannot write to {run.path} any more: {first_line(error)}; put that right and {go_on}"
    if isinstance(error, FileNotFoundError) and str(run.path) in str(error.filename):
        return f"{error.filename} was removed while the run was at work on it; leave {run.path} alone and {go_on}"
    if isinstance(error, MemoryError) or any(sign in text for sign in MEMORY):
        where, lower = _place(error)
        return f"out of memory {where}; lower {lower} in {run.path / 'recipe.yaml'} and {go_on}"
    if processes > 1 and any(sign in text for sign in PEER):
        return f"another process of this run died or cannot be reached ({first_line(error)[:200]}); {go_on}"
    if type(error).__module__.startswith("requests."):
        return f"the vLLM server cannot be reached any more ({first_line(error)[:200]}); start it again and {go_on}"
    if NOT_FINITE in text:
        return (
            "the model's probabilities are not finite any more, so nothing can be sampled. The same recipe would come"
            " here again: lower training.learning_rate, raise training.beta, or compute in float32 or bfloat16."
        )
    return None


def _is_full(run: Run) -> bool:
    return run.path.exists() and shutil.disk_usage(run.path).free <= 2**20


def _place(error: BaseException) -> tuple[str, str]:
    """Where in a run an error came from, and the key that makes that part smaller."""
    stack = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    for function, where, lower in PLACES:
        if function in stack:
            return where, lower
    return "in this run", "training.per_device_train_batch_size"
