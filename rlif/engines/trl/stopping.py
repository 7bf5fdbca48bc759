"""Ends a run early: at a signal, at a checkpoint; at a gradient that is not finite, before the optimiser step.

    signal                 what happens                                                       exit code
    Ctrl-C                 ends at a checkpoint after the current step                        130
    SIGTERM, SIGUSR1       the same: a job scheduler wants the machine back                   75 (EX_TEMPFAIL)
    a second one           ends at once                                                       130, 143, 138
    any of them outside    ends at once; everything worth saving is saved already             130, 75
    of the training steps

A batch script tests `[ $? = 75 ]` to put the job back into the queue.
"""

import math
import os
import select
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, Self

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from rlif.errors import Preempted, RecipeError
from rlif.runs.launcher_contract import ECHO_SECONDS

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop(TrainerCallback):
    """Ends the run at a checkpoint after the first Ctrl-C, SIGTERM or SIGUSR1, at once after a second one.

    Args:
        console: a quiet one prints no message.
        every: updates that share a rollout. It stops only after the last one, so that a resumed run is the same run.
    """

    def __init__(self, console: Console, every: int):
        self.console, self.every = console, every
        self.signal: int | None = None  # that this process received
        self.since = -math.inf  # when this process or another one received it; monotonic seconds
        self.agreed: int | None = None  # the signal that ends all processes, once they have exchanged theirs
        self.at: int | None = None  # the step after which it ended
        self.stepping = False

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()  # elsewhere Python takes no handlers
        self.before = {number: signal.signal(number, self._come) for number in SIGNALS if main}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _come(self, number: int, frame: FrameType | None) -> None:
        stopping = self.signal is not None or self.agreed is not None
        if stopping and PartialState().num_processes > 1 and time.monotonic() - self.since < ECHO_SECONDS:
            return
        if not self.stepping:
            raise self.ending(number)
        if stopping:
            self.__exit__()
            signal.raise_signal(number)
            return
        self.signal, self.since = number, time.monotonic()
        again = "press Ctrl-C again" if number == signal.SIGINT else "send it again"
        if not self.console.quiet:
            _write_stderr(f"stopping at a checkpoint after this step; {again} to stop at once")

    def ending(self, number: int | None = None) -> BaseException:
        """Returns the exception that ends the program: Ctrl-C's, or that of a preempted job."""
        return KeyboardInterrupt() if (number or self.agreed) == signal.SIGINT else Preempted()

    def stopped(self, state: Any) -> bool:
        """Tells whether a signal ended training before its last step."""
        return self.agreed is not None and state.global_step < state.max_steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stepping = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every:
            return
        self.agreed = self.signal
        if PartialState().num_processes > 1:  # the signal reaches processes at different moments
            self.agreed = max(gather_object([self.signal or 0])) or None
        if self.agreed is not None:
            self.since = max(self.since, time.monotonic())  # this process's own copy may still be on its way
            self.at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stepping = False


def _write_stderr(text: str) -> None:
    """Writes a line to standard error from a signal handler, where that needs no waiting.

    A handler may interrupt a print, and Python's own streams refuse to be entered twice.
    """
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{text}\n".encode())


class FiniteGradients(TrainerCallback):
    """Ends a run before an optimiser step that would make its weights NaN.

    With fp16 the gradient scaler meets infinities by design and skips such steps itself, so nothing is checked there.
    """

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if args.fp16:
            return
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        grads = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]
        if not torch.isfinite(torch.nn.utils.get_total_norm(grads)):
            raise RecipeError(
                f"the gradient of step {state.global_step + 1} is not finite (NaN or infinite loss); the weights were"
                " left as they were. The same recipe would come here again: lower training.learning_rate, raise"
                " training.beta, or compute in float32 or bfloat16."
            )
