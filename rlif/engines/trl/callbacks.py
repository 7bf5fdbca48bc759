"""Callbacks of a training step: record it, evaluate, show progress. They depend on transformers only."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

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


class MetricNames(TrainerCallback):
    """Gives every tracker (`report_to`) our names, and held-out scores with their step.

    It must be the first callback, because it changes the logs of the others.
    """

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}  # logged with the next logs, as `eval_clock/accuracy`

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is not None:
            named = our_names(logs) | self.scores
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
    """

    def __init__(
        self,
        evaluate_at: Callable[[int], None],
        every: int | None,
        stopped: Callable[[], bool],
        log_scores: Callable[[], None],
    ):
        self.evaluate_at, self.every, self.stopped, self.log_scores = evaluate_at, every, stopped, log_scores

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.log_scores()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.every and state.global_step % self.every == 0 and state.global_step < state.max_steps:
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
    """Shows progress: step, reward, length, KL, time left; without a terminal, one line per logged step."""

    def __init__(self, console: Console):
        self.console = console
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = self.progress.add_task("", total=state.max_steps, completed=state.global_step, figures="")
        if state.is_world_process_zero:
            self.progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update(self.bar, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        shown = {"reward": logs.get("reward"), "length": logs.get("completion_length"), "KL": logs.get("kl")}
        figures = "  ".join(
            f"{name} {'-' if value is None else format(value, '.3g')}"
            for name, value in shown.items()
            if name != "KL" or value is not None
        )
        self.progress.update(self.bar, figures=figures)
        if not self.console.is_terminal:
            self.console.print(f"step {state.global_step}/{state.max_steps}  {figures}", highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
