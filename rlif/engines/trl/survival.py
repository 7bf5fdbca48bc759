"""What keeps a run's work: stop in time, never train on NaN, seal checkpoints. Transformers' callbacks, engine-neutral.

    signal                 what happens                                                       exit code
    Ctrl-C                 ends at a checkpoint after the step under way                      130
    SIGTERM, SIGUSR1       the same: a job scheduler wants the machine back                   75 (EX_TEMPFAIL)
    a second one           ends at once                                                       130, 143, 138
    any of them outside    ends at once, there is nothing to save that is not saved           130, 75
    of the training steps

So `[ $? = 75 ]` is the test of a batch script that puts the job back into the queue.
"""

from __future__ import annotations

import math
import os
import random
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from torch.distributed.tensor import DTensor
from torch.utils.data import Sampler
from transformers import TrainerCallback

from rlif.errors import Preempted, RlifError
from rlif.runs.checkpoints import is_sealed, prune, seal
from rlif.runs.folder import Run
from rlif.runs.launcher_contract import ECHO_SECONDS

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class SameOrder(Sampler[int]):
    """The order of each epoch from the seed and the number of epochs before it, whenever the process was started.

    TRL's sampler draws a permutation per epoch and is not told, after a resume, how many were drawn before: every epoch
    but the first would be sampled in the order of the first.

    Args:
        sampler: TRL's, shuffling with a generator of its own.
        trainer: its state says in which epoch it is.
    """

    def __init__(self, sampler: Any, trainer: Any):
        self.sampler, self.trainer = sampler, trainer
        self.generator = getattr(sampler, "generator", None)  # accelerate keeps processes together by it

    def __iter__(self) -> Iterator[int]:
        if self.generator is not None:
            self.generator.manual_seed(self.sampler.seed)
            for _ in range(int(self.trainer.state.epoch or 0)):
                torch.randperm(self.sampler.num_samples, generator=self.generator)
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class Stop(TrainerCallback):
    """The first Ctrl-C, SIGTERM or SIGUSR1 ends the run at a checkpoint; a second one ends it at once.

    Args:
        console: where it says so.
        every: stops only after so many updates, those that share a rollout, so that a resumed run is the same run.

    Attributes:
        signal: the one that came to this process, None before.
        since: when it, or word of it from another process, came; monotonic seconds.
        agreed: the one by which all processes end, None before they have told each other.
    """

    def __init__(self, console: Console, every: int):
        self.console, self.every = console, every
        self.signal: int | None = None
        self.since = -math.inf
        self.agreed: int | None = None
        self.stepping = False

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            self.before = {number: signal.signal(number, self._come) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _come(self, number: int, frame: FrameType | None) -> None:
        told = self.signal is not None or self.agreed is not None
        if told and PartialState().num_processes > 1 and time.monotonic() - self.since < ECHO_SECONDS:
            return
        if not self.stepping:
            raise self.ending(number)
        if told:
            self._restore()
            signal.raise_signal(number)
            return
        self.signal, self.since = number, time.monotonic()
        again = "press Ctrl-C again" if number == signal.SIGINT else "send it again"
        if not self.console.quiet:
            _say_at_once(f"stopping at a checkpoint after this step; {again} to stop at once")

    def ending(self, number: int | None = None) -> BaseException:
        """How the program ends: as Ctrl-C does, or as one that was asked to make room."""
        return KeyboardInterrupt() if (number or self.agreed) == signal.SIGINT else Preempted()

    def stopped(self, state: Any) -> bool:
        """Whether training ended before its end because somebody asked for it."""
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
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stepping = False


def _say_at_once(text: str) -> None:
    """Writes a line to standard error from a signal handler, if that takes it without waiting.

    A handler runs in the middle of anything, of a print too: Python's own streams refuse to be entered twice.
    """
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{text}\n".encode())


class LastStep(TrainerCallback):
    """Remembers what a step begins with - random state, tokens seen - so that a run which fails in it can be saved."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._remember(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._remember(state)

    def _remember(self, state: Any) -> None:
        self.tokens = state.num_input_tokens_seen
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.states = random.getstate(), numpy.random.get_state(), torch.get_rng_state(), cuda

    def save(self, trainer: Any) -> bool:
        """A checkpoint of the last step, from which the run goes on as if the next had not begun; False before any."""
        if trainer.state.global_step == 0:
            return False
        trainer.state.num_input_tokens_seen = self.tokens
        python, array, cpu, cuda = self.states
        random.setstate(python)
        numpy.random.set_state(array)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if not is_sealed(Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"):
            trainer._save_checkpoint(trainer.model, None)
            trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
        return True


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
            raise RlifError(
                f"the gradient of step {state.global_step + 1} is not finite (NaN or infinite loss); the weights were"
                " left as they were. The same recipe would come here again: lower training.learning_rate, raise"
                " training.beta, or compute in float32 or bfloat16."
            )


class RoomForCheckpoint(TrainerCallback):
    """Refuses to begin a checkpoint that the disk has no room for.

    Counted: the weights that are saved, and two moments of the trainable ones in their own type (Adam's).
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not control.should_save or not state.is_world_process_zero:
            return
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        whole = not hasattr(model, "peft_config")
        needed = 2 * trained + sum(p.numel() * p.element_size() for p in model.parameters() if whole or p.requires_grad)
        free = shutil.disk_usage(self.folder if self.folder.exists() else self.folder.parent).free
        if free < needed:
            raise RlifError(
                f"a checkpoint of {needed / 2**20:.0f} MiB does not fit into the {free / 2**20:.0f} MiB free at"
                f" {self.folder}; make room and go on from the last one with --resume."
            )


class Keep(TrainerCallback):
    """Seals each checkpoint once every process has written its part, and only then deletes old ones.

    What was logged up to it is on the disk before: a run that goes on from there logs none of it again. Averages that
    are logged over several steps are logged at a checkpoint as well: it does not carry half of one.

    Args:
        run: whose checkpoints they are.
        limit: how many stay, None for all.
        spared: step of one that stays in any case, asked at each.
    """

    def __init__(self, run: Run, limit: int | None, spared: Callable[[], int | None]):
        self.run, self.limit, self.spared = run, limit, spared

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save:
            control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            self.run.sync_logs()
            seal(self.run.checkpoints / f"checkpoint-{state.global_step}")
            prune(self.run.checkpoints, self.limit, {self.spared()})
        PartialState().wait_for_everyone()  # who ends here must not take the main process with it while it seals
