"""Computes what a method gained: start, best and end of each run, and over seeds.

For each method and evaluated task, with one number per seed s:

    start, best, end    accuracy at the first, the best and the last evaluation; means over seeds. The best is chosen by
                        gold answers, and rises with the number of evaluations
    change              end_s - start_s, its mean and Student's 95 % interval over seeds: start and end of a seed are a
                        pair, and seeds, not problems, are the sample
    against a method    end_s - end_s of the other, a pair for each seed that both have; the same interval
    collapsed           by accuracy on that task (`rlif.reporting.analysis`); where nothing is graded, by the
                        label-free signs
    kl                  to the start, mean over the last tenth of the logged steps of training, 20 at most

With one seed there is no interval: an interval over problems describes that one model, not other seeds. A run that
failed or is unfinished does not count in any number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlif.comparison.summary import COUNTED_STATES, Raised, RunSummary
from rlif.intervals import Interval, t_interval
from rlif.reporting import analysis

Pair = tuple[float | None, float | None]  # at the start and at the end


@dataclass(frozen=True)
class Outcome:
    """Holds the result of one run on one task; None where it is unknown."""

    seed: int
    state: str  # of the run; or `not evaluated`, where an evaluation on the task is missing at the start or the end
    reason: str  # why the run does not count, or ended early; empty otherwise
    start: Interval | None = None
    best: Interval | None = None
    best_step: int | None = None  # the first of the best evaluations
    end: Interval | None = None
    end_step: int | None = None
    completion_length: Pair = (None, None)
    self_certainty: Pair = (None, None)
    kl: float | None = None
    collapsed: int | None = None  # the step from which on accuracy is lost, None where it is not
    alarm: Raised | None = None  # the guard's first alarm
    watched: bool = False  # whether there was a guard

    @property
    def counts(self) -> bool:
        """Tells whether it has an end to compare."""
        return self.state in COUNTED_STATES


@dataclass(frozen=True)
class MethodResult:
    """Holds the results of a method on a task, over seeds."""

    method: str
    task: str | None  # None where nothing was evaluated; then lengths and self-certainty are those of training
    trained: bool  # whether it is the task the method was trained on
    outcomes: tuple[Outcome, ...]  # one per run, in order of seeds, also of those that do not count
    problems: int | None  # evaluated
    # mean accuracies over `seeds`
    start: float | None
    best: float | None
    end: float | None
    change: Interval  # end - start, over `seeds`
    completion_length: Pair
    self_certainty: Pair
    kl: float | None
    # end - end of the method compared with, over the seeds in `common`; None without one
    against: Interval | None = None
    common: tuple[int, ...] = ()  # the seeds that both methods have

    @property
    def counted(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.counts]

    @property
    def seeds(self) -> list[int]:
        return [outcome.seed for outcome in self.counted]

    @property
    def collapsed(self) -> dict[int, int]:
        """Returns the step of each collapse, by seed."""
        return {o.seed: o.collapsed for o in self.counted if o.collapsed is not None}

    @property
    def alarms(self) -> dict[int, Raised]:
        """Returns the guard's first alarms, by seed."""
        return {o.seed: o.alarm for o in self.counted if o.alarm is not None}


def method_result(
    method: str, task: str | None, runs: Sequence[RunSummary], others: Sequence[RunSummary] | None = None
) -> MethodResult:
    """Computes the row of a method on a task, against the runs of another method if given."""
    outcomes = tuple(run_outcome(run, task) for run in runs)
    counted = [outcome for outcome in outcomes if outcome.counts]
    graded = {o.seed: (o.start.mean, o.best.mean, o.end.mean) for o in counted if o.start and o.best and o.end}
    start, best, end = (_mean(values) for values in zip(*graded.values(), strict=True)) if graded else (None,) * 3
    ends = {o.seed: o.end.mean for run in others or () if (o := run_outcome(run, task)).counts and o.end}
    common = tuple(seed for seed in graded if seed in ends)
    alone = others is None or (others and others[0].method == method)
    return MethodResult(
        method,
        task,
        trained=any(run.recipe.get("task") == task for run in runs),
        outcomes=outcomes,
        problems=max((o.end.n for o in counted if o.end), default=None),
        start=start,
        best=best,
        end=end,
        change=t_interval([after - before for before, _, after in graded.values()]).within(-1, 1),
        completion_length=_means([outcome.completion_length for outcome in counted]),
        self_certainty=_means([outcome.self_certainty for outcome in counted]),
        kl=_mean([outcome.kl for outcome in counted]),
        against=None if alone else t_interval([graded[seed][2] - ends[seed] for seed in common]).within(-1, 1),
        common=common,
    )


def run_outcome(run: RunSummary, task: str | None) -> Outcome:
    """Computes the result of a run on a task; for None, from what training logged."""
    metrics = {name: np.array(values, float) for name, values in run.metrics.items()}
    columns = ("kl", "completion_length", "self_certainty")
    logged = {name: _pair(analysis.drift(metrics[name])) if name in metrics else (None, None) for name in columns}
    found = Outcome(
        run.seed,
        run.state,
        run.said,
        kl=logged["kl"][1],
        alarm=next((alarm for alarm in run.alarms or () if alarm.severity == "alarm"), None),
        watched=run.alarms is not None,
    )
    if task is None:
        fallen = analysis.label_free_collapse(metrics)
        return replace(
            found,
            completion_length=logged["completion_length"],
            self_certainty=logged["self_certainty"],
            collapsed=fallen and fallen.step,
        )
    evaluated = run.evaluations.get(task, {})
    steps, shares = list(evaluated), analysis.accuracies(evaluated)
    if len(steps) < 2 or steps[0] > 0 or steps[-1] < run.steps:
        when = f"from step {steps[0]} to {steps[-1]} of {run.steps}" if steps else "at no step"
        state = "not evaluated" if run.counts else run.state
        return replace(found, state=state, reason=run.said or f"evaluated on {task} {when}")
    best = max(shares, key=lambda step: shares[step].mean, default=None)
    fallen = analysis.accuracy_collapse(shares) if shares else analysis.label_free_collapse(metrics)
    first, last = evaluated[steps[0]], evaluated[steps[-1]]
    return replace(
        found,
        start=shares.get(steps[0]),
        best=None if best is None else shares[best],
        best_step=best,
        end=shares.get(steps[-1]),
        end_step=steps[-1],
        completion_length=_pair((first["completion_length"], last["completion_length"])),
        self_certainty=_pair((first["self_certainty"], last["self_certainty"])),
        collapsed=fallen and fallen.step,
    )


def evaluated_tasks(runs: Sequence[RunSummary]) -> list[str | None]:
    """Lists the tasks that runs were evaluated on, or should have been; [None] without any."""
    named = [task for run in runs for task in (*run.evaluations, *(run.recipe.get("evaluate") or {}).get("tasks", []))]
    return list(dict.fromkeys(named)) or [None]


def _pair(values: Pair) -> Pair:
    """Replaces NaN by None."""
    start, end = (None if value is None or math.isnan(value) else value for value in values)
    return start, end


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _means(pairs: Sequence[Pair]) -> Pair:
    return _mean([start for start, _ in pairs]), _mean([end for _, end in pairs])
