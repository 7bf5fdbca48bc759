"""The guard beside a training step: judges what is logged, says and logs alarms, asks the trainer to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rlif.engines.trl.callbacks import our_names
from rlif.guard.health import measure_health
from rlif.guard.limits import Guard
from rlif.guard.monitor import Alarm, Monitor
from rlif.runs.folder import Run
from rlif.runs.rollback import log_alarm


class GuardState(TrainerCallback, ExportableState):
    """Judges each logged step; its memory travels in `trainer_state.json` of the checkpoints.

    It comes after `MetricNames`, and before the recorder and the trackers, which show what it adds to a step. A saved
    step is logged as well (`checkpointing.SealCheckpoints`), so every checkpoint has been judged.

    Args:
        guard: policy and limits.
        run: where alarms are logged and healthy checkpoints lie.
        console: where they are said.
        every: acts only after so many updates, those that share a rollout, so that what is resumed is the same run.

    Attributes:
        logged: the signs that are raised, for the metrics of the step.
        stopped: the alarm that ended training, None where none did.
    """

    def __init__(self, guard: Guard, run: Run, console: Console, every: int):
        self.guard, self.run, self.console, self.every = guard, run, console, every
        self.judge = Monitor(guard)
        self.vitals: dict[str, float] = {}
        self.logged: dict[str, Any] = {}
        self.stopped: Alarm | None = None

    def see(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the rows of a new rollout; none where there was no new one."""
        self.vitals = measure_health(rows) or self.vitals

    @property
    def rolls_back(self) -> bool:
        """Whether training ended to go on from an earlier checkpoint."""
        return self.stopped is not None and self.guard.policy == "rollback"

    @property
    def healthy(self) -> int | None:
        """Step of the last healthy checkpoint."""
        return self.judge.watch.healthy

    def state(self) -> dict[str, Any]:
        stopped = asdict(self.stopped) if self.stopped else None
        return {"args": {}, "attributes": {"watch": self.judge.state(), "vitals": self.vitals, "stopped": stopped}}

    def recall(self, state: Any) -> None:
        """Takes up what a checkpoint remembers; also of a run that the guard had ended there."""
        saved = state.stateful_callbacks.get(type(self).__name__)
        if saved:
            remembered = saved["attributes"]
            self.judge.restore(remembered["watch"])
            self.vitals = remembered["vitals"]
            self.stopped = Alarm(**remembered["stopped"]) if remembered["stopped"] else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.recall(state)
        if self.guard.kl is not None and not args.beta and state.is_world_process_zero:
            self.console.print(
                "guard: training.beta is 0, so KL to the start, its most telling sign, is not measured;"
                " a beta of 1e-4 is enough to see it",
                soft_wrap=True,
                markup=False,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step = state.global_step
        if args.fp16 and not math.isfinite(logs.get("grad_norm") or 0.0):
            del logs["grad_norm"]  # the scaler lets its scale grow until this happens, and skips the step
        logs |= self.vitals
        raised = self.judge.step(step, our_names(logs))
        self.logged = {"alarms": list(self.judge.watch.raised)}
        self.vitals = {}
        if state.is_world_process_zero:
            for alarm in raised:
                log_alarm(self.run, alarm)
                self.console.print(f"guard: {alarm}", highlight=False, soft_wrap=True, markup=False)
        if self._must_stop(step):
            self.stopped = self.judge.alarm
            interrupted, control.should_training_stop = control.should_training_stop, True
            control.should_save = self.guard.policy == "stop" or interrupted
        elif control.should_save and self.judge.is_healthy():
            self.judge.watch.healthy = step  # before it is written, so that it says so itself

    def _must_stop(self, step: int) -> bool:
        """Whether the run ends here; the main process decides for all."""
        stop = self.guard.policy != "log" and self.judge.alarm is not None and step % self.every == 0
        if PartialState().num_processes > 1:
            stop = broadcast_object_list([stop])[0]
        return stop
