"""Analyses the runs of a report, once for all of its parts, and describes in one sentence what became of each.

A verdict reads the accuracy on the task trained on, or else on the first task evaluated, or else the label-free signs.
It writes "rose" and "fell" only where 95 % intervals do not overlap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlif.intervals import Interval
from rlif.reporting import analysis
from rlif.reporting.analysis import Collapse, Graded
from rlif.runs.history import History
from rlif.signals import RENAMED

LONGEST = 48  # characters of a name


@dataclass(frozen=True)
class ReportedRun:
    """Holds one run of a report."""

    history: History
    name: str  # unique within the report
    number: int  # its place in the report, which gives the colour
    trained: str | None  # the task trained on; None where that was not evaluated
    accuracies: dict[str, dict[int, Interval]]  # by task, then step; tasks that were not graded are left out
    # by accuracy on the task trained on, else on any, else by the label-free signs; None without one
    collapse: Collapse | None
    graded: dict[str, list[Graded]]  # the first, the best and the last evaluation of each task, where they have records

    @property
    def annotator(self) -> str:
        return str(self.history.recipe.get("annotator", "online"))

    @property
    def rewards(self) -> list[str]:
        return reward_terms(self.history)

    @property
    def verdict(self) -> str:
        """Describes how the run went in one sentence, how far it got where it has no summary, and failed rewards."""
        return " ".join(filter(None, [self._course(), *self._constant(), self.history.failures]))

    def _course(self) -> str:
        history = self.history
        if not len(history.steps) and not history.evaluations:
            return "Nothing was logged: the run stopped before its first step, or is about to take it."
        text = self._by_accuracy() if self.accuracies else self._by_signs()
        of = f" of {history.planned_steps:,}" if history.planned_steps else ""
        return text if history.summary else f"Going, or stopped, at step {history.last_step:,}{of}. {text}"

    def _constant(self) -> list[str]:
        """Names rewards that had the same value for every completion, so that nothing was learnt from them."""
        lines = []
        for name in self.rewards:
            spread_name = f"{name}_spread" if len(self.rewards) > 1 else "reward_spread"
            values, spread = (self.history.metrics.get(each) for each in (name, spread_name))
            known = [] if values is None else [value for value in values if math.isfinite(value)]
            varied = spread is not None and any(value > 0 for value in spread)  # False for NaN
            if len(known) > 1 and len(set(known)) == 1 and not varied:
                lines.append(f"The reward {label(name)} never varied: it is {known[0]:g} at every step.")
        return lines

    def _by_accuracy(self) -> str:
        task = self.trained if self.trained in self.accuracies else next(iter(self.accuracies))
        shares = self.accuracies[task]
        start, end = shares[min(shares)], shares[max(shares)]
        if len(shares) == 1:
            return (
                f"Accuracy on {task} is {start.mean:.1%} at step {min(shares)}; there is no later one to compare with."
            )
        best_step = max(shares, key=lambda step: shares[step].mean)
        best, fallen = shares[best_step], analysis.accuracy_collapse(shares)
        signs = f"self-certainty {self._from_to('self_certainty', 'nats')}"
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

    def _by_signs(self) -> str:
        signs = (
            f"self-certainty {self._from_to('self_certainty', 'nats')}, "
            f"completions {self._from_to('completion_length', 'tokens')}"
        )
        if self.collapse:
            return f"Collapsed from step {self.collapse.step} on, by its own signs: {self.collapse.sign}; {signs}."
        return f"Accuracy was not monitored, so whether answers got better is unknown: {signs}."

    def _from_to(self, column: str, unit: str) -> str:
        values = self.history.metrics.get(column)
        start, end = (math.nan, math.nan) if values is None else analysis.drift(values)
        return "was not recorded" if math.isnan(start) else f"went from {start:.2f} to {end:.2f} {unit}"


def reported_runs(histories: Sequence[History]) -> list[ReportedRun]:
    """Names and analyses the runs of a report.

    Example:
        >>> from rlif.runs.history import read_history
        >>> reported_runs([read_history("runs/demo")])[0].verdict
        'Learned: accuracy on clock rose from 6.2% to 96.5%, self-certainty went from 6.16 to 6.28 nats.'
    """
    runs = []
    for i, (history, name) in enumerate(zip(histories, run_names(histories), strict=True)):
        task = history.recipe.get("task")
        title = history.titles.get(task, task) if isinstance(task, str) else None
        trained = title if title in history.evaluations else None
        found = {task: analysis.accuracies(evaluations) for task, evaluations in history.evaluations.items()}
        accuracies = {task: shares for task, shares in found.items() if shares}
        graded = {task: _graded(history, task, shares) for task, shares in accuracies.items()}
        collapse = _collapse(history, {trained: accuracies[trained]} if trained in accuracies else accuracies)
        runs.append(ReportedRun(history, name, i, trained, accuracies, collapse, graded))
    return runs


def _collapse(history: History, accuracies: dict[str, dict[int, Interval]]) -> Collapse | None:
    if not accuracies:
        return analysis.label_free_collapse(history.metrics)
    found = [fallen for shares in accuracies.values() if (fallen := analysis.accuracy_collapse(shares))]
    return min(found, key=lambda fallen: fallen.step, default=None)


def _graded(history: History, task: str, shares: dict[int, Interval]) -> list[Graded]:
    best = max(shares, key=lambda step: shares[step].mean)
    found = [analysis.graded(step, history.records(step, task)) for step in sorted({min(shares), best, max(shares)})]
    return [evaluation for evaluation in found if evaluation.right]


def run_names(histories: Sequence[History]) -> list[str]:
    """Returns a name for each run that can be printed; folders of the same name are numbered."""
    names = [label(history.name) for history in histories]
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def reward_terms(history: History) -> list[str]:
    """Lists the rewards of a run that have a weight at some step, in the order of its recipe."""
    reward = history.recipe.get("reward", "self_certainty")
    entries = reward if isinstance(reward, dict) else {str(reward): 1.0}
    weights = {name: entry.get("weight", 1.0) if isinstance(entry, dict) else entry for name, entry in entries.items()}
    return [RENAMED.get(str(name), str(name)) for name, weight in weights.items() if weight != 0]


def label(text: Any) -> str:
    """Makes a name printable and cuts it to LONGEST characters."""
    plain = "".join(sign if sign.isprintable() else "\ufffd" for sign in str(text))
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"
