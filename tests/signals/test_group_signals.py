"""Tests signals from the answers and texts of a group."""

from __future__ import annotations

import itertools
import math

import pytest

from rlif.signals import GROUP_SIGNALS
from rlif.tasks import TASKS
from rlif.types import Group

ANSWERS = ["4", "5", "5", None, "6", "5", "4"]


def group(answers, **options):
    return Group("?", [f"text {i}" for i in range(len(answers))], answers, **options)


def first_letter(prompt, texts):
    """Replaces the equivalence model: texts with the same first letter mean the same."""
    found = {}
    for i, text in enumerate(texts):
        found.setdefault(text[0], []).append(i)
    return list(found.values())


def said(texts):
    return Group("?", texts, [None] * len(texts), cluster_texts=first_letter)


def test_plurality_vote_needs_no_majority():
    assert GROUP_SIGNALS["plurality_vote"](group(ANSWERS)) == [0, 1, 1, 0, 0, 1, 0]


def test_self_consistency_is_the_answers_share_of_the_whole_group():
    assert GROUP_SIGNALS["self_consistency"](group(ANSWERS)) == [2 / 7, 3 / 7, 3 / 7, 0, 1 / 7, 3 / 7, 2 / 7]


def test_all_answers_of_a_tie_win_the_vote():
    assert GROUP_SIGNALS["plurality_vote"](group(["4", "5", "5", "4", "6", None])) == [1, 1, 1, 1, 0, 0]
    assert GROUP_SIGNALS["plurality_vote"](group(["1", "2", "3", None])) == [1, 1, 1, 0]


@pytest.mark.parametrize("name", ["plurality_vote", "self_consistency"])
def test_a_group_without_answers_is_unscorable(name):
    assert GROUP_SIGNALS[name](group([None, None, None])) == [None, None, None]
    assert GROUP_SIGNALS[name](group(["4"])) == [1.0]


@pytest.mark.parametrize("name", ["plurality_vote", "self_consistency"])
def test_answers_are_compared_by_the_tasks_equality(name):
    halves = group(["1/2", "0.5", "\\frac{1}{2}", "2"], equal=TASKS["math"].equal)
    values = GROUP_SIGNALS[name](halves)
    assert values[0] == values[1] == values[2] > values[3]


@pytest.mark.parametrize("name", GROUP_SIGNALS)
def test_permuting_a_group_permutes_its_values(name):
    answers = ["4", "5", "5", None, "4"]
    texts = ["a", "b1", "b2", "", "a2"]
    values = GROUP_SIGNALS[name](Group("?", texts, answers, cluster_texts=first_letter))
    for order in itertools.permutations(range(5)):
        shuffled = Group("?", [texts[i] for i in order], [answers[i] for i in order], cluster_texts=first_letter)
        assert GROUP_SIGNALS[name](shuffled) == [values[i] for i in order]


def test_semantic_entropy_averages_to_minus_the_entropy_of_the_clusters():
    values = GROUP_SIGNALS["semantic_entropy"](said(["a1", "b1", "a2", "a3", "c1"]))
    shares = [3 / 5, 1 / 5, 1 / 5]
    assert math.fsum(values) / 5 == pytest.approx(math.fsum(p * math.log(p) for p in shares))
    assert values[0] == pytest.approx(math.log(3 / 5)) and values[1] == pytest.approx(math.log(1 / 5))


def test_semantic_entropy_of_one_cluster_of_separate_texts_and_of_empty_texts():
    assert GROUP_SIGNALS["semantic_entropy"](said(["a1", "a2", "a3"])) == [0, 0, 0]
    assert GROUP_SIGNALS["semantic_entropy"](said(["a", "b", "c"])) == pytest.approx([-math.log(3)] * 3)
    assert GROUP_SIGNALS["semantic_entropy"](said(["a", " ", ""])) == [0, None, None]
    assert GROUP_SIGNALS["semantic_entropy"](said(["", ""])) == [None, None]


def test_semantic_entropy_without_an_equivalence_model_is_refused():
    with pytest.raises(ValueError, match="needs a model"):
        GROUP_SIGNALS["semantic_entropy"](group(["4", "4"]))
