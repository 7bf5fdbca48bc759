"""Records a run of verl's in a run folder: metrics by rlif's names, completions, and the guard's alarms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rlif.engines.kept_rows import sampled_row, scored_row
from rlif.engines.verl.settings import Settings
from rlif.guard.health import measure_health
from rlif.guard.monitor import Monitor
from rlif.rewards.measuring import ScoredCompletion, mean

LOG = logging.getLogger("rlif.verl")

# verl's names and ours; others keep verl's name. Not renamed, because the meaning is another: verl averages entropy and
# KL as the loss does, its tokens are those of a step, and its clip_ratio counts the longest completions of a batch.
RENAMED = {
    "actor/loss": "loss",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/pg_clipfrac": "clip_ratio",
    "response_length/mean": "completion_length",
    "response_length/min": "completion_length_min",
    "response_length/max": "completion_length_max",
    "timing_s/step": "step_seconds",
    "training/epoch": "epoch",
}
STEP = "training/global_step"


def our_names(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns verl's metrics as plain numbers by the names of this project."""
    named = {RENAMED.get(key, key): value for key, value in logs.items() if key != STEP}
    plain = {key: value.item() if hasattr(value, "item") else value for key, value in named.items()}
    return {key: value for key, value in plain.items() if isinstance(value, int | float | str)}


class Recorder:
    """Writes a run folder from inside verl's trainer."""

    def __init__(self, settings: Settings, tokenizer: Any):
        assert settings.run is not None
        self.run, self.recipe, self.tokenizer = settings.run, settings.recipe, tokenizer
        self.monitor = Monitor(self.recipe.guard)
        self.extra: dict[str, float] = {}  # of the latest rollout, for the metrics of its step
        self.tokens = 0  # of all prompts and completions so far

    def take(self, rows: list[ScoredCompletion], step: int, **measured: float) -> None:
        """Writes the completions of a rollout, and measures their health; `measured` are more metrics of its step."""
        self.tokens += sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
        self.extra = measure_health([sampled_row(row) | {"answer": row.answer} for row in rows]) | measured
        self.extra |= {"truncated": fmean(row.truncated for row in rows), "tokens": self.tokens}
        self.extra["reward"] = mean([row.reward for row in rows])
        kept = [scored_row(row, self.tokenizer) for row in rows[: self.recipe.keep_completions]]
        self.run.write_completions(step, [{"step": step, **row} for row in kept])

    def log(self, logs: Mapping[str, Any], step: int) -> bool:
        """Writes the metrics of a step and the alarms they raise; returns whether the guard ends the run here."""
        if STEP not in logs:  # a validation; a step has no loss while verl warms its critic up
            return False
        row = our_names(logs) | self.extra
        raised = self.monitor.step(step, row)
        self.run.append_metrics({"step": step} | row | {"alarms": list(self.monitor.watch.raised)})
        for alarm in raised:
            self.run.append("alarms.jsonl", asdict(alarm))
            LOG.warning("guard: %s", alarm)
        return self.recipe.guard.policy == "stop" and self.monitor.alarm is not None

    def beside(self, logger: Any, stop: Callable[[], None]) -> Any:
        """Returns verl's logger, which records every step here as well."""
        return _Both(logger, self, stop)

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"monitor": self.monitor.state(), "tokens": self.tokens}

    def restore(self, state: Mapping[str, Any] | None, step: int) -> None:
        """Continues a run at a checkpoint, or at the start (0): forgets what was logged after it."""
        if state:
            self.monitor.restore(state["monitor"])
            self.tokens = state["tokens"]  # which the log may lack: verl saves a step before it logs it
        self.run.rewind(step)


class _Both:
    """verl's logger and ours."""

    def __init__(self, logger: Any, recorder: Recorder, stop: Callable[[], None]):
        self._logger, self._recorder, self._stop = logger, recorder, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def log(self, data: Mapping[str, Any], step: int, backend: Any = None) -> None:
        self._logger.log(data=data, step=step, backend=backend)
        if self._recorder.log(data, step):
            self._stop()
