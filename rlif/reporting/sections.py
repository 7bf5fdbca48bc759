"""Chooses the figures of a report, by section.

All runs share each figure, in a colour each. A section without figures states what it would need.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rlif.files.atomic import is_number
from rlif.reporting import analysis
from rlif.reporting.figures import Figure, Line, calibrations, curves, histograms, stacks
from rlif.reporting.verdict import ReportedRun, label
from rlif.runs.history import History

Runs = Sequence[ReportedRun]
Values = np.ndarray | None
# Logged columns with a title of their own, and whether they are shares. Columns beyond these and PARTS, which are
# mostly signals, get a figure under their own name.
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
    "labelled": ("Completions of problems with a gold answer", True),
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
MOST_OTHERS = 12  # figures of columns without a title here
MOST_RECORDS = 2_000  # of each evaluation, for the types of answers
MOST_EVALUATIONS = 40  # evaluated steps, for the types of answers
MOST_PER_RUN = 12  # figures that each run has of its own


@dataclass(frozen=True)
class Section:
    """Holds a heading, its figures, and what is missing from it."""

    key: str
    title: str
    figures: list[Figure]
    missing: str


def sections(runs: Runs) -> list[Section]:
    """Draws up all sections, in the order of a report."""
    built = []
    for key, title, needs, draw in SECTIONS:
        if key == "annotator" and len({run.annotator for run in runs}) < 2:
            continue
        figures = list(draw(runs))
        built.append(Section(key, title, figures, "" if figures else f"Nothing to draw: this needs {needs}."))
    return built


def _slug(*parts: Any) -> str:
    """Makes a file name that is also an identifier."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(map(str, parts)).lower()).strip("-")


def _tasks(runs: Runs) -> list[str]:
    """Lists the evaluated tasks, those trained on first."""
    trained = [run.trained for run in runs if run.trained]
    return list(dict.fromkeys([*trained, *itertools.chain(*(run.history.evaluations for run in runs))]))


def _with_role(task: str, runs: Runs) -> str:
    roles = {run.trained == task for run in runs if task in run.history.evaluations}
    known = any(run.trained for run in runs)
    role = (" (trained on)" if roles == {True} else " (never trained on)" if roles == {False} else "") if known else ""
    return label(task) + role


def _line(
    run: ReportedRun, steps: Iterable[float], values: Iterable[float], low: Values = None, high: Values = None
) -> Line:
    at = run.collapse and run.collapse.step
    return Line(run.name, np.array(list(steps), float), np.array(list(values), float), low, high, run.number, at)


def _column(history: History, name: str) -> Values:
    values = analysis.tokens_per_second(history.metrics) if name == "tokens_per_second" else history.metrics.get(name)
    return None if values is None or not np.isfinite(values).any() else values


def _accuracy(runs: Runs) -> Iterator[Figure]:
    for task in _tasks(runs):
        lines = [
            _line(run, shares, *(np.array([getattr(s, k) for s in shares.values()]) for k in ("mean", "low", "high")))
            for run in runs
            if (shares := run.accuracies.get(task))
        ]
        if lines:
            yield curves(_slug("accuracy", task), f"Accuracy on {_with_role(task, runs)}", lines, percent=True)


def _length(runs: Runs) -> Iterator[Figure]:
    lines = []
    for run in runs:
        values = _column(run.history, "completion_length")
        if values is not None:
            ends = (run.history.metrics.get(f"completion_length_{end}") for end in ("min", "max"))
            lines.append(_line(run, run.history.steps, values, *(ends if len(runs) == 1 else ())))
    if lines:
        title = "Tokens per sampled completion" + (", shortest to longest shaded" if len(runs) == 1 else "")
        yield curves("length-training", title, lines)
    for task in _tasks(runs):
        lines = []
        for run in runs:
            evaluations = sorted(run.history.evaluations.get(task, {}).items())
            found = ((step, row.get("completion_length")) for step, row in evaluations)
            if lengths := {step: length for step, length in found if is_number(length)}:
                lines.append(_line(run, lengths, list(lengths.values())))
        if lines:
            yield curves(_slug("length", task), f"Tokens per completion on {_with_role(task, runs)}", lines)


def _annotators(runs: Runs) -> Iterator[Figure]:
    named = [replace(run, name=f"{run.annotator}: {run.name}") for run in runs]
    for figure in (*itertools.islice(_accuracy(named), 1), *_length(named)):
        yield replace(figure, key=f"annotator-{figure.key}")
        if figure.key == "length-training":
            return


def _training(runs: Runs) -> Iterator[Figure]:
    logged = [run.history.metrics for run in runs]
    both = [metrics for metrics in logged if {"reward", "self_certainty"} <= set(metrics)]
    same = all(np.allclose(m["reward"], m["self_certainty"], atol=1e-4, equal_nan=True) for m in both)
    same = same and all(run.rewards == ["self_certainty"] for run in runs)
    rewards = set(itertools.chain(*(run.rewards for run in runs)))
    others = sorted(set(itertools.chain(*logged)) - set(MEASURES) - PARTS, key=lambda name: (name not in rewards, name))
    shown = 0
    for name in (*MEASURES, *others):
        title, share = MEASURES.get(name, (label(name), False))
        lines = [
            _line(run, run.history.steps, values) for run in runs if (values := _column(run.history, name)) is not None
        ]
        if name == "reward" and same and any("self_certainty" in metrics for metrics in logged):
            title = "Reward = self-certainty, nats"
        if not lines or (name == "self_certainty" and same and any("reward" in metrics for metrics in logged)):
            continue
        if name not in MEASURES:
            shown += 1
            empty = name not in rewards and all((line.values == 0).all() for line in lines)
            if empty or shown > max(MOST_OTHERS, len(rewards)):
                continue
        yield curves(_slug("training", name), title, lines, percent=share)


def _answers(runs: Runs) -> Iterator[Figure]:
    for run in runs:
        history, several = run.history, f" ({run.name})" if len(runs) > 1 else ""
        sources = [
            (
                _slug("answers", task, run.number),
                f"Answers on {_with_role(task, [run])}",
                sorted(history.evaluations[task]),
                partial(history.records, task=task, limit=MOST_RECORDS),
            )
            for task in _tasks([run])[:MOST_PER_RUN]
        ]
        kept = (list(history.completions), partial(history.read_completions, limit=64))
        sources.append((_slug("answers", "training", run.number), "Answers in training, sampled", *kept))
        for key, title, steps, read in sources:
            counts = {step: analysis.answer_types(read(step)) for step in analysis.spread(steps, MOST_EVALUATIONS)}
            if any(sum(kinds.values()) for kinds in counts.values()):
                yield stacks(key, title + several, counts)


def _separation(runs: Runs) -> Iterator[Figure]:
    for run in runs:
        several = f", {run.name}" if len(runs) > 1 else ""
        for task in _tasks([run])[:MOST_PER_RUN]:
            if evaluations := run.graded.get(task):
                title = f"self-certainty on {label(task)}{several}"
                yield histograms(_slug("separation", task, run.number), title, evaluations)


def _calibration(runs: Runs) -> Iterator[Figure]:
    for task in _tasks(runs):
        parts = []
        for run in runs:
            several = f"{run.name}, " if len(runs) > 1 else ""
            evaluations = list(enumerate(run.graded.get(task, [])))
            for place, evaluation in evaluations if len(runs) == 1 else (*evaluations[:1], *evaluations[1:][-1:]):
                if evaluation.calibration is not None:
                    parts.append((f"{several}step {evaluation.step}", run.number, place, evaluation.calibration))
        if parts:
            yield calibrations(_slug("calibration", task), f"Accuracy on {label(task)} by tenth of confidence", parts)


SECTIONS = (  # key, title, what it needs, how its figures are chosen
    (
        "accuracy", "Accuracy over checkpoints",
        "evaluations of graded problems (evaluate.tasks in the recipe)", _accuracy,
    ),
    ("length", "Completion length", "logged steps or evaluations", _length),
    ("annotator", "Online against offline annotator", "logged steps or evaluations", _annotators),
    ("training", "Training, step by step", "logged steps", _training),
    ("answers", "Types of answers", "records of evaluations, or kept completions", _answers),
    (
        "separation", "Is confidence higher where the answer is right?",
        "records of evaluations with right and with wrong answers", _separation,
    ),
    ("calibration", "Does confidence predict correctness?", "graded records of evaluations", _calibration),
)  # fmt: skip
