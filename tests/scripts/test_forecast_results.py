"""Tests the comparison of forecasts with outcomes, and that its kept results give their page again."""

import json
import random

import pytest
from support.scripts import ROOT, load

results = load("scripts/forecast_results.py")


def row(id: str, answer: str | None, right: bool, certainty: float, tokens: int) -> dict:
    columns = dict.fromkeys(results.REWARDS, certainty)
    return columns | {"id": id, "answer": answer, "right": right, "tokens": tokens}


def test_forecasts_by_hand():
    """Of four samples the two that agree are wrong, sure and short; the right one is surer than the last alone."""
    rows = [row("a", "4", False, 3.0, 5), row("a", "4", False, 2.5, 6), row("a", "5", True, 2.0, 9)]
    rows += [row("a", None, False, 1.0, 9)]
    found = results.digest(rows)
    assert (found["pull"]["self_certainty"]["mean"], found["auroc"]["self_certainty"]["mean"]) == (1, 1 / 3)
    assert found["pull"]["length"]["mean"] == 0 and found["auroc"]["length"]["mean"] == pytest.approx(2.5 / 3)
    assert found["auroc"]["shortness"]["mean"] == pytest.approx(0.5 / 3)
    assert found["pull"]["plurality_vote"] is None, "votes agree with themselves"
    assert found["auroc"]["plurality_vote"]["mean"] == pytest.approx(0.5 / 3)  # the one without an answer has none
    shares = [each["self_consistency"] for each in results.with_rewards(rows, random.Random(0))]
    assert shares == [0.5, 0.5, 0.25, 0]


@pytest.mark.parametrize(
    ("low", "high", "side"), [(0.6, 0.9, "up"), (0.1, 0.4, "down"), (0.4, 0.7, "unclear"), (None, None, "up")]
)
def test_an_interval_is_read_by_the_side_of_the_middle_that_it_is_on(low, high, side):
    found = {"n": 3, "mean": 0.7 if low is None else (low + high) / 2, "low": low, "high": high}
    assert results.side(found) == side
    assert results.side({"n": 1, "mean": 0.9, "low": None, "high": None}) == "unclear", "one value says little"
    assert results.side(None) == ""


def test_the_kept_forecasts_give_their_page_and_figure_again(tmp_path):
    found = json.loads((ROOT / "results/forecast.json").read_text(encoding="utf-8"))
    points = results.all_points(ROOT / "results", found)
    assert {point["base"] for point in points} <= {*found} and len({point["base"] for point in points}) == 8
    assert results.page(points) == (ROOT / "results/forecast.md").read_text(encoding="utf-8")
    results.figure(points, tmp_path / "forecast.png")
    assert (tmp_path / "forecast.png").stat().st_size > 10_000
