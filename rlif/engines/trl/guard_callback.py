"""Runs the guard in a training step: checks logged metrics, prints and logs alarms, stops the trainer."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from pydantic import ValidationError
from rich.console import Console
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rlif.engines.trl.callbacks import our_names
from rlif.errors import RecipeError
from rlif.guard.health import measure_health
from rlif.guard.limits import Guard
from rlif.guard.monitor import Alarm, Monitor
from rlif.runs.folder import Run

if TYPE_CHECKING:
    from rlif.engines.trl.trainer import InternalFeedback


LOG = logging.getLogger(__name__)
SCRIPT_WORDS = {  # what a script calls the keys of a recipe that messages name
    r"\btraining\.(?=\w)": "",
    r"\bproblems_per_update\b": "prompts in an update",
    r"\b(annotator|normalisation) (online|group_std_floor)\b": r"\1='\2'",
}


class GuardState(TrainerCallback, ExportableState):
    """Checks each logged step; its state is saved in `trainer_state.json` of the checkpoints.

    It comes after `MetricNames`, and before the recorder and the trackers, which show what it adds to a step. A saved
    step is logged as well (`checkpointing.SealCheckpoints`), so every checkpoint is checked.

    Args:
        guard: policy and limits.
        run: gets the alarms, and has the healthy checkpoints; None for a trainer without a run folder.
        console: prints the alarms; without one the logger `rlif` gets them.
        every: updates that share a rollout. It acts only after the last one, so that a resumed run is the same run.
        unread: keys that this kind of run does not read.
    """

    def __init__(self, guard: Guard, run: Run | None, console: Console | None, every: int, unread: Sequence[str] = ()):
        self.guard, self.run, self.console, self.every = guard, run, console, every
        self.monitor = Monitor(guard, unread)
        self.health: dict[str, float] = {}
        self.logged: dict[str, Any] = {}  # the signs that are raised, for the metrics of the step
        self.stopped: Alarm | None = None  # the alarm that ended training

    def measure(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Measures the health of a new rollout; without rows there was no new one."""
        self.health = measure_health(rows) or self.health

    @property
    def rolls_back(self) -> bool:
        """Tells whether training ended in order to continue from an earlier checkpoint."""
        return self.stopped is not None and self.guard.policy == "rollback"

    @property
    def healthy(self) -> int | None:
        """Returns the step of the last healthy checkpoint."""
        return self.monitor.watch.healthy

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps; `vitals` is the name of the health in checkpoints of before."""
        stopped = asdict(self.stopped) if self.stopped else None
        return {"args": {}, "attributes": {"watch": self.monitor.state(), "vitals": self.health, "stopped": stopped}}

    def restore(self, state: Any) -> None:
        """Restores the state from a checkpoint, also of a run that the guard had ended there."""
        saved = state.stateful_callbacks.get(type(self).__name__)
        if saved:
            remembered = saved["attributes"]
            self.monitor.restore(remembered["watch"])
            self.health = remembered["vitals"]
            self.stopped = Alarm(**remembered["stopped"]) if remembered["stopped"] else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())  # a checkpoint may have none
        self.restore(state)
        online = hasattr(args, "num_generations")  # rounds do not measure KL
        if self.guard.kl is not None and online and not args.beta and state.is_world_process_zero:
            self.say(
                "guard: training.beta is 0, so KL to the start, its most telling sign, is not measured;"
                " a beta of 1e-4 is enough to see it"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step = state.global_step + (self.run.before if self.run is not None else 0)
        if args.fp16 and not math.isfinite(logs.get("grad_norm") or 0.0):
            del logs["grad_norm"]  # the scaler lets its scale grow until this happens, and skips the step
        logs |= self.health
        raised = self.monitor.step(step, our_names(logs))
        self.logged = {"alarms": list(self.monitor.watch.raised)}
        self.health = {}
        if state.is_world_process_zero:
            for alarm in raised:
                if self.run is not None:
                    self.run.append("alarms.jsonl", asdict(alarm))
                self.say(f"guard: {alarm}")
        if self._must_stop(step):
            self.stopped = self.monitor.alarm
            interrupted, control.should_training_stop = control.should_training_stop, True
            control.should_save = self.guard.policy == "stop" or interrupted
        elif control.should_save and self.monitor.is_healthy():
            self.monitor.watch.healthy = step  # before it is written, so that its own state has it

    def say(self, line: str) -> None:
        """Prints a line, or gives it to the logger `rlif`."""
        if self.console is None:
            LOG.warning("%s", line)
        else:
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _must_stop(self, step: int) -> bool:
        """Decides on the main process whether the run ends here, for all processes."""
        stop = self.guard.policy != "log" and self.monitor.alarm is not None and step % self.every == 0
        if PartialState().num_processes > 1:
            stop = broadcast_object_list([stop])[0]
        return stop


class ScriptGuard(GuardState):
    """The guard of a trainer without a run folder: alarms go to the logger `rlif`, and may stop training.

    Its messages name the options of a script, not the keys of a recipe (`SCRIPT_WORDS`).

    Args:
        guard: True for the usual limits, or policy and limits.
    """

    def __init__(self, guard: Guard | Mapping[str, Any] | bool, trainer: InternalFeedback):
        if not isinstance(guard, Guard | Mapping | bool):
            raise RecipeError(f"guard is {guard!r}; give True, or a mapping such as {{'policy': 'stop'}}.")
        try:
            settings = guard if isinstance(guard, Guard) else Guard(**({} if isinstance(guard, bool) else guard))
        except ValidationError as error:
            first = error.errors()[0]
            raise RecipeError(f"guard.{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}.") from None
        if settings.policy == "rollback":
            raise RecipeError("guard policy rollback needs the run folder of `rlif train`; use log or stop.")
        updates = getattr(trainer, "num_iterations", 1) * trainer.args.steps_per_generation
        super().__init__(settings, None, None, max(1, updates // trainer.args.gradient_accumulation_steps))
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        super().on_train_begin(args, state, control)
        self.stopped = None  # of a checkpoint, from which a script may go on

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Checks a logged step; the logs keep TRL's names."""
        self.measure([vars(row) | {"completion": row.text} for row in self.trainer.reward.scored])
        super().on_log(args, state, control, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Says that the guard ended training, and where the checkpoint of that step is."""
        if self.stopped is None or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        where = f"its checkpoint is {folder}" if folder.is_dir() else "it has no checkpoint"
        self.say(f"guard: training ended at step {state.global_step}, by the alarm {self.stopped.sign}; {where}")

    def say(self, line: str) -> None:
        """Logs a line in the words of a script."""
        for key, word in SCRIPT_WORDS.items():
            line = re.sub(key, word, line)
        super().say(line)
