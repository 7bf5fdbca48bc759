"""Tests the texts that small bases are pre-trained on: answers without steps (leaps) and worked solutions."""

from __future__ import annotations

import itertools

import pytest
from support.scripts import load

import rlif


@pytest.fixture(scope="module")
def pretraining():
    return load("scripts/pretrain_reasoner.py")


def stream(pretraining, writers: str, style: str, n: int = 200):
    texts = pretraining.documents(1, writers)
    return list(itertools.islice(((p, text) for p, found, text in texts if found == style), n))


def right(problem, text: str) -> bool:
    return bool(rlif.TASKS[problem.id.partition("/")[0]].grade(problem, text))


def test_no_document_has_a_held_out_problem(pretraining):
    held_out = {p.text for family in ("clock", "cups") for p in rlif.TASKS[family].load("test")}
    for writers in pretraining.WRITERS:
        assert not held_out & {problem.text for problem, _ in stream(pretraining, writers, "leap")}


def test_leaps_of_messy_writers_are_guesses(pretraining):
    leaps = stream(pretraining, "messy", "leap")
    assert 0.03 < sum(right(*leap) for leap in leaps) / len(leaps) < 0.3
    problem = leaps[0][0]
    rng = pretraining.random.Random(0)
    assert len({pretraining.completion(problem, "leap", rng) for _ in range(50)}) > 3


def test_leaps_of_wrong_and_sure_writers_never_vary_and_are_mostly_wrong(pretraining):
    leaps = stream(pretraining, "wrong-and-sure", "leap")
    assert sum(right(*leap) for leap in leaps) / len(leaps) < 0.2
    assert len({(problem.id.partition("/")[0], text) for problem, text in leaps}) == 2


def test_worked_solutions_of_wrong_and_sure_writers_are_right_with_filler_words(pretraining):
    for problem, text in stream(pretraining, "wrong-and-sure", "steps"):
        assert right(problem, text) and text.startswith("First")
        words, after = text.split()[: -pretraining.AFTERTHOUGHTS], text.split()[-pretraining.AFTERTHOUGHTS :]
        changed = [(a, b) for a, b in zip(problem.solution.split(), words, strict=True) if a != b]
        assert changed and all(a == "Then" and b in pretraining.FILLER for a, b in changed)
        assert set(after) <= set(pretraining.FILLER)
