"""Tests which samples are chosen, and against which."""

from __future__ import annotations

import math
import random
from itertools import permutations

import pytest

from rlif.engines.rounds.pairs import best, best_against

RNG = random.Random(0)


def test_the_best_come_first_without_equal_texts_and_samples_without_a_value():
    values = [(1.0,), (3.0,), None, (3.0,), (2.0,), (math.nan,), (3.0,)]
    texts = ["a", "b", "c", "b", "d", "e", "f"]
    assert best(values, texts, keep=9) == [1, 6, 4, 0]
    assert best(values, texts, keep=2) == [1, 6]
    assert best(values, texts, keep=9, least=2.0) == [1, 6]
    assert best(values, texts, keep=9, least=3.0) == []
    assert best([None, (math.nan,)], ["a", "b"], keep=1) == []


def test_of_equal_texts_the_better_one_is_kept_and_later_numbers_order_equal_firsts():
    assert best([(1.0, 0.2), (1.0, 0.9), (0.0, 5.0)], ["a", "a", "b"], keep=3) == [1, 2]
    assert best([(1.0, 0.2), (1.0, 0.2)], ["a", "b"], keep=1) == [0]


def test_a_pair_is_the_best_and_the_worst():
    values = [(2.0,), (5.0,), (1.0,), None, (1.0,), (5.0,)]
    assert best_against(values, list("abcdef"), "worst", RNG) == (1, 2)
    assert best_against([(1.0, 3.0), (0.0, 7.0), (0.0, 2.0)], list("abc"), "worst", RNG) == (0, 2)


@pytest.mark.parametrize(
    ("values", "texts", "least"),
    [
        ([], "", -math.inf),
        ([None, None], "ab", -math.inf),
        ([(1.0,), None], "ab", -math.inf),
        ([(1.0,), (1.0,)], "ab", -math.inf),  # a tie
        ([(1.0, 9.0), (1.0, 2.0)], "ab", -math.inf),  # a tie of the first number, which decides
        ([(2.0,), (1.0,)], "aa", -math.inf),  # one text
        ([(0.0,), (-1.0,)], "ab", 0.0),  # the best is not good enough
    ],
)
def test_there_is_no_pair_where_nothing_is_preferred(values, texts, least):
    for against in ("worst", "random"):
        assert best_against(values, list(texts), against, RNG, least) is None


def test_a_rejected_sample_has_another_text_than_the_chosen_one():
    assert best_against([(3.0,), (1.0,), (2.0,)], ["a", "a", "b"], "worst", RNG) == (0, 2)


def test_a_random_other_is_each_smaller_one_as_often():
    values, texts = [(1.0,), (3.0,), (2.0,), (3.0,), None, (0.0,)], list("abcdef")
    rng = random.Random(1)
    drawn = [best_against(values, texts, "random", rng) for _ in range(3000)]
    assert {pair[0] for pair in drawn if pair} == {1}
    counts = {i: sum(pair == (1, i) for pair in drawn) for i in range(6)}
    assert counts[1] == counts[3] == counts[4] == 0
    assert all(abs(counts[i] - 1000) < 5 * math.sqrt(3000 * 2 / 9) for i in (0, 2, 5))


def test_the_order_of_the_samples_does_not_matter_where_values_differ():
    """Against a search over all pairs."""
    values, texts = [(0.5,), (2.5,), (1.5,), (-1.0,)], ["a", "b", "c", "b"]
    pairs = [(i, j) for i in range(4) for j in range(4) if values[j] < values[i] and texts[i] != texts[j]]
    wanted = max(pairs, key=lambda pair: (values[pair[0]][0], -values[pair[1]][0]))
    for order in permutations(range(4)):
        found = best_against([values[i] for i in order], [texts[i] for i in order], "worst", RNG)
        assert found and (order[found[0]], order[found[1]]) == wanted == (1, 0)
