"""Tests intervals: they stay within what is possible, and are as wide as the values require."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlif.intervals import Interval, clustered_mean, error_interval, paired, proportion, t_interval


def is_empty(interval: Interval) -> bool:
    """Compares by the layout of files, because NaN does not equal itself."""
    return interval.as_dict() == {"n": 0, "mean": None, "low": None, "high": None}


@pytest.mark.parametrize("n", [1, 2, 3, 10, 500])
def test_a_share_stays_between_0_and_1(n):
    for successes in {0, 1, n // 2, n}:
        found = proportion(successes, n)
        assert 0 <= found.low <= found.mean <= found.high <= 1 and found.low < found.high


def test_equal_values_have_no_interval():
    assert t_interval([0.0, 0.0]) == Interval(2, 0.0)
    assert t_interval([0.3]) == Interval(1, 0.3) and is_empty(t_interval([]))
    assert t_interval([0.0, 0.0]).percent("+") == "+0.0"
    assert error_interval(5, 50.0, 0.0) == Interval(5, 50.0) == error_interval(5, 50.0, None)


def test_a_few_values_have_students_interval():
    values = [0.1, 0.4, 0.2]
    low, high = stats.t.interval(0.95, 2, loc=0.7 / 3, scale=stats.sem(values))
    assert (t_interval(values).low, t_interval(values).high) == pytest.approx((low, high))
    known = error_interval(3, 0.7 / 3, float(stats.sem(values)))
    assert (known.low, known.high) == pytest.approx((low, high))


def test_clusters_that_all_agree_have_wilsons_interval():
    """Eight right samples of four problems count as four observations."""
    found = clustered_mean([1.0] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    whole = proportion(4, 4)
    assert found == Interval(8, 1.0, whole.low, whole.high, clusters=4)
    nearly = clustered_mean([1.0, 1.0, 1.0, 0.0], [0, 1, 2, 2])
    assert nearly.high == 1.0 and 0 < nearly.low < nearly.mean


def test_written_intervals_are_read_back():
    for found in (proportion(3, 4), t_interval([0.5, 0.25]), Interval(1, 0.5), clustered_mean([0, 1, 1], "aab")):
        assert Interval.read(found.as_dict()) == found
    assert Interval.read({"n": 0, "mean": None}) is None and Interval.read("0.5") is None
    for mean in (True, math.inf, math.nan, 10**400):
        assert Interval.read({"n": 3, "mean": mean}) is None


def test_is_below_needs_known_bounds():
    assert proportion(1, 50).is_below(proportion(49, 50))
    assert not Interval(1, 0.1).is_below(proportion(49, 50))


def test_clustered_interval_is_students_over_problems():
    values, clusters = [1, 0, 1, 1, 0, 0], ["a", "a", "b", "b", "c", "c"]
    found = clustered_mean(values, clusters)
    expected = stats.ttest_1samp([0.5, 1.0, 0.0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == (0, 1)  # Student's interval, -0.74 to 1.74, is clipped to the range of a share
    assert expected.low < 0 and expected.high > 1
    assert clustered_mean([1.0], ["a"]).low is None


def test_repeating_items_does_not_narrow_the_interval():
    values = np.random.default_rng(0).integers(0, 2, 40).tolist()
    once, thrice = clustered_mean(values, range(40)), clustered_mean(values * 3, [*range(40)] * 3)
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))


def test_paired_comparison():
    first = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 0.5, "only here": 1.0}
    second = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}
    found = paired(first, second)
    assert (found.problems, found.better, found.worse) == (4, 2, 1)
    expected = stats.ttest_rel([1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.5]).confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((expected.low, min(1, expected.high)))
    assert found.p == pytest.approx(stats.binomtest(2, 3).pvalue)
    assert paired(first, first).p == 1.0 and is_empty(paired({}, {}).difference)


def test_wilsons_interval():
    """It equals the closed form."""
    z, k, n = 1.959963984540054, 9, 10
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    found = proportion(k, n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert is_empty(proportion(0, 0))
