"""Tests accuracy over N against enumeration, and its intervals."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
from scipy import stats

from rlif.errors import RlifError
from rlif.intervals import proportion
from rlif.selection.figure import draw
from rlif.selection.scaling import difference, early_stop_report, interval, markdown, scaling, sizes, subsets
from rlif.tasks import find_task


def samples(problems=12, n=8, seed=0):
    rng = random.Random(seed)
    rows = []
    for problem in range(problems):
        for sample in range(n):
            answer = rng.choice(["a", "b", "c", None])
            sure = rng.uniform(1, 3) + (answer == "a")
            rows.append({"id": f"p{problem}", "sample": sample, "answer": answer, "right": answer == "a"})
            rows[-1] |= {"self_certainty": sure, "likelihood": -1 / sure}
    return rows


def test_sizes_are_powers_of_two_and_all():
    assert sizes(1) == [1] and sizes(8) == [1, 2, 4, 8] and sizes(11) == [1, 2, 4, 8, 11]


def test_subsets_are_without_replacement_seeded_and_even():
    drawn = list(subsets(8, 4, 32))
    assert drawn == list(subsets(8, 4, 32)) != list(subsets(8, 4, 32, seed=1))
    assert len(drawn) == 32 and all(len(set(s)) == 4 and s == sorted(s) for s in drawn)
    counts = [sum(i in s for s in drawn) for i in range(8)]
    assert counts == [16] * 8
    assert list(subsets(8, 8)) == [list(range(8))] and list(subsets(3, 1)) == [[0], [1], [2]]
    assert len(list(subsets(7, 4, 5))) == 5


def test_the_ends_of_the_table_are_exact():
    rows = samples()
    table = scaling(rows)
    by_id = {f"p{i}": rows[8 * i : 8 * i + 8] for i in range(12)}
    mean = sum(row["right"] for row in rows) / len(rows)
    for rule in ("self_certainty", "borda", "plurality", "likelihood", "random", "mean@1", "pass@N"):
        assert table["accuracy"][rule][0]["mean"] == pytest.approx(mean), rule
    best = [max((r for r in group if r["answer"]), key=lambda r: r["self_certainty"]) for group in by_id.values()]
    assert table["accuracy"]["self_certainty"][-1] == proportion(sum(r["right"] for r in best), 12).as_dict()
    found = [any(r["right"] for r in group) for group in by_id.values()]
    assert table["accuracy"]["pass@N"][-1] == proportion(sum(found), 12).as_dict()
    assert {cell["mean"] for cell in table["accuracy"]["mean@1"]} == {table["accuracy"]["mean@1"][0]["mean"]}
    assert "deepconf_tail" not in table["accuracy"]  # no sample has its signal


def test_resampling_approximates_all_subsets():
    rows = samples(problems=3, n=6)
    table = scaling(rows, rules=["self_certainty"], resamples=2000)
    exact = []
    for group in (rows[i : i + 6] for i in range(0, 18, 6)):
        picks = []
        for some in itertools.combinations(group, 2):
            answered = [r for r in some if r["answer"]] or list(some)
            picks.append(max(answered, key=lambda r: r["self_certainty"])["right"])
        exact.append(sum(picks) / len(picks))
    assert table["accuracy"]["self_certainty"][1]["mean"] == pytest.approx(sum(exact) / 3, abs=0.01)


def test_pass_at_n_is_exact_over_all_subsets():
    rows = samples(problems=2, n=5)
    table = scaling(rows, rules=["plurality"])
    exact = [any(r["right"] for r in some) for g in (rows[:5], rows[5:]) for some in itertools.combinations(g, 2)]
    assert table["accuracy"]["pass@N"][1]["mean"] == pytest.approx(sum(exact) / len(exact))


def test_intervals_are_wilsons_or_students():
    assert interval([1, 0, 1.0]) == proportion(2, 3).as_dict()
    values = [0.25, 0.5, 1.0, 0.75, 0.5]
    found = interval(values)
    low, high = stats.t.interval(0.95, 4, loc=0.6, scale=stats.sem(values))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.6, low, high))
    assert interval([0.99, 1.0, 1.0])["high"] <= 1
    assert interval([0.5]) == {"n": 1, "mean": 0.5, "low": None, "high": None}
    assert difference([0.5], [1.0]) == {"n": 1, "mean": -0.5, "low": None, "high": None}
    paired = difference(values, [0.0, 0.5, 0.5, 0.5, 0.5])
    low, high = stats.ttest_rel(values, [0.0, 0.5, 0.5, 0.5, 0.5]).confidence_interval()
    assert (paired["low"], paired["high"]) == pytest.approx((low, high))


def test_plurality_is_not_compared_with_itself_and_the_table_is_plain_data():
    table = scaling(samples())
    assert "plurality" not in table["against"] and "borda" in table["against"]
    assert table["against"]["borda"][0]["mean"] == 0
    assert json.loads(json.dumps(table)) == table
    text = markdown(table)
    assert "| borda | " in text and text.count("N = 8") == 2 and "95 % interval over 12 problems" in text


def test_ungraded_problems_are_left_out_and_the_least_number_of_samples_counts():
    rows = samples() + [{"id": "open", "answer": "a", "right": None, "self_certainty": 1.0}] * 8
    table = scaling(rows[3:])
    assert (table["problems"], table["ungraded"], table["samples"], table["n"]) == (12, 1, 5, [1, 2, 4, 5])


@pytest.mark.parametrize(
    ("rows", "rules", "message"),
    [
        ([], None, "none of 0 problems has graded samples"),
        ([{"id": "x", "answer": "a"}], None, "none of 1 problems"),
        (samples(), ["brda"], "did you mean 'borda'"),
        (samples(), ["deepconf_tail"], "reads tail_confidence, which no sample has"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(rows, rules, message):
    with pytest.raises(RlifError, match=message):
        scaling(rows, rules=rules)


def test_the_figure_is_drawn(tmp_path):
    draw({"one": scaling(samples()), "two": scaling(samples(seed=1))}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_early_stopping_is_compared_with_the_full_run():
    def row(sample, answer, tokens, lowest, **more):
        right = answer == "a"
        return {"id": "p", "sample": sample, "answer": answer, "right": right, "tokens": tokens, "stopped": False} | {
            "lowest_window_confidence": lowest,
            **more,
        }

    full = [row(0, "a", 10, 5.0), row(1, "b", 10, 3.0), row(2, "b", 40, 3.5), row(3, "b", 20, 4.0)]
    early = [{**r, "threshold": 3.9} for r in full]
    early[2] |= {"tokens": 5, "stopped": True, "answer": None, "right": False}
    early[3] |= {"answer": "a", "right": True}
    found = early_stop_report(full, early, warm_up=2)
    assert found["tokens"] == {"full": 80, "early": 45} and found["saved"] == pytest.approx(1 - 45 / 80)
    assert found["stopped"] == 0.5
    assert [found["accuracy"][name]["mean"] for name in ("early", "full", "plurality")] == [1, 0, 0]
    assert math.isclose(early_stop_report(full, [{**r, "threshold": -math.inf} for r in full])["saved"], 0)


def test_votes_after_early_stops_use_the_tasks_equality():
    same = {"id": "p", "tokens": 1, "stopped": False, "lowest_window_confidence": 1.0, "threshold": 0.0}
    halves = [{**same, "answer": answer, "right": True} for answer in ("1/2", "0.5", "\\frac{1}{2}")]
    rows = [{**row, "sample": i} for i, row in enumerate([{**same, "answer": "3", "right": False}] * 2 + halves)]
    for equal, right in ((None, 0.0), (find_task("math").equal, 1.0)):
        found = early_stop_report(rows, rows, equal=equal)["accuracy"]
        assert [found[name]["mean"] for name in ("early", "full", "plurality")] == [right] * 3
