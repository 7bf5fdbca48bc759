"""Chooses the figures of a report, by section.

Several runs share each figure, a colour each. A section without figures says what it would need.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlif.reporting import analysis
from rlif.reporting.figures import Figure, Line, calibrations, curves, histograms, stacks
from rlif.reporting.verdict import collapse, trained_task
from rlif.runs.history import History

# Logged columns that have a figure of their own, and whether they are shares. What a run logs beyond these and PARTS
# (signals, most of all) gets a figure under its own name.
MEASURES = {
    "reward": ("Reward", False),
    "self_certainty": ("Self-certainty, nats", False),
    "reward_spread": ("Spread of the reward within groups", False),
    "truncated": ("Truncated completions", True),
    "kl": ("KL from the reference model, nats per token", False),
    "entropy": ("Entropy, nats per token", False),
    "clip_ratio": ("Tokens clipped by the policy ratio", True),
    "grad_norm": ("Gradient norm", False),
    "agreement": ("Completions with their group's commonest answer", True),
    "distinct": ("Answers that differ within groups", True),
    "same_answer": ("Problems with the commonest answer of all", True),
    "unanswered": ("Completions without an answer", True),
    "goes_on": ("Completions that go on after their answer", True),
    "repetition": ("Repeated 4-grams", True),
    "prompt_use": ("Words of the problem that completions use", True),
    "compression": ("Compression of completions, fold", False),
    "tokens_per_second": ("Tokens per second, prompts included", False),
}
PARTS = {
    "step", "epoch", "loss", "learning_rate", "tokens", "step_seconds", "extra_passes",
    "completion_length", "completion_length_min", "completion_length_max",
    "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/low_min", "clip_ratio/high_max",
}  # fmt: skip
MOST_OTHERS = 12  # figures of columns we have no name for
MOST_RECORDS = 2_000  # of each evaluation, for the types of answers
MOST_EVALUATIONS = 40  # evaluated steps, for the types of answers
MOST_PER_RUN = 12  # figures that each run has of its own


@dataclass
class Section:
    """A heading, what it answers, its figures, and what is missing from it."""

    key: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    missing: str = ""


def label(text: Any, longest: int = 48) -> str:
    """Makes a name printable and cuts it to `longest` characters."""
    plain = "".join(sign if sign.isprintable() else "\ufffd" for sign in str(text))
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def slug(*parts: Any) -> str:
    """Makes a file name that is also an identifier."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(map(str, parts)).lower()).strip("-")


def tasks_of(histories: Sequence[History]) -> list[str]:
    """Evaluated tasks, those trained on first."""
    trained = [task for history in histories if (task := trained_task(history))]
    return list(dict.fromkeys([*trained, *itertools.chain(*(history.evaluations for history in histories))]))


def sections(histories: Sequence[History]) -> list[Section]:
    """All sections that have figures, in the order of a report."""
    names = names_of(histories)
    fallen = [collapse(history) for history in histories]
    marks = [() if found is None else (found.step,) for found in fallen]
    built = [
        Section("accuracy", "Accuracy over checkpoints", list(_accuracy(histories, names, marks))),
        Section("length", "Completion length", list(_length(histories, names, marks))),
        Section("training", "Training, step by step", list(_training(histories, names, marks))),
        Section("answers", "Types of answers", list(_answers(histories, names))),
        Section("separation", "Is confidence higher where the answer is right?", list(_separation(histories, names))),
        Section("calibration", "Does confidence predict correctness?", list(_calibration(histories, names))),
    ]
    if len({history.recipe.get("annotator", "online") for history in histories}) > 1:
        built.insert(2, Section("annotator", "Online against offline annotator", list(_annotators(histories, marks))))
    needs = {
        "accuracy": "evaluations of graded problems (evaluate.tasks in the recipe)",
        "training": "logged steps",
        "length": "logged steps or evaluations",
        "answers": "records of evaluations, or kept completions",
        "separation": "records of evaluations with right and with wrong answers",
        "calibration": "graded records of evaluations",
        "annotator": "logged steps or evaluations",
    }
    for section in built:
        section.missing = "" if section.figures else f"Nothing to draw: this needs {needs[section.key]}."
    return built


def names_of(histories: Sequence[History]) -> list[str]:
    """One name per run; folders of the same name are told apart by number."""
    names = [label(history.name) for history in histories]
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _column(history: History, name: str) -> np.ndarray | None:
    values = analysis.tokens_per_second(history.metrics) if name == "tokens_per_second" else history.metrics.get(name)
    return None if values is None or not np.isfinite(values).any() else values


def _lines(histories: Sequence[History], names: list[str], marks: Any, column: str) -> list[Line]:
    return [
        Line(names[i], history.steps, values, number=i, marks=marks[i])
        for i, history in enumerate(histories)
        if (values := _column(history, column)) is not None
    ]


def _training(histories: Sequence[History], names: list[str], marks: Any) -> Iterator[Figure]:
    others = sorted({name for history in histories for name in history.metrics} - set(MEASURES) - PARTS)
    same = all(
        np.allclose(h.metrics["reward"], h.metrics["self_certainty"], atol=1e-4, equal_nan=True)
        for h in histories
        if {"reward", "self_certainty"} <= set(h.metrics)
    )
    shown = 0
    for name in (*MEASURES, *others):
        title, share = MEASURES.get(name, (label(name), False))
        lines = _lines(histories, names, marks, name)
        if name == "reward" and same and any("self_certainty" in history.metrics for history in histories):
            title = "Reward = self-certainty, nats"
        if not lines or (name == "self_certainty" and same and any("reward" in h.metrics for h in histories)):
            continue
        if name not in MEASURES:
            shown += 1
            if shown > MOST_OTHERS or all((line.values == 0).all() for line in lines):
                continue
        yield curves(slug("training", name), title, lines, percent=share)


def _accuracy(histories: Sequence[History], names: list[str], marks: Any) -> Iterator[Figure]:
    for task in tasks_of(histories):
        lines = []
        for i, history in enumerate(histories):
            shares = analysis.accuracies(history.evaluations.get(task, {}))
            if shares:
                low, mean, high = (
                    np.array([getattr(s, key) for s in shares.values()]) for key in ("low", "mean", "high")
                )
                lines.append(Line(names[i], np.array(list(shares), float), mean, low, high, i, marks[i]))
        if lines:
            yield curves(slug("accuracy", task), f"Accuracy on {_with_role(task, histories)}", lines, percent=True)


def _with_role(task: str, histories: Sequence[History]) -> str:
    roles = {trained_task(history) == task for history in histories if task in history.evaluations}
    known = any(trained_task(history) for history in histories)
    role = (" (trained on)" if roles == {True} else " (never trained on)" if roles == {False} else "") if known else ""
    return label(task) + role


def _length(histories: Sequence[History], names: list[str], marks: Any) -> Iterator[Figure]:
    lines = []
    for line, history in (
        (line, histories[line.number]) for line in _lines(histories, names, marks, "completion_length")
    ):
        low, high = (history.metrics.get(f"completion_length_{end}") for end in ("min", "max"))
        low, high = (low, high) if len(histories) == 1 else (None, None)
        lines.append(Line(line.label, line.steps, line.values, low, high, line.number, line.marks))
    if lines:
        title = "Tokens per sampled completion" + (", shortest to longest shaded" if len(histories) == 1 else "")
        yield curves("length-training", title, lines)
    for task in tasks_of(histories):
        lines = []
        for i, history in enumerate(histories):
            evaluations = sorted(history.evaluations.get(task, {}).items())
            steps = [
                step for step, evaluation in evaluations if isinstance(evaluation.get("completion_length"), int | float)
            ]
            values = [float(evaluation["completion_length"]) for step, evaluation in evaluations if step in steps]
            if steps:
                lines.append(Line(names[i], np.array(steps, float), np.array(values), number=i, marks=marks[i]))
        if lines:
            yield curves(slug("length", task), f"Tokens per completion on {_with_role(task, histories)}", lines)


def _annotators(histories: Sequence[History], marks: Any) -> Iterator[Figure]:
    names = [
        f"{h.recipe.get('annotator', 'online')}: {name}" for h, name in zip(histories, names_of(histories), strict=True)
    ]
    for figure in (*itertools.islice(_accuracy(histories, names, marks), 1), *_length(histories, names, marks)):
        yield Figure(f"annotator-{figure.key}", figure.title, figure.alt, figure.draw, figure.caption, figure.height)
        if figure.key == "length-training":
            return


def spread(steps: Sequence[int], most: int) -> list[int]:
    """Picks at most `most` of them, evenly spaced, first and last included."""
    places = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    return [steps[place] for place in places]


def _answers(histories: Sequence[History], names: list[str]) -> Iterator[Figure]:
    for i, history in enumerate(histories):
        several = f" ({names[i]})" if len(histories) > 1 else ""
        sources: list[tuple[str, str, dict[int, dict[str, int]]]] = []
        for task in tasks_of([history])[:MOST_PER_RUN]:
            steps = spread(sorted(history.evaluations[task]), MOST_EVALUATIONS)
            counts = {step: analysis.answer_types(history.records(step, task, MOST_RECORDS)) for step in steps}
            sources.append((slug("answers", task, i), f"Answers on {_with_role(task, [history])}", counts))
        steps = spread(list(history.completions), MOST_EVALUATIONS)
        counts = {step: analysis.answer_types(history.read_completions(step, 64)) for step in steps}
        sources.append((slug("answers", "training", i), "Answers in training, sampled", counts))
        for key, title, counts in sources:
            if any(sum(kinds.values()) for kinds in counts.values()):
                yield stacks(key, title + several, counts)


def graded_evaluations(history: History, task: str) -> list[tuple[int, list[float], list[bool]]]:
    """Confidence and verdicts of the first, the best and the last evaluation: (step, confidence, right)."""
    shares = analysis.accuracies(history.evaluations.get(task, {}))
    if not shares:
        return []
    steps = sorted({min(shares), max(shares), max(shares, key=lambda step: shares[step].mean)})
    evaluations = [(step, *analysis.graded(history.records(step, task))) for step in steps]
    return [evaluation for evaluation in evaluations if evaluation[1]]


def _separation(histories: Sequence[History], names: list[str]) -> Iterator[Figure]:
    for i, history in enumerate(histories):
        several = f", {names[i]}" if len(histories) > 1 else ""
        for task in tasks_of([history])[:MOST_PER_RUN]:
            parts = [
                (f"step {step}", certainty, right, analysis.separation(certainty, right))
                for step, certainty, right in graded_evaluations(history, task)
            ]
            if parts:
                title = f"self-certainty on {label(task)}{several}"
                yield histograms(slug("separation", task, i), title, parts)


def _calibration(histories: Sequence[History], names: list[str]) -> Iterator[Figure]:
    for task in tasks_of(histories):
        parts = []
        for i, history in enumerate(histories):
            several = f"{names[i]}, " if len(histories) > 1 else ""
            evaluations = graded_evaluations(history, task)
            for step, certainty, right in (
                evaluations if len(histories) == 1 else (*evaluations[:1], *evaluations[1:][-1:])
            ):
                numbers = analysis.calibration(certainty, right)
                if numbers is not None:
                    parts.append((f"{several}step {step}", i, evaluations.index((step, certainty, right)), numbers))
        if parts:
            title = f"Accuracy on {label(task)} by tenth of confidence"
            yield calibrations(slug("calibration", task), title, parts)
