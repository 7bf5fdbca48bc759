"""Collects what several parts of a report need to know about each of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlif.reporting.analysis import Collapse, Graded, accuracies, graded
from rlif.reporting.verdict import collapse, trained_task
from rlif.runs.history import History


@dataclass(frozen=True)
class ReportedRun:
    """Holds one run of a report.

    Attributes:
        name: unique within the report.
        number: its place in the report, which gives the colour.
        trained: the task trained on; None where that was not evaluated.
        collapse: where the run collapsed; None where it did not.
        graded: the first, the best and the last evaluation of each task, where they have records.
    """

    history: History
    name: str
    number: int
    trained: str | None
    collapse: Collapse | None
    graded: dict[str, list[Graded]]

    @property
    def annotator(self) -> str:
        return str(self.history.recipe.get("annotator", "online"))


def reported_runs(histories: Sequence[History]) -> list[ReportedRun]:
    """Names and analyses the runs of a report. Folders of the same name are numbered."""
    names = [label(history.name) for history in histories]
    unique = [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)
    ]
    return [
        ReportedRun(
            history,
            unique[i],
            i,
            trained_task(history),
            collapse(history),
            {task: _graded(history, task) for task in history.evaluations},
        )
        for i, history in enumerate(histories)
    ]


def _graded(history: History, task: str) -> list[Graded]:
    shares = accuracies(history.evaluations[task])
    if not shares:
        return []
    best = max(shares, key=lambda step: shares[step].mean)
    found = [graded(step, history.records(step, task)) for step in sorted({min(shares), best, max(shares)})]
    return [evaluation for evaluation in found if evaluation.right]


def label(text: Any, longest: int = 48) -> str:
    """Makes a name printable and cuts it to `longest` characters."""
    plain = "".join(sign if sign.isprintable() else "\ufffd" for sign in str(text))
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def spread(steps: Sequence[int], most: int) -> list[int]:
    """Selects at most `most` steps, evenly spaced, first and last included."""
    places = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    return [steps[place] for place in places]
