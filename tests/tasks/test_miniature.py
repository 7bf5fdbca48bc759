"""Tests the problems that ship: their answers are right, and nothing trains on the held-out split."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from support.scripts import load

import rlif
from rlif.tasks.miniature import HOURS, split_of

FAMILIES = ("clock", "cups")


def solve(text: str) -> str:
    """Solves a problem from its text alone, independently of the task."""
    if text.startswith("A clock"):
        start, *added = [HOURS.index(word) + 1 for word in re.findall("[a-z]+", text) if word in HOURS]
        return HOURS[(start + sum(added)) % 12 - 1]
    position = re.findall(r"cup (\w)", text)[0]
    for a, b in re.findall(r"Swap (\w) and (\w)", text):
        position = {a: b, b: a}.get(position, position)
    return position


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_answers_are_right_and_solutions_end_in_them(family):
    task = rlif.TASKS[family]
    for problem in task.load("test") + task.load("train", limit=300):
        assert problem.gold == solve(problem.text)
        assert task.grade(problem, problem.solution) is True
        assert task.grade(problem, "The answer is \\boxed{no}.") is False
        assert task.grade(problem, f"The answer is {problem.gold}.") is False


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_distinct_problems(family):
    task = rlif.TASKS[family]
    problems = task.load("train", limit=200, seed=3)
    assert problems == task.load("train", limit=200, seed=3)
    assert problems != task.load("train", limit=200, seed=4)
    assert len({problem.id for problem in problems}) == 200


def test_held_out_problems_never_occur_in_training():
    for family in FAMILIES:
        task = rlif.TASKS[family]
        held_out = {problem.text for problem in task.load("test")}
        trained = {problem.text for seed in range(5) for problem in task.load("train", seed=seed)}
        assert len(held_out) == 256 and not held_out & trained
        assert {split_of(text) for text in held_out} == {"test"} and {split_of(text) for text in trained} == {"train"}


@pytest.mark.sweep
def test_held_out_problems_never_occur_in_pretraining():
    """Reads all documents that the shipped model was pre-trained on."""
    pretrain = load("scripts/base_writers.py")
    held_out = {problem.text for family in FAMILIES for problem in rlif.TASKS[family].load("test")}
    stream = pretrain.documents(seed=0)
    read = {problem.text for problem, _, _ in itertools.islice(stream, pretrain.STEPS * pretrain.BATCH)}
    assert len(read) > 10_000 and not read & held_out


def test_a_source_and_unknown_splits_are_refused():
    with pytest.raises(rlif.RlifError, match="source must be left out"):
        rlif.TASKS["clock"].load("train", source="x.jsonl")
    with pytest.raises(rlif.RlifError, match="train and test"):
        rlif.TASKS["clock"].load("validation")


def test_random_answers_are_right_about_one_time_in_twelve():
    rng, task = random.Random(0), rlif.TASKS["clock"]
    problems = task.load("train", limit=2000)
    right = sum(task.grade(p, f"\\boxed{{{rng.choice(HOURS)}}}") for p in problems)
    assert 0.05 < right / 2000 < 0.12
