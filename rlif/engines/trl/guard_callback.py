"""Runs the guard in a training step: checks logged metrics, prints and logs alarms, stops the trainer."""

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


class GuardState(TrainerCallback, ExportableState):
    """Checks each logged step; its state is saved in `trainer_state.json` of the checkpoints.

    It comes after `MetricNames`, and before the recorder and the trackers, which show what it adds to a step. A saved
    step is logged as well (`checkpointing.SealCheckpoints`), so every checkpoint is checked.

    Args:
        guard: policy and limits.
        run: gets the alarms, and has the healthy checkpoints.
        console: prints the alarms.
        every: updates that share a rollout. It acts only after the last one, so that a resumed run is the same run.
    """

    def __init__(self, guard: Guard, run: Run, console: Console, every: int):
        self.guard, self.run, self.console, self.every = guard, run, console, every
        self.monitor = Monitor(guard)
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
        self.restore(state)
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
        logs |= self.health
        raised = self.monitor.step(step, our_names(logs))
        self.logged = {"alarms": list(self.monitor.watch.raised)}
        self.health = {}
        if state.is_world_process_zero:
            for alarm in raised:
                self.run.append("alarms.jsonl", asdict(alarm))
                self.console.print(f"guard: {alarm}", highlight=False, soft_wrap=True, markup=False)
        if self._must_stop(step):
            self.stopped = self.monitor.alarm
            interrupted, control.should_training_stop = control.should_training_stop, True
            control.should_save = self.guard.policy == "stop" or interrupted
        elif control.should_save and self.monitor.is_healthy():
            self.monitor.watch.healthy = step  # before it is written, so that its own state has it

    def _must_stop(self, step: int) -> bool:
        """Decides on the main process whether the run ends here, for all processes."""
        stop = self.guard.policy != "log" and self.monitor.alarm is not None and step % self.every == 0
        if PartialState().num_processes > 1:
            stop = broadcast_object_list([stop])[0]
        return stop
