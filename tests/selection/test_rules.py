"""Tests the rules of best-of-N against plain implementations of the published rules."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter

import numpy as np
import pytest

import rlif
from rlif.answers.clusters import clusters, percentile
from rlif.errors import RlifError
from rlif.selection.rules import RULES, borda_power, choose, pass_at_k

WEIGHED = sorted(name for name, rule in RULES.items() if rule.signal)


def problems(count=300, none_answers=0.2, ties=False, seed=0):
    """Makes random problems: N samples, few different answers, some missing; values with ties or without."""
    rng = random.Random(seed)
    for _ in range(count):
        n = rng.randint(1, 12)
        answers = [None if rng.random() < none_answers else rng.choice("abcd") for _ in range(n)]
        yield answers, [float(rng.randint(1, 3)) if ties else rng.uniform(0.1, 9) for _ in range(n)]


def answer_of(rule, answers, values, **options):
    i = choose(rule, answers, values, **options)
    return None if i is None else answers[i]


def borda_by_the_paper(answers, values, p):
    """Sums (N - r + 1)^p of all ranks r over equal answers, in the order of sampling; the first largest wins."""
    n = len(answers)
    order = sorted(range(n), key=lambda i: values[i], reverse=True)
    points = {i: (n - (rank + 1) + 1) ** p for rank, i in enumerate(order)}
    totals: dict[str, float] = {}
    for i in range(n):
        if answers[i] is not None:
            totals[answers[i]] = totals.get(answers[i], 0) + points[i]
    return max(totals, key=lambda a: totals[a]) if totals else None


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("power", [0, 0.3, 0.5, 1.2, 2])
def test_borda_equals_the_published_rule(power, ties):
    for answers, values in problems(ties=ties):
        assert answer_of("borda", answers, values, power=power) == borda_by_the_paper(answers, values, power)


def test_borda_by_hand():
    """N = 4, p = 1: the surest has 4 points, 3 go to no answer, the other answer has 2 + 1."""
    answers, values = ["x", None, "y", "y"], [9.0, 8.0, 7.0, 6.0]
    assert answer_of("borda", answers, values, power=1) == "x"
    assert answer_of("borda", answers, values, power=0.5) == "y"  # 2 against 1.414 + 1


@pytest.mark.parametrize("ties", [False, True])
def test_borda_goes_from_plurality_to_the_argmax(ties):
    for answers, values in problems(ties=ties, none_answers=0.2):
        assert answer_of("borda", answers, values, power=0) == answer_of("plurality", answers, values)
    for answers, values in problems(none_answers=0):
        assert answer_of("borda", answers, values, power=500) == answer_of("self_certainty", answers, values)


def test_bordas_power_is_the_published_one_at_both_ends_and_grows_between():
    assert [borda_power(n) for n in (1, 8, 16)] == [0.3] * 3 and [borda_power(n) for n in (32, 64)] == [1.2] * 2
    between = [borda_power(n) for n in range(16, 33)]
    assert between == sorted(between) and len(set(between)) == 17


def test_plurality_is_the_most_frequent_answer_and_the_first_of_equals():
    for answers, values in problems():
        counts = Counter(answer for answer in answers if answer is not None)
        expected = max(counts, key=lambda a: (counts[a], -answers.index(a)), default=None)
        assert answer_of("plurality", answers, values) == expected
        first = None if expected is None else answers.index(expected)
        assert choose("plurality", answers, values) == first


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("rule", "percent"), [("deepconf_tail_top10", 90), ("deepconf_tail_top90", 10)])
def test_deepconf_keeps_the_surest_and_weighs_their_votes(rule, percent, ties):
    for answers, values in problems(ties=ties):
        votes = [(a, v) for a, v in zip(answers, values, strict=True) if a is not None]
        if not votes:
            continue
        bar = np.percentile([v for _, v in votes], percent)
        totals: dict[str, float] = {}
        for answer, value in votes:
            if value >= bar:
                totals[answer] = totals.get(answer, 0.0) + value
        assert answer_of(rule, answers, values) == max(totals, key=lambda a: totals[a])


@pytest.mark.parametrize("rule", ["weighted_vote", "deepconf_mean", "deepconf_lowest"])
def test_weighted_votes_add_up_the_values(rule):
    assert answer_of(rule, ["x", "y", "y", None], [5.0, 2.0, 2.5, 99.0]) == "x"
    assert answer_of(rule, ["x", "y", "y", None], [5.0, 3.0, 2.5, 99.0]) == "y"
    for answers, _ in problems():
        assert answer_of(rule, answers, [1.0] * len(answers)) == answer_of("plurality", answers, [1.0] * len(answers))


def test_self_certainty_is_the_argmax_of_those_that_answer():
    assert choose("self_certainty", ["x", "y", None], [1.0, 2.0, 3.0]) == 1
    assert choose("self_certainty", ["x", "y"], [2.0, 2.0]) == 0


@pytest.mark.parametrize("rule", WEIGHED)
def test_free_form_text_is_picked_by_confidence_alone(rule):
    assert choose(rule, [None] * 4, [1.0, 3.0, None, 3.0]) == 1


@pytest.mark.parametrize("rule", sorted(RULES))
def test_one_sample_missing_values_and_no_samples(rule):
    assert choose(rule, ["x"], [2.0]) == 0
    assert choose(rule, [], []) is None
    unscored = choose(rule, ["x", "y", "y"], [None, math.nan, None])
    assert unscored is None if RULES[rule].signal else unscored in (0, 1, 2)


@pytest.mark.parametrize("rule", WEIGHED)
def test_the_order_of_samples_does_not_matter_without_ties(rule):
    rng = random.Random(1)
    for answers, values in problems(60):
        order = rng.sample(range(len(answers)), len(answers))
        shuffled = choose(rule, [answers[i] for i in order], [values[i] for i in order])
        assert shuffled is not None and order[shuffled] == choose(rule, answers, values)


@pytest.mark.parametrize("rule", WEIGHED)
def test_the_chosen_sample_is_the_surest_of_its_answer(rule):
    for answers, values in problems(60):
        i = choose(rule, answers, values)
        assert i is not None
        assert values[i] == max(v for a, v in zip(answers, values, strict=True) if a == answers[i])


def test_random_is_seeded_and_uniform():
    picks = [choose("random", ["x"] * 4, [1.0] * 4, seed=seed) for seed in range(400)]
    assert picks == [choose("random", ["x"] * 4, [1.0] * 4, seed=seed) for seed in range(400)]
    assert all(60 < count < 140 for count in Counter(picks).values()) and len(set(picks)) == 4


def test_equal_answers_are_one_answer():
    answers = ["\\frac{1}{2}", "3", None, "0.5", "3.0", "1/2"]
    assert clusters(answers, rlif.TASKS["math"].equal) == [[0, 3, 5], [1, 4]]
    assert clusters(answers) == [[0], [1], [3], [4], [5]]
    answers, values = ["3", "1/2", "0.5"], [None] * 3
    assert choose("plurality", answers, values, equal=rlif.TASKS["math"].equal) == 1
    assert choose("plurality", answers, values) == 0
    assert clusters([]) == [] and clusters([None, None]) == []


def test_percentile_equals_numpys():
    rng = random.Random(2)
    for n, percent in itertools.product((1, 2, 5, 16), (0, 10, 37.5, 90, 100)):
        values = [rng.uniform(-5, 5) for _ in range(n)]
        assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-12)


def test_pass_at_k_counts_the_subsets():
    for n, right, k in itertools.product(range(1, 6), range(6), range(1, 6)):
        if right <= n and k <= n:
            draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
            assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError, match="k <= n"):
        pass_at_k(3, 1, 4)


def samples():
    rows = [("p1", "4", 9.0), ("p2", None, 1.0), ("p1", "5", 7.0), ("p2", None, 2.0), ("p1", "5", 6.5)]
    return [{"id": i, "answer": a, "self_certainty": v, "completion": f"{n}"} for n, (i, a, v) in enumerate(rows)]


def test_select_returns_one_unchanged_sample_of_each_problem():
    chosen = rlif.select(samples())
    assert {problem: row["completion"] for problem, row in chosen.items()} == {"p1": "2", "p2": "3"}
    assert rlif.select(samples(), "self_certainty")["p1"]["answer"] == "4"
    assert rlif.select(samples(), "plurality")["p2"] is None
    assert rlif.select([]) == {}


def test_samples_with_the_old_name_of_a_signal_are_read():
    rows = [
        {"id": "p", "answer": "4", "group_confidence_tail": 1.0},
        {"id": "p", "answer": "5", "tail_confidence": 2.0},
    ]
    assert rlif.select(rows, "deepconf_tail") == {"p": rows[1]}
    assert rlif.select(rows[:1], "deepconf_tail") == {"p": rows[0]}


@pytest.mark.parametrize(
    ("rule", "rows", "options", "message"),
    [
        ("brda", samples(), {}, "did you mean 'borda'"),
        ("likelihood", samples(), {}, "the rule likelihood reads likelihood, which no sample has"),
        ("borda", samples(), {"power": -1}, "finite number from 0, got -1"),
        ("borda", samples(), {"power": math.inf}, "finite number from 0, got inf"),
        ("borda", [{"answer": "4"}], {}, "sample 1 has neither id nor prompt"),
        ("borda", samples(), {"power": "2"}, "finite number from 0, got '2'"),
        ("borda", samples(), {"equal": "=="}, "equal is '=='; give a function"),
        ("borda", [{"id": "a", "answer": "4", "self_certainty": "1.0"}], {}, r"is the text '1\.0'; expected numbers"),
        ("borda", [{"id": "a", "answer": ["4"], "self_certainty": 1.0}], {}, "an answer is .'4'.; expected text"),
        (5, samples(), {}, r"the rule is 5; give a name of rlif\.RULES"),
        ("borda", "samples.jsonl", {}, r"samples is 'samples\.jsonl'; give a list of mappings"),
        ("borda", {"id": "a"}, {}, r"samples is \{'id': 'a'\}; give a list of mappings"),
    ],
)
def test_samples_that_cannot_be_chosen_from_are_refused(rule, rows, options, message):
    with pytest.raises(RlifError, match=message):
        rlif.select(rows, rule, **options)


def test_samples_without_ids_are_grouped_by_their_prompt():
    turns = [{"role": "user", "content": "3 + 3?"}]
    rows = [
        {"prompt": "2 + 2?", "answer": "4", "self_certainty": 1.0},
        {"prompt": turns, "answer": "6", "self_certainty": 3.0},
        {"prompt": "2 + 2?", "answer": "5", "self_certainty": 2.0},
        {"prompt": turns, "answer": "7", "self_certainty": 2.0, "id": None},
    ]
    found = rlif.select(rows, "self_certainty")
    assert {name: row["answer"] for name, row in found.items()} == {"2 + 2?": "5", json.dumps(turns): "6"}
    named = [{**row, "id": "one"} for row in rows]
    assert [row["answer"] for row in rlif.select(named, "self_certainty").values()] == ["6"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"id": "a", "answer": "4"}, {"prompt": "2 + 2?", "answer": "4"}], "sample 2 has no id, and others have"),
        ([{"prompt": "2 + 2?"}, {"answer": "4", "note": 1}], "sample 2 has neither id nor prompt.* has answer, note"),
        (["2 + 2?"], "sample 1 is a str"),
    ],
)
def test_samples_of_no_known_problem_are_refused(rows, message):
    with pytest.raises(RlifError, match=message):
        rlif.select(rows, "plurality")
