"""What became of a run, in one sentence.

Of the accuracy on the task trained on where it was monitored, else on the first task that was; else of the label-free
signs alone. "Rose" and "fell" are said only where 95 % intervals do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlif.intervals import Interval
from rlif.reporting import analysis
from rlif.reporting.analysis import Collapse
from rlif.runs.history import History


def trained_task(history: History) -> str | None:
    """The evaluated task the run was trained on."""
    task = history.recipe.get("task")
    return task if isinstance(task, str) and task in history.evaluations else None


def collapse(history: History) -> Collapse | None:
    """Where a run collapsed: by accuracy on the task trained on, else on any, else by the label-free signs."""
    graded = {task: looks for task, looks in history.evaluations.items() if analysis.accuracies(looks)}
    trained = trained_task(history)
    watched = {trained: graded[trained]} if trained in graded else graded
    found = [fallen for looks in watched.values() if (fallen := analysis.accuracy_collapse(looks))]
    if graded:
        return min(found, key=lambda fallen: fallen.step, default=None)
    return analysis.label_free_collapse(history.metrics)


def verdict(history: History) -> str:
    """One sentence on how a run went, and before it, where the run has no summary, how far it got.

    Example:
        >>> from rlif.runs.history import read_history
        >>> verdict(read_history("runs/demo"))
        'Learned: accuracy on clock rose from 10.2% to 92.6%, self-certainty went from 6.00 to 6.27 nats.'
    """
    if not len(history.steps) and not history.evaluations:
        return "Nothing was logged: the run stopped before its first step, or is about to take it."
    task = trained_task(history)
    graded = {name: looks for name, looks in history.evaluations.items() if analysis.accuracies(looks)}
    if task not in graded:
        task = next(iter(graded), None)
    told = _by_signs(history) if task is None else _by_accuracy(history, task, graded[task])
    of = f" of {history.planned_steps:,}" if history.planned_steps else ""
    return told if history.summary else f"Going, or stopped, at step {history.last_step:,}{of}. {told}"


def _by_accuracy(history: History, task: str, looks: Mapping[int, Mapping[str, Any]]) -> str:
    shares = analysis.accuracies(looks)
    start, end = shares[min(shares)], shares[max(shares)]
    best_step = max(shares, key=lambda step: shares[step].mean)
    best, fallen = shares[best_step], analysis.accuracy_collapse(looks)
    if len(shares) == 1:
        return f"Accuracy on {task} is {start.mean:.1%} at step {min(shares)}; there is no later one to compare with."
    signs = f"self-certainty {_went(history, 'self_certainty', 'nats')}"
    change = f"from {start.mean:.1%} to {end.mean:.1%}"
    if fallen and _above(best, start):
        return (
            f"Learned, then collapsed: accuracy on {task} rose from {start.mean:.1%} to {best.mean:.1%} at step"
            f" {best_step} and is {end.mean:.1%} at step {max(shares)}, while {signs}."
        )
    if fallen:
        return f"Collapsed: accuracy on {task} fell from {best.mean:.1%} to {end.mean:.1%}, while {signs}."
    if _above(end, start):
        return f"Learned: accuracy on {task} rose {change}, {signs}."
    if _above(start, end):
        return f"Unlearned: accuracy on {task} fell {change}, {signs}."
    return f"No clear change: accuracy on {task} went {change} and the intervals overlap; {signs}."


def _by_signs(history: History) -> str:
    fallen = analysis.label_free_collapse(history.metrics)
    signs = (
        f"self-certainty {_went(history, 'self_certainty', 'nats')}, "
        f"completions {_went(history, 'completion_length', 'tokens')}"
    )
    if fallen:
        return f"Collapsed from step {fallen.step} on, by its own signs: {fallen.sign}; {signs}."
    return f"Accuracy was not monitored, so whether answers got better is unknown: {signs}."


def _above(one: Interval, other: Interval) -> bool:
    return other.is_below(one)


def _went(history: History, name: str, unit: str) -> str:
    values = history.metrics.get(name)
    start, end = (math.nan, math.nan) if values is None else analysis.drift(values)
    return "was not recorded" if math.isnan(start) else f"went from {start:.2f} to {end:.2f} {unit}"
