"""Tests win rates: properties, the fit against an independent one, the published values of six models."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import random
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from support.alpaca import write_tables

from rlif.errors import RlifError
from rlif.intervals import Interval
from rlif.judging import win_rate
from rlif.judging.win_rate import Annotation, Regression, folds, length_controlled, raw_win_rate, win_rates

# In the order length, difficulty, model: the coefficients upstream keeps beside its code.
PUBLISHED_WEIGHTS = {
    "alpaca-7b": (-2.2067864500930003, 0.9859274836495522, -3.6907417919074890),
    "gpt-3.5-turbo-1106": (-2.0421297235342082, 1.0101354535205684, -1.9018508475471767),
    "Qwen-14B-Chat": (-1.9362606327202221, 1.1516389891012428, -2.8246472505882005),
    "vicuna-7b": (-1.7563001929919926, 0.9961877912570248, -3.6194254717758958),
}


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIF_DATA", str(tmp_path))
    return write_tables(tmp_path)


def some(n: int = 60, seed: int = 0) -> list[Annotation]:
    rng = random.Random(seed)
    return [Annotation(i, 1 + rng.random() ** 2, rng.randint(200, 3000), rng.randint(50, 2000)) for i in range(n)]


def swapped(row: Annotation) -> Annotation:
    preference = None if row.preference is None else 3 - row.preference
    return Annotation(row.index, preference, row.len_2, row.len_1)


def published(data_folder, name: str) -> list[Annotation]:
    with gzip.open(data_folder / "checks" / "alpaca_eval" / f"{name}.jsonl.gz", "rt") as file:
        return [Annotation(**json.loads(line)) for line in file]


def test_swapping_sides_gives_the_complement_of_the_raw_win_rate():
    rows = some()
    there, back = raw_win_rate(rows), raw_win_rate([swapped(row) for row in rows])
    assert there.share.mean + back.share.mean == pytest.approx(100)
    assert there.share.low + back.share.high == pytest.approx(100)
    assert there.standard_error == pytest.approx(back.standard_error)


def test_the_raw_win_rate_is_a_mean_with_its_standard_error():
    rows = [Annotation(i, p, 9, 9) for i, p in enumerate([1.0, 1.0, 2.0, 1.2, None])]
    wins = np.array([0, 0, 1, 0.2])
    error = 100 * wins.std(ddof=1) / 2
    assert error > 22  # Student's interval with three degrees of freedom is wider than 0 to 100
    found = raw_win_rate(rows)
    assert found.standard_error == pytest.approx(error) and found.share.mean == pytest.approx(30)
    assert (found.share.n, found.share.low, found.share.high) == (4, 0, 100)


def test_win_rates_are_none_where_nothing_is_judged(tables):
    rows = [dataclasses.replace(row, preference=None) for row in some()]
    found = win_rates(rows)
    assert found.unjudged == 1 and found.raw.share.n == 0
    assert math.isnan(found.raw.share.mean) and math.isnan(found.length_controlled.share.mean)


def test_one_row_has_no_interval(tables):
    found = raw_win_rate([Annotation(0, 2.0, 5, 5)])
    assert found.share == Interval(1, 100.0) and found.standard_error is None
    assert length_controlled([Annotation(0, 2.0, 5, 5)]).share.mean > 0


def test_ties_count_half_and_the_baseline_has_fifty_against_itself(tables):
    tied = [dataclasses.replace(row, preference=1.5) for row in some()]
    assert raw_win_rate(tied).share.mean == 50
    same = [dataclasses.replace(row, len_2=row.len_1) for row in tied]
    assert length_controlled(same).share.mean == 50


def test_the_order_of_rows_changes_nothing(tables):
    rows = some()
    mixed = random.Random(1).sample(rows, len(rows))
    first, again = win_rates(rows), win_rates(mixed)
    assert first.length_controlled == again.length_controlled
    assert first.raw.share.mean == pytest.approx(again.raw.share.mean)


def test_positional_lookup_differs_only_where_rows_are_missing(tables):
    rows = some()
    assert length_controlled(rows) == length_controlled(rows, "positional")
    del rows[3]
    by_instruction, by_position = length_controlled(rows), length_controlled(rows, "positional")
    assert by_instruction.weights != by_position.weights
    moved = [dataclasses.replace(row, index=place) for place, row in enumerate(rows)]
    assert length_controlled(moved).weights == by_position.weights


def test_unjudged_rows_do_not_count_as_losses(tables):
    rows = some()
    gaps = [dataclasses.replace(row, preference=None) if row.index % 3 == 0 else row for row in rows]
    lost = [dataclasses.replace(row, preference=1.0) if row.index % 3 == 0 else row for row in rows]
    found = win_rates(gaps)
    assert found.unjudged == pytest.approx(1 / 3) and found.n == 60 and found.raw.share.n == 40
    assert found.raw.share.mean > raw_win_rate(lost).share.mean
    assert found.length_controlled.share.mean > length_controlled(lost).share.mean


def test_length_control_takes_out_what_only_length_explains(tables):
    """A model whose every win is due to its longer outputs is worth less at equal length."""
    rng = random.Random(4)
    rows = []
    for i in range(60):
        longer = rng.randint(-1000, 2500)
        chance = 1 / (1 + np.exp(-longer / 500))
        rows.append(Annotation(i, 1 + chance, 3000, 3000 + longer))
    found = win_rates(rows)
    assert found.length_controlled.share.mean < found.raw.share.mean - 5
    assert found.length_controlled.weights["length"] < 0


@pytest.mark.parametrize("preference", [1.0, 2.0])
def test_only_wins_or_only_losses_are_fitted_without_warnings(tables, preference):
    rows = [dataclasses.replace(row, preference=preference) for row in some()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = length_controlled(rows).share.mean
    assert abs(mean - 100 * (preference - 1)) < 15


@pytest.mark.parametrize("strength", [0.01, 0.3, 2.8, 21.5])
def test_the_fit_is_the_minimum_of_the_objective(tables, strength):
    """Compares with another optimiser, on the L1 objective as a smooth one over positive and negative parts."""
    gamed = win_rate.gamed_baselines()
    rows = some()
    wins = np.array([row.preference - 1 for row in rows])
    table = Regression.of(gamed, win_rate.features(rows, win_rate.difficulties(), positional=False), wins)

    def objective(parts):
        score = table.rows @ (parts[:3] - parts[3:])
        loss = table.wins * np.logaddexp(0, -score) + (1 - table.wins) * np.logaddexp(0, score)
        return parts.sum() + strength * (table.weight * loss).sum()

    best = minimize(objective, np.full(6, 0.1), bounds=[(0, None)] * 6, method="L-BFGS-B", tol=1e-14)
    assert table.fit(strength) == pytest.approx(best.x[:3] - best.x[3:], abs=3e-3)


def test_features_have_unit_spread_of_length(tables):
    rows = some()
    made = win_rate.features(rows, win_rate.difficulties(), positional=False)
    gaps = np.arctanh(made[:, 0])
    assert gaps.std(ddof=1) == pytest.approx(1) and (made[:, 2] == 1).all()
    scaled = [dataclasses.replace(row, len_1=7 * row.len_1, len_2=7 * row.len_2) for row in rows]
    assert win_rate.features(scaled, win_rate.difficulties(), positional=False) == pytest.approx(made)


@pytest.mark.parametrize("n", [7, 16, 17, 18, 805, 2414, 2415])
def test_folds_are_even(n):
    sizes = np.bincount(folds(n), minlength=5)
    assert sizes.sum() == n and sizes.max() - sizes.min() <= 1


def test_folds_follow_the_quicksort_of_the_published_values():
    """Its argsort of 18 equal keys, written out by hand: reversed but for the first and the last two."""
    order = [0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 16, 17]
    dealt = {row: turn % 5 for turn, row in enumerate(reversed(order))}
    assert folds(18).tolist() == [dealt[row] for row in range(18)]


def test_mistakes_raise_one_sentence(tables, tmp_path, monkeypatch):
    rows = some()
    with pytest.raises(RlifError, match="no annotations"):
        win_rates([])
    with pytest.raises(RlifError, match="instruction 4 is annotated 2 times"):
        win_rates([*rows, rows[4]])
    with pytest.raises(RlifError, match="instruction 60 has no difficulty; the table has 60"):
        win_rates(some(61))
    with pytest.raises(RlifError, match="did you mean 'positional'"):
        win_rates(rows, "position")
    (tables / "df_gamed.csv").unlink()
    with pytest.raises(RlifError, match=r"df_gamed\.csv.*tatsu-lab/alpaca_eval"):
        win_rate.check_ready()
    monkeypatch.delenv("RLIF_DATA")
    with pytest.raises(RlifError, match="RLIF_DATA"):
        win_rate.check_ready()


def test_upstreams_own_files_take_precedence(tables):
    own = (tables / "instruction_difficulty.csv").read_text()
    (tables / "instruction_difficulty_recovered.csv").write_text("index,instruction_difficulty\n0,9\n")
    assert len(win_rate.difficulties()) == 60
    (tables / "instruction_difficulty.csv").unlink()
    assert win_rate.difficulties() == {0: 9.0}
    (tables / "instruction_difficulty.csv").write_text(own.replace("index,", ",", 1))  # upstream's has no name there
    assert len(win_rate.difficulties()) == 60


@pytest.mark.daily(every=3)
@pytest.mark.parametrize(
    "name",
    [
        "alpaca-7b",
        "gpt-3.5-turbo-1106",
        "Qwen-14B-Chat",
        "FuseChat-Qwen-2.5-7B-Instruct",
        "alpaca-7b_concise",
        "vicuna-7b",
    ],
)
def test_published_win_rates(data_folder, name):
    expected = json.loads((data_folder / "checks" / "expected.json").read_text())[f"alpaca_eval/{name}"]
    rows = published(data_folder, name)
    assert len(rows) == expected["items"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = win_rates(rows, "positional" if len(rows) < 805 else "instruction")
    assert abs(found.raw.share.mean - expected["published"][0]) < 1e-6
    assert abs(found.length_controlled.share.mean - expected["published"][1]) < 0.02
    if name in PUBLISHED_WEIGHTS:
        assert list(found.length_controlled.weights.values()) == pytest.approx(PUBLISHED_WEIGHTS[name], abs=0.01)


def test_a_missing_row_shifts_the_published_value(data_folder):
    """alpaca-7b_concise lacks instruction 689: looked up by instruction, its win rate is not the published one."""
    rows = published(data_folder, "alpaca-7b_concise")
    assert abs(length_controlled(rows).share.mean - 4.467251679930348) > 0.05
