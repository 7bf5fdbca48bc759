"""Describes in one sentence what became of a run.

It reads the accuracy on the task trained on, or else on the first task evaluated, or else the label-free signs. It
writes "rose" and "fell" only where 95 % intervals do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from rlif.intervals import Interval
from rlif.reporting import analysis
from rlif.reporting.analysis import Collapse
from rlif.runs.history import History


def trained_task(history: History) -> str | None:
    """Returns the task trained on; None where that was not evaluated."""
    task = history.recipe.get("task")
    return task if isinstance(task, str) and task in history.evaluations else None


def _accuracies(history: History) -> dict[str, dict[int, Interval]]:
    """Returns accuracy by task and step, of the task trained on alone where it was graded."""
    found = {task: analysis.accuracies(evaluations) for task, evaluations in history.evaluations.items()}
    graded = {task: shares for task, shares in found.items() if shares}
    trained = trained_task(history)
    return {trained: graded[trained]} if trained in graded else graded


def collapse(history: History) -> Collapse | None:
    """Finds where a run collapsed: by accuracy on the task trained on, else on any, else by the label-free signs."""
    graded = _accuracies(history)
    if not graded:
        return analysis.label_free_collapse(history.metrics)
    found = [fallen for shares in graded.values() if (fallen := analysis.accuracy_collapse(shares))]
    return min(found, key=lambda fallen: fallen.step, default=None)


def verdict(history: History) -> str:
    """Describes how a run went in one sentence, and how far it got where it has no summary.

    Example:
        >>> from rlif.runs.history import read_history
        >>> verdict(read_history("runs/demo"))
        'Learned: accuracy on clock rose from 10.2% to 92.6%, self-certainty went from 6.00 to 6.27 nats.'
    """
    if not len(history.steps) and not history.evaluations:
        return "Nothing was logged: the run stopped before its first step, or is about to take it."
    graded = next(iter(_accuracies(history).items()), None)
    text = _by_accuracy(history, *graded) if graded else _by_signs(history)
    of = f" of {history.planned_steps:,}" if history.planned_steps else ""
    return text if history.summary else f"Going, or stopped, at step {history.last_step:,}{of}. {text}"


def _by_accuracy(history: History, task: str, shares: Mapping[int, Interval]) -> str:
    start, end = shares[min(shares)], shares[max(shares)]
    best_step = max(shares, key=lambda step: shares[step].mean)
    best, fallen = shares[best_step], analysis.accuracy_collapse(shares)
    if len(shares) == 1:
        return f"Accuracy on {task} is {start.mean:.1%} at step {min(shares)}; there is no later one to compare with."
    signs = f"self-certainty {_from_to(history, 'self_certainty', 'nats')}"
    change = f"from {start.mean:.1%} to {end.mean:.1%}"
    if fallen and start.is_below(best):
        return (
            f"Learned, then collapsed: accuracy on {task} rose from {start.mean:.1%} to {best.mean:.1%} at step"
            f" {best_step} and is {end.mean:.1%} at step {max(shares)}, while {signs}."
        )
    if fallen:
        return f"Collapsed: accuracy on {task} fell from {best.mean:.1%} to {end.mean:.1%}, while {signs}."
    if start.is_below(end):
        return f"Learned: accuracy on {task} rose {change}, {signs}."
    if end.is_below(start):
        return f"Unlearned: accuracy on {task} fell {change}, {signs}."
    return f"No clear change: accuracy on {task} went {change} and the intervals overlap; {signs}."


def _by_signs(history: History) -> str:
    fallen = analysis.label_free_collapse(history.metrics)
    signs = (
        f"self-certainty {_from_to(history, 'self_certainty', 'nats')}, "
        f"completions {_from_to(history, 'completion_length', 'tokens')}"
    )
    if fallen:
        return f"Collapsed from step {fallen.step} on, by its own signs: {fallen.sign}; {signs}."
    return f"Accuracy was not monitored, so whether answers got better is unknown: {signs}."


def _from_to(history: History, name: str, unit: str) -> str:
    values = history.metrics.get(name)
    start, end = (math.nan, math.nan) if values is None else analysis.drift(values)
    return "was not recorded" if math.isnan(start) else f"went from {start:.2f} to {end:.2f} {unit}"
