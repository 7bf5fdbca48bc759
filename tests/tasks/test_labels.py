"""Tests which problems are labelled, which golds are hidden, and the order of two stages."""

from __future__ import annotations

import rlif
from rlif.tasks.labels import hide_labels, in_stages, is_labelled
from rlif.types import Problem

PROBLEMS = [
    Problem(f"p/{n}", f"text {n}", None if n % 4 == 3 else str(n), "steps", other_golds=("x",), row={"gold": n})
    for n in range(20)
]


def test_a_problem_is_labelled_by_its_gold_or_by_tests():
    assert [is_labelled(rlif.TASKS["math"], problem) for problem in PROBLEMS[:4]] == [True, True, True, False]
    assert is_labelled(rlif.TASKS["code_contests"], PROBLEMS[3])


def test_hidden_golds_leave_nothing_of_themselves():
    found = hide_labels(PROBLEMS, 5, seed=1)
    kept = [problem for problem in found if problem.gold is not None]
    assert len(kept) == 5 and all(problem in PROBLEMS for problem in kept)
    for problem in found:
        if problem.gold is None and problem not in PROBLEMS:
            assert (problem.golds, problem.solution, problem.row) == ((), None, {})
    assert [problem.text for problem in found] == [problem.text for problem in PROBLEMS]
    assert hide_labels(PROBLEMS, 5, seed=1) == found != hide_labels(PROBLEMS, 5, seed=2)


def test_labels_that_are_there_stay():
    for labels in (None, 15, 99):
        assert hide_labels(PROBLEMS, labels, seed=0) == PROBLEMS


def test_two_stages_are_shuffled_each():
    labelled = [problem.gold is not None for problem in PROBLEMS]
    places = in_stages(labelled, True, seed=0)
    assert sorted(places) == list(range(20))
    assert [labelled[i] for i in places] == [True] * 15 + [False] * 5
    assert places[:15] != sorted(places[:15]) and places == in_stages(labelled, True, seed=0)
    assert [labelled[i] for i in in_stages(labelled, False, seed=0)] == [False] * 5 + [True] * 15
