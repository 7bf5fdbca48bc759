"""Computes numbers from a run: does confidence separate right from wrong, does it predict it, has the run collapsed.

separation, with N = n_right + n_wrong completions and U of Mann and Whitney, how often a right one is surer than a
wrong one, ties counting half:

    AUROC = U / (n_right n_wrong)
    Z     = (U - n_right n_wrong / 2) / sd(U), corrected for ties
    r     = Z / sqrt(N)                         the effect size of arXiv 2505.19590, Fig. 8
    rank-biserial correlation = 2 AUROC - 1     the other quantity that is called r; it does not depend on N
    p     = chance of a U this large if right and wrong were equally sure: one-sided, continuity correction

The paper does not say which r and which p it prints; its four U, n and accuracies give its r and p to the last digit
under these definitions, and under no two-sided test (tests/reporting/test_analysis.py).

calibration: self-certainty is in nats and no probability, so it is compared by rank. Completions are put in order of
confidence, u in [0, 1] is the mid-rank, and the slope of right on u by least squares is the accuracy gained from the
least to the most sure: 0 if confidence says nothing, at most 1.5 (half right, perfectly ordered). The bins are tenths
of the same order with their accuracy.

collapse: two rules, both of the form "and it did not come back until the end".

    accuracy     below the best so far by a fifth of it and by half of what had been gained, with 95 % intervals apart
    label-free   a sign of the guard that is about completions themselves (truncated, shorter, loops, answers lost or
                 all alike, going on, not about the problem) or a reward that is no number, raised and not cleared

The limits are the guard's, see `rlif.guard.monitor`. Its other signs, KL above all, are reasons to stop a run and no
collapse. What the label-free rule does not see: completions of the usual length and form with wrong content, which
is how two of three seeds of `demo-collapse` end. It marks figures; it stops nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlif.files.atomic import is_number
from rlif.guard.limits import Guard
from rlif.guard.monitor import uncleared_alarms
from rlif.guard.signs import SIGNS
from rlif.intervals import Interval

COMPLETION_SIGNS = (
    "truncated", "shorter", "repetition", "compression", "goes_on", "unanswered", "same_answer", "prompt_use"
)  # fmt: skip
REASONING_WORDS = 10  # before the answer
ANSWER_TYPES = ("no answer", "answer without reasoning", "reasoning")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")  # a sign of a script without spaces is a word


@dataclass(frozen=True)
class Separation:
    """How well confidence separates right from wrong completions; see the module for the definitions."""

    n_right: int
    n_wrong: int
    u: float
    p: float
    r: float
    auroc: float

    @property
    def rank_biserial(self) -> float:
        return 2 * self.auroc - 1


def separation(certainty: Sequence[float], right: Sequence[bool]) -> Separation | None:
    """Mann and Whitney's test that right completions are surer than wrong ones.

    Args:
        certainty: one number per completion, larger = more sure, finite.
        right: whether it is right.

    Returns:
        None where there are no right or no wrong completions to compare.

    Example:
        >>> separation([3.0, 2.0, 1.0], [True, True, False]).auroc
        1.0
    """
    from scipy.stats import mannwhitneyu

    values, verdicts = np.asarray(certainty, float), np.asarray(right, bool)
    sure, unsure = values[verdicts], values[~verdicts]
    n, pairs = len(values), len(sure) * len(unsure)
    if not pairs:
        return None
    ties = np.unique(values, return_counts=True)[1].astype(float)
    if len(ties) == 1:
        return Separation(len(sure), len(unsure), u=pairs / 2, p=1.0, r=0.0, auroc=0.5)
    test = mannwhitneyu(sure, unsure, alternative="greater")  # exact for small groups without ties
    u = float(test.statistic)
    variance = pairs / 12 * ((n + 1) - float((ties**3 - ties).sum()) / (n * (n - 1)))
    z = (u - pairs / 2) / math.sqrt(variance)
    return Separation(len(sure), len(unsure), u, float(test.pvalue), z / math.sqrt(n), u / pairs)


@dataclass(frozen=True)
class Bin:
    """Completions of neighbouring confidence: from the least to the most sure of them, and how many are right."""

    low: float
    high: float
    n: int
    right: int

    @property
    def accuracy(self) -> float:
        return self.right / self.n


@dataclass(frozen=True)
class Calibration:
    """Does confidence predict correctness: the accuracy gained from least to most sure, and the bins behind it."""

    n: int
    slope: float
    bins: list[Bin]


def calibration(certainty: Sequence[float], right: Sequence[bool], bins: int = 10) -> Calibration | None:
    """Correctness by rank of confidence.

    Returns:
        None for fewer than two different values. Bins hold equally many completions, up to one.

    Example:
        >>> calibration([1.0, 2.0, 3.0, 4.0], [False, False, True, True], bins=2).bins[1].accuracy
        1.0
    """
    from scipy.stats import rankdata

    values, verdicts = np.asarray(certainty, float), np.asarray(right, bool)
    if len(np.unique(values)) < 2:
        return None
    ranks = (rankdata(values) - 0.5) / len(values)
    centred = ranks - ranks.mean()
    slope = float((centred * (verdicts - verdicts.mean())).sum() / (centred**2).sum())
    order = np.argsort(values, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(values))) if len(part)]
    found = [
        Bin(float(values[part[0]]), float(values[part[-1]]), len(part), int(verdicts[part].sum())) for part in parts
    ]
    return Calibration(len(values), slope, found)


def graded(records: Iterable[Mapping[str, Any]], signal: str = "self_certainty") -> tuple[list[float], list[bool]]:
    """Confidence and verdict of the records that have both."""
    pairs = [
        (float(row[signal]), row["right"])
        for row in records
        if isinstance(row.get("right"), bool) and is_number(row.get(signal))
    ]
    return [value for value, _ in pairs], [verdict for _, verdict in pairs]


def answer_type(completion: str, answer: str | None) -> str:
    r"""One of `ANSWER_TYPES`.

    No answer: the task extracted none. Otherwise the words before the answer - before its box, or else before the last
    place where it is spelled - decide: from REASONING_WORDS on it is reasoning (and then an answer).

    Example:
        >>> answer_type("The answer is \boxed{4}.", "4")
        'answer without reasoning'
    """
    if answer is None:
        return ANSWER_TYPES[0]
    place = max(completion.rfind("\\boxed"), completion.rfind("\\fbox"))
    if place < 0 and answer.strip():
        place = completion.rfind(answer.strip())
    before = completion if place < 0 else completion[:place]
    words = sum(1 for _ in zip(WORD.finditer(before), range(REASONING_WORDS), strict=False))
    return ANSWER_TYPES[1 + (words >= REASONING_WORDS)]


def answer_types(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many of the records are of each type; those without a text are left out."""
    counts = Counter(
        answer_type(row["completion"], None if row.get("answer") is None else str(row["answer"]))
        for row in records
        if isinstance(row.get("completion"), str)
    )
    return {kind: counts[kind] for kind in ANSWER_TYPES}


def accuracy(summary: Mapping[str, Any]) -> Interval | None:
    """The accuracy of an evaluation; None where nothing was graded."""
    return Interval.read(summary.get("accuracy"))


def accuracies(evaluations: Mapping[int, Mapping[str, Any]]) -> dict[int, Interval]:
    """Accuracy by step, in order, of the steps that were graded."""
    found = {step: accuracy(evaluations[step]) for step in sorted(evaluations)}
    return {step: share for step, share in found.items() if share is not None}


def early_learning(evaluations: Mapping[int, Mapping[str, Any]], step: int = 10) -> dict[str, tuple[int, Interval]]:
    """Accuracy at the start, early (at the evaluated step nearest to `step`, after the start) and at the end."""
    shares = accuracies(evaluations)
    if not shares:
        return {}
    first, *later = shares
    found = {"start": (first, shares[first])}
    if later:
        early = min(later, key=lambda at: (abs(at - step), at))
        found |= {"early": (early, shares[early]), "end": (later[-1], shares[later[-1]])}
    return found


@dataclass(frozen=True)
class Collapse:
    """From which step on the run is no longer healthy, and by what sign."""

    step: int
    sign: str


def accuracy_collapse(evaluations: Mapping[int, Mapping[str, Any]]) -> Collapse | None:
    """The first evaluation after the best from which on accuracy is lost until the end (see the module)."""
    shares = accuracies(evaluations)
    if not shares:
        return None
    steps = list(shares)
    start, best = shares[steps[0]], max(shares.values(), key=lambda share: share.mean)
    best_step = next(step for step in steps if shares[step].mean == best.mean)
    limit = best.mean - max(best.mean / 5, (best.mean - start.mean) / 2)
    fallen: int | None = None
    for step in reversed([step for step in steps if step > best_step]):
        if not (shares[step].mean <= limit and shares[step].is_below(best)):
            break
        fallen = step
    return None if fallen is None else Collapse(fallen, f"accuracy below {limit:.0%}, from {best.mean:.0%} at its best")


def label_free_collapse(metrics: Mapping[str, np.ndarray]) -> Collapse | None:
    """The step from which on a sign that needs no gold answers holds until the end (see the module)."""
    columns = {name: values for name, values in metrics.items() if not np.isnan(values).all()}
    read = {SIGNS[sign].of for sign in COMPLETION_SIGNS} & set(columns)
    rows = []
    for i, step in enumerate(columns.get("step", ())):
        row = {name: float(columns[name][i]) for name in read if np.isfinite(columns[name][i])}
        rows.append(row | {"step": int(step)} | {name: float(columns[name][i]) for name in {"reward"} & set(columns)})
    held = [alarm for alarm in uncleared_alarms(Guard(), rows) if alarm.sign in (*COMPLETION_SIGNS, "non_finite")]
    first = min(held, key=lambda alarm: alarm.since, default=None)
    return None if first is None else Collapse(first.since, first.seen)


def drift(values: np.ndarray) -> tuple[float, float]:
    """Mean over the first and the last steps that have a number: a tenth of all, at least one, at most 20."""
    finite = values[~np.isnan(values)]
    if not len(finite):
        return math.nan, math.nan
    window = min(20, max(1, len(finite) // 10))
    return float(finite[:window].mean()), float(finite[-window:].mean())


def tokens_per_second(metrics: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Tokens through the model per second of a step, prompts included: the growth of `tokens` over `step_seconds`.

    NaN for the first logged step of a resumed count, where there is no growth to see.
    """
    if not {"step", "tokens", "step_seconds"} <= set(metrics):
        return None
    steps, tokens = np.diff(metrics["step"], prepend=0), np.diff(metrics["tokens"], prepend=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = tokens / (metrics["step_seconds"] * steps)
    return np.where(np.isfinite(rate) & (rate >= 0), rate, np.nan)
