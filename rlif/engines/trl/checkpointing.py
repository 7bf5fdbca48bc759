"""Saves a run's work so that resuming gives the same run: order of problems, the last step, sealed checkpoints.

SameOrder            repeats the order of problems after a resume
LastStep             saves the step before one that failed
RoomForCheckpoint    refuses a checkpoint that the disk has no room for
SealCheckpoints      seals each checkpoint, then deletes old ones
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import PartialState
from torch.utils.data import Sampler
from transformers import TrainerCallback

from rlif.errors import MachineError
from rlif.runs.checkpoints import is_sealed, prune, seal
from rlif.runs.folder import Run


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
            raise MachineError(
                f"a checkpoint of {needed / 2**20:.0f} MiB does not fit into the {free / 2**20:.0f} MiB free at"
                f" {self.folder}; make room and go on from the last one with --resume."
            )


class SealCheckpoints(TrainerCallback):
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
