"""Callbacks of a training step: record it, evaluate, show progress. They depend on transformers only."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self

import torch
from rich.console import Console
from transformers import TrainerCallback

from rlif import progress
from rlif.runs.folder import Run

# The engine's names and ours; other metrics keep the engine's name.
RENAMED = {
    "completions/mean_length": "completion_length",
    "completions/min_length": "completion_length_min",
    "completions/max_length": "completion_length_max",
    "completions/clipped_ratio": "truncated",
    "clip_ratio/region_mean": "clip_ratio",
    "num_tokens": "tokens",
    "step_time": "step_seconds",
}
DROPPED = ("reward_std", "frac_reward_zero_std", "total_flos", "train_runtime", "train_loss")


def our_names(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the engine's metrics to the names of this project."""
    named = {RENAMED.get(key, key): value for key, value in logs.items() if not key.startswith("rewards/")}
    return {key: value for key, value in named.items() if key not in DROPPED and "terminated_length" not in key}


def engine_names(logs: Mapping[str, Any], rewards: Sequence[str]) -> dict[str, Any]:
    """Returns the metrics that the engine's users know by other names, under these, where the meaning is the same.

    Args:
        rewards: names of rewards; the mean of each is `rewards/NAME/mean`.
    """
    named = {key: logs[key] for key in RENAMED if key in logs}
    for reward in rewards:
        if reward in logs:
            named[f"rewards/{reward}/mean"] = logs[reward]
        named |= {key: logs[key] for part in ("mean", "std") if (key := f"rewards/{reward}/{part}") in logs}
    return named


class MetricNames(TrainerCallback):
    """Gives every tracker (`report_to`) our names and the engine's, and held-out scores with their step.

    It must be the first callback, because it changes the logs of the others.

    Args:
        rewards: names of rewards.
    """

    def __init__(self, rewards: Sequence[str] = ()) -> None:
        self.rewards = rewards
        self.scores: dict[str, float] = {}  # logged with the next logs, as `eval_clock/accuracy`

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is not None:
            named = our_names(logs) | engine_names(logs, self.rewards) | self.scores
            self.scores.clear()
            logs.clear()
            logs.update(named)


class Recorder(TrainerCallback):
    """Writes metrics.jsonl and completions/ of a run.

    Args:
        extra: returns more metrics, at each logged step.
        completions: returns rows of the latest rollout, after each step; empty if there was no new one.
    """

    def __init__(self, run: Run, extra: Callable[[], dict[str, Any]], completions: Callable[[], list[dict[str, Any]]]):
        self.run, self.extra, self.completions = run, extra, completions

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            own = {key: value for key, value in our_names(logs).items() if not key.startswith("eval_")}
            self.run.append_metrics({"step": state.global_step} | own | self.extra())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        rows = self.completions()
        if rows and state.is_world_process_zero:
            self.run.write_completions(state.global_step, [{"step": state.global_step, **row} for row in rows])


class PeriodicEvaluation(TrainerCallback):
    """Evaluates every so many steps and at the end; restores the random state.

    Args:
        evaluate_at: evaluates at a step.
        every: steps; None for the end alone.
        stopped: tells whether training was interrupted before its end.
        log_scores: logs the scores of the start and of the end, which belong to no step.
        before: steps of the run before the trainer's first, which count for `every`.
    """

    def __init__(
        self,
        evaluate_at: Callable[[int], None],
        every: int | None,
        stopped: Callable[[], bool],
        log_scores: Callable[[], None],
        before: int = 0,
    ):
        self.evaluate_at, self.every, self.stopped, self.log_scores = evaluate_at, every, stopped, log_scores
        self.before = before

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.log_scores()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = self.every and (state.global_step + self.before) % self.every == 0
        if due and state.global_step < state.max_steps:
            with torch.random.fork_rng():
                self.evaluate_at(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.stopped():
            self.evaluate_at(state.global_step)
            self.log_scores()


class PipeSafeConsole(Console):
    """A console that stays silent once its pipe has no reader (`| head`), so that the run continues."""

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()


class Display(TrainerCallback):
    """Shows progress: step, `rewards`, length, KL, time left; where nothing draws a bar, one line per logged step."""

    def __init__(self, console: Console, rewards: Sequence[str] = ()):
        self.console, self.rewards = console, rewards
        self.held = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        done = state.global_step
        self.work = self.held.enter_context(progress.task("training, step", state.max_steps, done))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.work(state.global_step - self.work.done)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        names = {name: name for name in self.rewards} | {"length": "completion_length", "KL": "kl"}
        if len(self.rewards) != 1:
            names = {"reward": "reward"} | names
        shown = {name: logs.get(key) for name, key in names.items()}
        figures = "  ".join(
            f"{name} {'-' if value is None else format(value, '.3g')}"
            for name, value in shown.items()
            if name != "KL" or value is not None
        )
        self.work.note = figures
        if not progress.draws():
            left = self.work.seconds_left(time.monotonic())
            end = f"  {progress.duration(left)} left" if left else ""
            self.console.print(f"step {state.global_step}/{state.max_steps}  {figures}{end}", highlight=False)
            progress.spoken()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()
