"""Saves a run so that resuming continues the same run: order of problems, the last step, sealed checkpoints."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from accelerate import PartialState
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rlif.errors import MachineError
from rlif.runs.checkpoints import is_sealed, prune, seal
from rlif.runs.folder import Run

if TYPE_CHECKING:
    from rlif.engines.trl.trainer import InternalFeedback
    from rlif.rewards.mixing import Mixer

# Checkpoints hold numpy's random state. numpy 2 renamed the function that loads it, and torch without this knows only
# the installed numpy's name, so that a run could not go on under the other one.
_LOADS: Any = numpy.empty(0).__reduce__()[0]
torch.serialization.add_safe_globals([(_LOADS, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")])

# transformers before 5.18 asks torch for the optimiser on "cpu:0" where several processes train without a GPU.
torch.serialization.register_package(11, lambda _: None, lambda storage, where: storage if where == "cpu:0" else None)


class SameOrder(Sampler[int]):
    """Computes the order of each epoch from the seed and the number of epochs before it, also after a resume.

    TRL's sampler draws a permutation per epoch from its own generator. After a resume it would begin again with the
    order of the first epoch. The trainer's state has the epoch.
    """

    def __init__(self, sampler: Any, trainer: InternalFeedback):
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
    """Keeps the random state and the tokens seen before each step, to save a run whose step fails."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tokens = state.num_input_tokens_seen
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.states = random.getstate(), numpy.random.get_state(), torch.get_rng_state(), cuda

    on_train_begin = on_step_end

    def save(self, trainer: InternalFeedback) -> None:
        """Saves a checkpoint of the last step, as if the next had not begun; saves nothing before the first step."""
        if trainer.state.global_step == 0:
            return
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


class RoomForCheckpoint(TrainerCallback):
    """Refuses to begin a checkpoint that does not fit on the disk.

    It counts the saved weights, and Adam's two moments of the trainable ones, in their own type.
    """

    def __init__(self, run: Run):
        self.run, self.folder = run, run.checkpoints

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
                f" {self.folder}; make room and {self.run.go_on}."
            )


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint once every process has written its part, and only then deletes old ones.

    Logs are on the disk before it, so that a resumed run logs nothing twice. Averages over several logged steps are
    logged at a checkpoint as well, because it does not contain a partial average.

    Args:
        run: owns the checkpoints.
        limit: how many stay, None for all.
        spared: returns the step of one that always stays.
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
        PartialState().wait_for_everyone()  # a process that ends earlier could end the main one while it seals


class NormaliserState(TrainerCallback, ExportableState):
    """Carries the spreads at the start of a run through its checkpoints, in `trainer_state.json`."""

    def __init__(self, mixer: Mixer):
        self.mixer = mixer

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"start_spread": self.mixer.state()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())  # a checkpoint may have none
        self.mixer.load(saved["attributes"]["start_spread"])
