"""Tests schedules of reward weights over steps."""

from __future__ import annotations

import pytest

import rlif
from rlif.config.loading import check_recipe
from rlif.config.schedule import first_gap, read_weight


def at(value, *steps):
    return [read_weight("x", value).at(step) for step in steps]


def test_a_plain_number_is_the_weight_of_every_step():
    assert at(0.5, 0, 7, 10_000) == [0.5, 0.5, 0.5]
    assert not read_weight("x", 2).scheduled and not read_weight("x", 0).ever


def test_linear_interpolates_and_is_constant_outside_its_points():
    assert at({"linear": [[10, 1.0], [50, 0.0], [60, 2.0]]}, 0, 10, 20, 30, 50, 55, 60, 99) == pytest.approx(
        [1, 1, 0.75, 0.5, 0, 1, 2, 2]
    )


def test_stages_change_the_weight_at_their_step():
    assert at({"stages": [[0, 1.0], [30, 0.0]]}, 0, 29, 30, 31) == [1, 1, 0, 0]


def test_a_cycle_repeats_its_parts():
    cycle = {"cycle": [[2, 1.0], [3, 0.0], [1, 0.5]]}
    assert at(cycle, *range(13)) == [1, 1, 0, 0, 0, 0.5] * 2 + [1]
    assert read_weight("x", cycle).scheduled and not read_weight("x", {"cycle": [[4, 0]]}).ever


def test_two_cycles_alternate_between_confidence_and_gold():
    """Half of the steps each, in turns of 20: never both, never none."""
    reward = {"self_certainty": {"cycle": [[20, 1], [20, 0]]}, "accuracy": {"cycle": [[20, 0], [20, 1]]}}
    weights = check_recipe({"reward": reward}).weights
    pairs = [(weights["self_certainty"].at(step), weights["accuracy"].at(step)) for step in range(80)]
    assert pairs == ([(1, 0)] * 20 + [(0, 1)] * 20) * 2
    assert check_recipe({"reward": reward}).model_dump()["reward"] == reward


def test_a_recipe_writes_schedules_as_it_read_them():
    reward = {"self_certainty": {"stages": [[0, 1.0], [30, 0.0]]}, "accuracy": {"linear": [[30, 0], [40, 1]]}}
    recipe = check_recipe({"reward": reward})
    assert recipe.model_dump()["reward"] == reward
    assert {name: weight.at(35) for name, weight in recipe.weights.items()} == {"self_certainty": 0.0, "accuracy": 0.5}
    assert check_recipe({"reward": "self_certainty"}).weights["self_certainty"].at(3) == 1.0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"a": "much"}, "the weight of reward a is 'much'; give a number, or a schedule"),
        ({"a": True}, "is True; give a number"),
        ({"a": float("nan")}, "is nan; give a number"),
        ({"a": {"cosine": [[0, 1]]}}, "give a number, or a schedule"),
        ({"a": {"linear": []}}, r"needs points \[step, weight\]"),
        ({"a": {"linear": [[0, 1, 2]]}}, r"needs points \[step, weight\]"),
        ({"a": {"linear": "01"}}, r"needs points \[step, weight\]"),
        ({"a": {"linear": [[-1, 1]]}}, r"needs points \[step, weight\]"),
        ({"a": {"linear": [[5, 1], [5, 0]]}}, r"must increase, found \[5, 5\]"),
        ({"a": {"cycle": [[0, 1], [2, 0]]}}, r"cycle of reward a last \[0, 2\] steps; give whole numbers from 1"),
        ({"a": {"cycle": [[1.5, 1], [2, 0]]}}, "give whole numbers from 1"),
        ({"a": {"cycle": [[-1, 1]]}}, r"needs parts \[steps, weight\]"),
        ({"a": {"cycle": [[3, 0]]}}, "no reward has a weight"),
        ({"a": {"stages": [[3, 1]]}}, "begin at step 3; say what it weighs from step 0 on"),
        ({"a": {"rows": "labeled"}}, "rows of reward a is 'labeled'; it must be all, labelled, unlabelled"),
        ({"a": {"row": "all", "weight": 1}}, "the entry of reward a has no 'row'; did you mean 'rows'"),
        ({"a": {"weight": "x", "rows": "all"}}, "the weight of reward a is 'x'"),
        ({"a": {"weight": 0, "rows": "labelled"}}, "no reward has a weight"),
        ({"a": 0, "b": 0.0}, "no reward has a weight"),
        ({}, "no reward has a weight"),
    ],
)
def test_mistakes_in_schedules_are_refused(reward, message):
    with pytest.raises(rlif.RlifError, match=message):
        check_recipe({"reward": reward})


@pytest.mark.parametrize(
    ("reward", "gap"),
    [
        ({"a": 1.0, "b": 0}, None),
        ({"a": {"stages": [[0, 1], [1, 0]]}, "b": {"stages": [[0, 0], [9, 1]]}}, 1),
        ({"a": {"stages": [[0, 0], [5, 1]]}}, 0),
        ({"a": {"cycle": [[20, 1], [20, 0]]}, "b": {"cycle": [[20, 0], [20, 1]]}}, None),
        ({"a": {"cycle": [[3, 1], [1, 0]]}}, None),  # one step without a reward is no gap
        ({"a": {"cycle": [[3, 1], [2, 0]]}}, 3),
        ({"a": {"cycle": [[2, 0], [3, 1]]}, "b": {"cycle": [[2, 1], [5, 0]]}}, 5),
        ({"a": {"cycle": [[3, 1], [4, 0]]}, "b": {"stages": [[0, 1], [16, 0]]}}, 17),
        ({"a": {"linear": [[0, 1], [50, 0]]}}, 50),
        ({"a": {"linear": [[2.5, 1], [3.5, 0]]}, "b": {"linear": [[6.5, 0], [7, 1]]}}, 4),
        ({"a": {"stages": [[0, 1], [30, 0]]}, "b": {"linear": [[30, 0], [40, 1]]}}, None),
        ({"a": {"stages": [[0, 1], [31, 0]]}, "b": {"linear": [[30, 0], [40, 1]]}}, None),
    ],
)
def test_first_gap_finds_the_first_step_without_a_reward(reward, gap):
    weights = check_recipe({"reward": reward}).weights.values()
    assert first_gap(list(weights)) == gap
    slowly = (step for step in range(100) if not any(w.at(step) or w.at(step + 1) for w in weights))
    assert next(slowly, None) == gap


def test_an_entry_may_say_which_rows_it_is_for():
    staged = {"weight": {"stages": [[0, 1], [3, 0]]}, "rows": "unlabelled"}
    recipe = check_recipe({"reward": {"a": {"rows": "labelled"}, "b": staged, "c": 2, "d": {"weight": 3}}})
    assert recipe.rows == {"a": "labelled", "b": "unlabelled", "c": "all", "d": "all"}
    assert [weight.at(0) for weight in recipe.weights.values()] == [1, 1, 2, 3] and recipe.weights["b"].at(3) == 0
    assert recipe.model_copy(update={"reward": "a"}).rows == {"a": "all"}
