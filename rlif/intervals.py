"""Intervals and tests for scores: a number never travels alone.

proportion      a share of independent items, Wilson's 95 % interval
clustered_mean  a mean where items repeat: t interval over the clusters' means, so that 8 samples of one problem
count as one observation of that problem
paired          two models on the same problems: mean difference with its t interval, and the exact sign test on the
problems where they differ (McNemar's, where each problem has one verdict)
t_interval      the mean of a few values, one per seed or per problem
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Interval = dict[str, float | int | None]


def proportion(successes: int, n: int) -> Interval:
    """A share of n independent items as {n, mean, low, high}, with Wilson's 95 % interval.

    Example:
        >>> proportion(8, 10)
        {'n': 10, 'mean': 0.8, 'low': 0.4901..., 'high': 0.9433...}
    """
    if n == 0:
        return {"n": 0, "mean": None, "low": None, "high": None}
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return {"n": n, "mean": successes / n, "low": float(interval.low), "high": float(interval.high)}


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """The mean of values, each cluster weighing the same, as {n, clusters, mean, low, high}.

    Args:
        values: one per item.
        clusters: which one an item belongs to, e.g. its problem's id.

    Returns:
        The 95 % interval is Student's over the clusters' means; None with fewer than two clusters.
    """
    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    means = [float(np.mean(group)) for group in groups.values()]
    return {"n": len(values), "clusters": len(means), **t_interval(means)}


def paired(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, Any]:
    """Two models on the problems that both have a score for.

    Args:
        first: score by problem id, e.g. the share of its samples that are right.
        second: the same of the other model.

    Returns:
        `problems` in common; `difference`, second minus first, as {mean, low, high}; `better` and `worse`, the problems
        on which the second does; `p` of the exact two-sided sign test on these.
    """
    shared = sorted(set(first) & set(second))
    differences = [second[key] - first[key] for key in shared]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    return {
        "problems": len(shared),
        "difference": t_interval(differences),
        "better": better,
        "worse": worse,
        "p": float(p),
    }


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of values as {mean, low, high}, with Student's 95 % interval; None below two values.

    Example:
        >>> t_interval([0.8, 0.9, 0.85])
        {'mean': 0.85..., 'low': 0.7257..., 'high': 0.9742...}
    """
    if not values:
        return {"mean": None, "low": None, "high": None}
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half}
