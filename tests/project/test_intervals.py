"""Intervals: never outside of what can be, never narrower than the values allow."""

from __future__ import annotations

import pytest
from scipy import stats

from rlif.intervals import Interval, clustered_mean, error_interval, proportion, t_interval


@pytest.mark.parametrize("n", [1, 2, 3, 10, 500])
def test_a_share_stays_between_0_and_1(n):
    for successes in {0, 1, n // 2, n}:
        found = proportion(successes, n)
        assert 0 <= found.low <= found.mean <= found.high <= 1 and found.low < found.high


def test_equal_values_prove_nothing():
    assert t_interval([0.0, 0.0]) == Interval(2, 0.0)
    assert t_interval([0.3]) == Interval(1, 0.3) and t_interval([]) == Interval(0)
    assert t_interval([0.0, 0.0]).percent("+") == "+0.0"
    assert error_interval(5, 50.0, 0.0) == Interval(5, 50.0) == error_interval(5, 50.0, None)


def test_a_few_values_have_students_interval():
    values = [0.1, 0.4, 0.2]
    low, high = stats.t.interval(0.95, 2, loc=0.7 / 3, scale=stats.sem(values))
    assert (t_interval(values).low, t_interval(values).high) == pytest.approx((low, high))
    known = error_interval(3, 0.7 / 3, float(stats.sem(values)))
    assert (known.low, known.high) == pytest.approx((low, high))


def test_clusters_that_all_agree_have_wilsons_interval():
    """Samples of four problems, all right: four observations, not a certainty."""
    found = clustered_mean([1.0] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    whole = proportion(4, 4)
    assert found == Interval(8, 1.0, whole.low, whole.high, clusters=4)
    nearly = clustered_mean([1.0, 1.0, 1.0, 0.0], [0, 1, 2, 2])
    assert nearly.high == 1.0 and 0 < nearly.low < nearly.mean


def test_what_is_written_is_read_again():
    for found in (proportion(3, 4), t_interval([0.5, 0.25]), Interval(1, 0.5)):
        assert Interval.read(found.as_dict()) == found
    assert Interval.read({"n": 0, "mean": None}) is None and Interval.read("0.5") is None
    assert Interval.read({"n": 3, "mean": True}) is None


def test_one_is_below_another_only_where_bounds_are_known():
    assert proportion(1, 50).is_below(proportion(49, 50))
    assert not Interval(1, 0.1).is_below(proportion(49, 50))
