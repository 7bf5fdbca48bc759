"""Means with their 95 % intervals, and a paired test of two models.

    proportion       a share of independent items: Wilson's interval
    clustered_mean   a mean of items that repeat, e.g. 8 samples of one problem: Student's t over the clusters' means
    t_interval       a mean of a few values, one per seed, problem or group: Student's t
    error_interval   a mean whose standard error is known, e.g. by bootstrap: Student's t with n - 1
    paired           two models on the same problems: mean difference, and the exact sign test on the problems where
                     they differ (McNemar's, where each problem has one verdict)

An interval is unknown (None) where the values cannot give one: fewer than two, or all equal. Equal values have no
spread to estimate from, and say nothing about the next one. Bounds never leave the range of what is measured.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """Holds a mean with its 95 % interval."""

    n: int  # observations
    mean: float = math.nan  # NaN without any
    low: float | None = None  # the bounds are None where they are unknown
    high: float | None = None
    clusters: int | None = None  # independent ones among observations that repeat; None where these do not

    def as_dict(self) -> dict[str, Any]:
        """Returns the layout of run folders and results: {n, mean, low, high}, and `clusters` where items repeat."""
        found = asdict(self) | {"mean": None if math.isnan(self.mean) else self.mean}
        return {key: value for key, value in found.items() if key != "clusters" or value is not None}

    @classmethod
    def read(cls, found: Any) -> Interval | None:
        """Reads an interval of that layout; None if it has no mean."""
        if not isinstance(found, Mapping):
            return None
        n, mean, low, high = (_number(found.get(key)) for key in ("n", "mean", "low", "high"))
        return None if mean is None or n is None or n < 1 else cls(int(n), mean, low, high, found.get("clusters"))

    def is_below(self, other: Interval) -> bool:
        """Tells whether all of this interval is below all of the other; False where a bound is unknown."""
        return self.high is not None and other.low is not None and self.high < other.low

    def within(self, least: float, most: float) -> Interval:
        """Returns the same with bounds cut off where no value can be."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(least, self.low), high=min(most, self.high))

    def percent(self, sign: str = "") -> str:
        """Formats mean and bounds times 100, e.g. `92.2 [88.2, 94.9]`; `sign` is "+" for differences."""
        return "-" if math.isnan(self.mean) else f"{100 * self.mean:{sign}.1f}{self._bounds(sign)}"

    def __str__(self) -> str:
        return "-" if math.isnan(self.mean) else f"{self.mean:.1%}{self._bounds()}"

    def _bounds(self, sign: str = "") -> str:
        if self.low is None or self.high is None:
            return ""
        return f" [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if known else None


def proportion(successes: int, n: int) -> Interval:
    """Computes the share of successes among n independent items, with Wilson's interval.

    Example:
        >>> proportion(8, 10)
        Interval(n=10, mean=0.8, low=0.4901..., high=0.9433..., clusters=None)
    """
    if n == 0:
        return Interval(0)
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return Interval(n, successes / n, float(interval.low), float(interval.high))


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """Computes the mean of shares from 0 to 1, each cluster weighing the same.

    Args:
        clusters: which one an item belongs to, e.g. its problem's id.

    Returns:
        Student's interval over the clusters' means, within 0 and 1; Wilson's where all clusters are 0, or all are 1.
    """
    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    means = [float(np.mean(group)) for group in groups.values()]
    certain = len(means) > 1 and set(means) in ({0.0}, {1.0})
    found = proportion(round(sum(means)), len(means)) if certain else t_interval(means).within(0, 1)
    return replace(found, n=len(values), clusters=len(means))


def t_interval(values: Sequence[float]) -> Interval:
    """Computes the mean of values with Student's interval, n - 1 degrees of freedom.

    Example:
        >>> t_interval([0.8, 0.9, 0.85])
        Interval(n=3, mean=0.85..., low=0.7257..., high=0.9742..., clusters=None)
        >>> t_interval([0.8, 0.8])
        Interval(n=2, mean=0.8, low=None, high=None, clusters=None)
    """
    if not values:
        return Interval(0)
    n, mean = len(values), float(np.mean(values))
    if min(values) == max(values):
        return Interval(n, mean)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(n, mean, mean - half, mean + half)


def error_interval(n: int, mean: float, error: float | None) -> Interval:
    """Computes Student's interval from a mean of n values and its standard error; unknown where that is None or 0."""
    if not error or n < 2:
        return Interval(n, mean)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return Interval(n, mean, mean - half, mean + half)


@dataclass(frozen=True)
class Comparison:
    """Holds the paired comparison of two models."""

    problems: int  # in common
    difference: Interval  # mean of the second model's scores minus the first's
    better: int  # problems on which the second model is better, or worse
    worse: int
    p: float  # of the exact two-sided sign test on these


def paired(first: Mapping[str, float], second: Mapping[str, float]) -> Comparison:
    """Compares two models on the problems that both have a score for.

    Args:
        first: score by problem id, e.g. the share of its samples that are right.
    """
    differences = [second[key] - first[key] for key in sorted(set(first) & set(second))]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Comparison(len(differences), t_interval(differences).within(-1, 1), better, worse, p)
