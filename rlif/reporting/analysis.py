"""Computes numbers from a run: whether confidence separates right from wrong, or predicts it, and whether it collapsed.

separation, with N = n_right + n_wrong completions. U of Mann and Whitney counts the pairs in which the right completion
is surer than the wrong one; ties count half.

    AUROC = U / (n_right n_wrong)
    Z     = (U - n_right n_wrong / 2) / sd(U), corrected for ties
    r     = Z / sqrt(N)                         the effect size of arXiv 2505.19590, Fig. 8
    rank-biserial correlation = 2 AUROC - 1     the other quantity that is called r; it does not depend on N
    p     = chance of a U this large if right and wrong were equally sure: one-sided, continuity correction

The paper does not define its r and p. Its four U, n and accuracies give its r and p to the last digit under these
definitions, and under no two-sided test (tests/reporting/test_analysis.py).

calibration. Self-certainty is in nats, not a probability, so completions are compared by rank. u in [0, 1] is the
mid-rank of a completion's confidence. The slope of right on u by least squares is the accuracy gained from the least
to the most sure: 0 if confidence predicts nothing, at most 1.5 (half right, perfectly ordered). The bins are tenths of
the same order with their accuracy.

collapse. Under both rules, the run must not recover before its end.

    accuracy     below the best so far by a fifth of it and by half of what had been gained, with 95 % intervals apart
    label-free   a sign of the guard about the completions themselves (truncated, shorter, loops, answers lost or all
                 equal, going on, not about the problem), or a reward that is not a number, raised and not cleared

The limits are the guard's, see `rlif.guard.monitor`. Its other signs, KL above all, are reasons to stop a run, but
they are not collapse. The label-free rule misses wrong content in completions of the usual length and form; two of
three seeds of `demo-collapse` end so. Collapse marks figures; it stops nothing.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
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
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")  # each character of a script without spaces


@dataclass(frozen=True)
class Separation:
    """Holds how well confidence separates right from wrong completions, as the module defines it."""

    n_right: int
    n_wrong: int
    u: float
    p: float
    r: float
    auroc: float


def separation(certainty: Sequence[float], right: Sequence[bool]) -> Separation | None:
    """Tests by Mann and Whitney's U whether right completions are surer than wrong ones; None for one kind alone.

    Example:
        >>> separation([3.0, 2.0, 1.0], [True, True, False]).auroc
        1.0
    """
    from scipy.stats import mannwhitneyu, rankdata, tiecorrect

    values, verdicts = np.asarray(certainty, float), np.asarray(right, bool)
    sure, unsure = values[verdicts], values[~verdicts]
    n, pairs = len(values), len(sure) * len(unsure)
    if not pairs:
        return None
    ties = float(tiecorrect(rankdata(values)))
    if not ties:
        return Separation(len(sure), len(unsure), u=pairs / 2, p=1.0, r=0.0, auroc=0.5)
    test = mannwhitneyu(sure, unsure, alternative="greater")  # exact for small groups without ties
    u = float(test.statistic)
    z = (u - pairs / 2) / math.sqrt(ties * pairs * (n + 1) / 12)
    return Separation(len(sure), len(unsure), u, float(test.pvalue), z / math.sqrt(n), u / pairs)


@dataclass(frozen=True)
class Bin:
    """Holds completions of neighbouring confidence: the least and the most sure, and how many are right."""

    low: float
    high: float
    n: int
    right: int

    @property
    def accuracy(self) -> float:
        return self.right / self.n


@dataclass(frozen=True)
class Calibration:
    """Holds how well confidence predicts correctness: the slope of accuracy by rank, and the bins."""

    slope: float
    bins: list[Bin]


def calibration(certainty: Sequence[float], right: Sequence[bool], bins: int = 10) -> Calibration | None:
    """Computes correctness by rank of confidence; None for fewer than two different values.

    Example:
        >>> calibration([1.0, 2.0, 3.0, 4.0], [False, False, True, True], bins=2).bins[1].accuracy
        1.0
    """
    from scipy.stats import rankdata

    values, verdicts = np.asarray(certainty, float), np.asarray(right, bool)
    if len(np.unique(values)) < 2:
        return None
    ranks = (rankdata(values) - 0.5) / len(values)
    slope = float(np.cov(ranks, verdicts)[0, 1] / np.var(ranks, ddof=1))
    parts = np.array_split(np.argsort(values, kind="stable"), min(bins, len(values)))
    found = [
        Bin(float(values[part[0]]), float(values[part[-1]]), len(part), int(verdicts[part].sum())) for part in parts
    ]
    return Calibration(slope, found)


@dataclass(frozen=True)
class Graded:
    """Holds confidence and correctness of the completions of an evaluation, where both are known."""

    step: int
    certainty: list[float]
    right: list[bool]

    @cached_property
    def separation(self) -> Separation | None:
        return separation(self.certainty, self.right)

    @cached_property
    def calibration(self) -> Calibration | None:
        return calibration(self.certainty, self.right)


def graded(step: int, records: Iterable[Mapping[str, Any]]) -> Graded:
    """Selects the records of an evaluation that have a verdict and a self-certainty."""
    chosen = [row for row in records if isinstance(row.get("right"), bool) and is_number(row.get("self_certainty"))]
    return Graded(step, [float(row["self_certainty"]) for row in chosen], [row["right"] for row in chosen])


def answer_type(completion: str, answer: str | None) -> str:
    r"""Classifies a completion as one of `ANSWER_TYPES`.

    It has no answer where the task extracted none. It is reasoning where at least REASONING_WORDS words stand before
    the answer: before its box, or else before the last place where it is spelled.

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
    """Counts the records of each type; those without a text are left out."""
    counts = Counter(
        answer_type(row["completion"], None if row.get("answer") is None else str(row["answer"]))
        for row in records
        if isinstance(row.get("completion"), str)
    )
    return {kind: counts[kind] for kind in ANSWER_TYPES}


def accuracies(evaluations: Mapping[int, Mapping[str, Any]]) -> dict[int, Interval]:
    """Returns accuracy by step, in order, of the steps that were graded."""
    rows = sorted(evaluations.items())
    return {step: share for step, row in rows if (share := Interval.read(row.get("accuracy")))}


def early_learning(shares: Mapping[int, Interval], step: int = 10) -> dict[str, tuple[int, Interval]]:
    """Selects from `accuracies` the start, an early step and the end; early is nearest to `step`, after the start."""
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
    """Holds from which step on a run is no longer healthy, and by what sign."""

    step: int
    sign: str


def accuracy_collapse(shares: Mapping[int, Interval]) -> Collapse | None:
    """Finds the first step after the best from which on accuracy is lost until the end; see the module."""
    if not shares:
        return None
    steps = list(shares)
    best_step = max(steps, key=lambda step: shares[step].mean)
    start, best = shares[steps[0]], shares[best_step]
    limit = best.mean - max(best.mean / 5, (best.mean - start.mean) / 2)
    later = reversed(steps[steps.index(best_step) + 1 :])
    lost = list(takewhile(lambda step: shares[step].mean <= limit and shares[step].is_below(best), later))
    return Collapse(lost[-1], f"accuracy below {limit:.0%}, from {best.mean:.0%} at its best") if lost else None


def label_free_collapse(metrics: Mapping[str, np.ndarray]) -> Collapse | None:
    """Finds the step from which on a sign without gold answers holds until the end; see the module."""
    read = {SIGNS[sign].metric for sign in COMPLETION_SIGNS} | {"reward"}
    columns = {name: metrics[name] for name in read & set(metrics) if not np.isnan(metrics[name]).all()}
    rows = [
        {"step": int(step)}
        | {n: float(column[i]) for n, column in columns.items() if n == "reward" or np.isfinite(column[i])}
        for i, step in enumerate(metrics.get("step", ()))
    ]
    held = [alarm for alarm in uncleared_alarms(Guard(), rows) if alarm.sign in (*COMPLETION_SIGNS, "non_finite")]
    first = min(held, key=lambda alarm: alarm.since, default=None)
    return None if first is None else Collapse(first.since, first.seen)


def drift(values: np.ndarray) -> tuple[float, float]:
    """Averages the first and the last steps that have a number: a tenth of them, at least one, at most 20."""
    finite = values[~np.isnan(values)]
    if not len(finite):
        return math.nan, math.nan
    window = min(20, max(1, len(finite) // 10))
    return float(finite[:window].mean()), float(finite[-window:].mean())


def tokens_per_second(metrics: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Computes tokens through the model per second of a step, prompts included; NaN where a resumed count begins."""
    if not {"step", "tokens", "step_seconds"} <= set(metrics):
        return None
    steps, tokens = np.diff(metrics["step"], prepend=0), np.diff(metrics["tokens"], prepend=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = tokens / (metrics["step_seconds"] * steps)
    return np.where(np.isfinite(rate) & (rate >= 0), rate, np.nan)


def spread(steps: Sequence[int], most: int) -> list[int]:
    """Selects at most `most` steps, evenly spaced, first and last included."""
    places = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))
    return [steps[place] for place in places]
