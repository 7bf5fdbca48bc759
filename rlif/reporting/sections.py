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
# Logged columns with a title of their own, whether they are shares, and what they say. Columns beyond these and PARTS,
# which are mostly signals, get a figure under their own name.
MEASURES = {
    "reward": ("Reward", False,
        "What training raises, averaged over the completions of a step; its terms follow where it has several."),
    "self_certainty": ("Self-certainty, nats", False,
        "How sure the model is of its next tokens, averaged over completions; sure answers can still be wrong."),
    "reward_spread": ("Spread of the reward within groups", False,
        "How much the rewards of one prompt's completions differ; without a difference nothing is learned from it."),
    "truncated": ("Truncated completions", True,
        "Share of completions that reached the length limit before they ended."),
    "kl": ("KL from the reference model, nats per token", False,
        "How far the model's predictions have moved from those of the reference model."),
    "entropy": ("Entropy, nats per token", False,
        "How undecided the model is about its next token; near 0 it always writes the same."),
    "clip_ratio": ("Tokens clipped by the policy ratio", True,
        "Share of tokens whose update was limited because the model had changed much since it sampled them."),
    "weakened_tokens": ("Tokens whose update is weakened", True,
        "Share of tokens that the key token_update chose, for a penalty or for no policy gradient."),
    "answer_tokens": ("Tokens of answers", True,
        "Share of tokens that have no policy gradient because of the key mask_answer."),
    "answer_not_found": ("Answers not found in their completion", True,
        "Share of completions without any policy gradient, because the tokens of their answer are not known."),
    "grad_norm": ("Gradient norm", False, "Length of the gradient of a step; jumps are a sign of unstable training."),
    "agreement": ("Completions with their group's commonest answer", True,
        "Share of a problem's answered completions that give its most frequent answer, averaged over problems."),
    "pull": ("Reward for the group's commonest answer", True,
        "How often a completion with its group's most frequent answer has more reward than one with another; at 50% "
        "reward and votes have parted."),
    "distinct": ("Answers that differ within groups", True,
        "How many answers to a problem differ: 0% where all are the same, 100% where no two are."),
    "same_answer": ("Problems with the commonest answer of all", True,
        "Share of problems that have the same most frequent answer; high where the model ignores the problem."),
    "unanswered": ("Completions without an answer", True, "Share of completions in which the task found no answer."),
    "labelled": ("Completions of problems with a gold answer", True,
        "Share of rewarded completions whose problem has a gold answer that rewards may read."),
    "goes_on": ("Completions that go on after their answer", True,
        "Share of completions that open a new problem or turn, or write on after the answer."),
    "repetition": ("Repeated 4-grams", True,
        "Share of sequences of four tokens that occurred before in the same completion; high in loops."),
    "prompt_use": ("Words of the problem that completions use", True,
        "Share of a problem's words that a completion uses; it falls when completions are about something else."),
    "compression": ("Compression of completions, fold", False,
        "How many times smaller completions become when compressed; high where text repeats."),
    "tokens_per_second": ("Tokens per second, prompts included", False,
        "Tokens that went through the model in a step, divided by the seconds of the step."),
}  # fmt: skip
PARTS = {
    "step", "epoch", "loss", "learning_rate", "tokens", "step_seconds", "extra_passes",
    "completion_length", "completion_length_min", "completion_length_max",
    "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/low_min", "clip_ratio/high_max",
}  # fmt: skip
TERM_COLUMNS = {  # what a term of the reward logs under its name and a suffix
    "": "This term of the reward, before its weight, averaged over the completions of a step.",
    "_spread": "How much this term differs among the completions of one prompt.",
    "_unscorable": "Share of completions that this term could not score.",
    "_weight": "The weight of this term at each step.",
}
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
            title, gloss = f"Accuracy on {_with_role(task, runs)}", "Share of right answers, with 95 % interval."
            yield curves(_slug("accuracy", task), title, gloss, lines, percent=True)


def _length(runs: Runs) -> Iterator[Figure]:
    lines = []
    for run in runs:
        values = _column(run.history, "completion_length")
        if values is not None:
            ends = (run.history.metrics.get(f"completion_length_{end}") for end in ("min", "max"))
            lines.append(_line(run, run.history.steps, values, *(ends if len(runs) == 1 else ())))
    if lines:
        title, gloss = "Tokens per sampled completion", "How long completions are in training, averaged over a step"
        gloss += "; shaded from the shortest to the longest." if len(runs) == 1 else "."
        yield curves("length-training", title, gloss, lines, smooth=True)
    for task in _tasks(runs):
        lines = []
        for run in runs:
            evaluations = sorted(run.history.evaluations.get(task, {}).items())
            found = ((step, row.get("completion_length")) for step, row in evaluations)
            if lengths := {step: length for step, length in found if is_number(length)}:
                lines.append(_line(run, lengths, list(lengths.values())))
        if lines:
            title = f"Tokens per completion on {_with_role(task, runs)}"
            yield curves(_slug("length", task), title, "How long completions of evaluations are.", lines)


def _annotators(runs: Runs) -> Iterator[Figure]:
    named = [replace(run, name=f"{run.annotator}: {run.name}") for run in runs]
    for figure in (*itertools.islice(_accuracy(named), 1), *_length(named)):
        yield replace(figure, key=f"annotator-{figure.key}")
        if figure.key == "length-training":
            return


def terms(runs: Runs) -> list[str]:
    """Lists the reward and its terms, of all runs."""
    return list(dict.fromkeys(["reward", *itertools.chain(*(run.rewards for run in runs))]))


def _reward(runs: Runs) -> Iterator[Figure]:
    """Draws the reward and its terms; where each run has the same single term, the two are one figure."""
    names = terms(runs)
    logged = [run.history.metrics for run in runs]
    both = [(metrics["reward"], metrics[names[-1]]) for metrics in logged if {"reward", names[-1]} <= set(metrics)]
    same = all(np.allclose(reward, term, atol=1e-4, equal_nan=True) for reward, term in both)
    rewarded = all(run.history.recipe.get("rounds") is None for run in runs)  # where they are, rewards only measure
    if same and rewarded and len(names) == 2 and all(run.rewards == names[1:] for run in runs):
        for figure in itertools.islice(itertools.chain(*(_measure(runs, name) for name in names)), 1):
            title, _, gloss = MEASURES.get(names[-1], (label(names[-1]), False, figure.gloss))
            yield replace(figure, title=f"Reward = {title[0].lower()}{title[1:]}", gloss=gloss)
        return
    for name in names:
        yield from _measure(runs, name)


def _training(runs: Runs) -> Iterator[Figure]:
    shown, columns = terms(runs), set(itertools.chain(*(run.history.metrics for run in runs)))
    for name in MEASURES:
        if name not in shown:
            yield from _measure(runs, name)
    others = sorted(columns - set(MEASURES) - PARTS - set(shown))
    drawn = itertools.chain(*(_measure(runs, name) for name in others))
    yield from itertools.islice((figure for figure in drawn if any(x.values.any() for x in figure.lines)), MOST_OTHERS)


def _measure(runs: Runs, name: str) -> Iterator[Figure]:
    """Draws a logged column, where a run has it."""
    values = [(run, column) for run in runs if (column := _column(run.history, name)) is not None]
    if values:
        title, share, gloss = MEASURES.get(name, (label(name), False, _gloss(runs, name)))
        lines = [_line(run, run.history.steps, column) for run, column in values]
        yield curves(_slug("training", name), title, gloss, lines, share, smooth=True)


def _gloss(runs: Runs, name: str) -> str:
    for suffix, gloss in TERM_COLUMNS.items():
        if name.removesuffix(suffix) in terms(runs) and name.endswith(suffix):
            return gloss
    return "The run logged this number under its own name."


def _answers(runs: Runs) -> Iterator[Figure]:
    for run in runs:
        history, several = run.history, f" ({run.name})" if len(runs) > 1 else ""
        sources = [
            (
                _slug("answers", task, run.number),
                f"Answers on {_with_role(task, [run])}",
                "Completions of an evaluation by type; reasoning is ten words or more before the answer.",
                sorted(history.evaluations[task]),
                partial(history.records, task=task, limit=MOST_RECORDS),
            )
            for task in _tasks([run])[:MOST_PER_RUN]
        ]
        kept = (list(history.completions), partial(history.read_completions, limit=64))
        gloss = "The first kept completions of a step by type; reasoning is ten words or more before the answer."
        sources.append((_slug("answers", "training", run.number), "Answers in training, sampled", gloss, *kept))
        for key, title, gloss, steps, read in sources:
            counts = {step: analysis.answer_types(read(step)) for step in analysis.spread(steps, MOST_EVALUATIONS)}
            if any(sum(kinds.values()) for kinds in counts.values()):
                yield stacks(key, title + several, gloss, counts)


def _separation(runs: Runs) -> Iterator[Figure]:
    for run in runs:
        several = f" ({run.name})" if len(runs) > 1 else ""
        for task in _tasks([run])[:MOST_PER_RUN]:
            if evaluations := run.graded.get(task):
                title = f"Completions on {label(task)} by self-certainty, nats{several}"
                gloss = "Completions by their confidence: the further apart the colours, the better confidence tells."
                yield histograms(_slug("separation", task, run.number), title, gloss, evaluations)


def _calibration(runs: Runs) -> Iterator[Figure]:
    for task in _tasks(runs):
        parts = []
        for run in runs:
            several = f"{run.name}, " if len(runs) > 1 else ""
            for evaluation in run.graded.get(task, []):
                if evaluation.calibration is not None:
                    name = f"{several}step {evaluation.step}"
                    parts.append((name, run.number, evaluation.step, evaluation.calibration))
        if parts:
            title = f"Accuracy on {label(task)} by tenth of confidence"
            gloss = "Share of right answers from the least to the most sure tenth; flat where confidence says nothing."
            yield calibrations(_slug("calibration", task), title, gloss, parts)


SECTIONS = (  # key, title, what it needs, how its figures are chosen
    ("reward", "The reward and its terms", "logged steps", _reward),
    (
        "accuracy", "Accuracy over checkpoints",
        "evaluations of graded problems (evaluate.tasks in the recipe)", _accuracy,
    ),
    ("length", "Completion length", "logged steps or evaluations", _length),
    ("annotator", "Online against offline annotator", "logged steps or evaluations", _annotators),
    ("training", "Training, other measures", "logged steps", _training),
    ("answers", "Types of answers", "records of evaluations, or kept completions", _answers),
    (
        "separation", "Is confidence higher where the answer is right?",
        "records of evaluations with right and with wrong answers", _separation,
    ),
    ("calibration", "Does confidence predict correctness?", "graded records of evaluations", _calibration),
)  # fmt: skip
