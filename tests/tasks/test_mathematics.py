"""Tests GSM8K, MATH and files of prompts; real data comes from RLIF_DATA."""

from __future__ import annotations

import json

import pytest

import rlif


def test_gsm8k_gold_is_the_number_after_the_hashes(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "2 x 700?", "answer": "It is 1400.\n#### 1,400"}))
    (problem,) = rlif.TASKS["gsm8k"].load("train", source=str(tmp_path))
    assert problem.gold == "1400"
    assert rlif.TASKS["gsm8k"].grade(problem, "so \\boxed{1400.0}") is True


def test_math_gold_is_the_last_box_of_the_solution(tmp_path):
    row = {"problem": "?", "solution": "\\boxed{1}, no: \\boxed{\\frac{1}{2}}"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    (problem,) = rlif.TASKS["math"].load("train", source=str(tmp_path))
    assert problem.gold == "\\frac{1}{2}"
    assert rlif.TASKS["math"].grade(problem, "\\boxed{0.5}") is True


def test_prompts_without_gold_are_not_graded(tmp_path):
    (tmp_path / "prompts.txt").write_text("Name a prime.\n\nWhat is left?\n")
    task = rlif.TASKS["prompts"]
    problems = task.load("train", source=str(tmp_path / "prompts.txt"))
    assert [p.text for p in problems] == ["Name a prime.", "What is left?"]
    assert task.grade(problems[0], "\\boxed{2}") is None
    with pytest.raises(rlif.RlifError, match="source=PATH"):
        task.load("train")


def test_math500_has_no_train_split():
    with pytest.raises(rlif.RlifError, match="train on math"):
        rlif.TASKS["math500"].load("train")


@pytest.mark.parametrize(
    ("name", "split", "rows", "golds"),
    [("gsm8k", "train", 7473, 7473), ("math", "train", 7500, 7498), ("math500", "test", 500, 500)],
)
def test_real_data_has_the_expected_numbers_of_rows_and_golds(data_folder, name, split, rows, golds):
    """Two training problems of MATH have no gold, because their solutions end in an empty box."""
    problems = rlif.TASKS[name].load(split)
    assert len(problems) == rows and sum(problem.gold is not None for problem in problems) == golds
    assert len({problem.id for problem in problems}) == rows


def test_real_golds_are_right_and_golds_of_other_problems_wrong(data_folder):
    task = rlif.TASKS["math500"]
    problems = task.load("test", limit=60)
    assert all(task.grade(p, f"so it is \\boxed{{{p.gold}}}") for p in problems)
    shuffled = [p.gold for p in problems[7:] + problems[:7]]
    wrong = [task.grade(p, f"\\boxed{{{gold}}}") for p, gold in zip(problems, shuffled, strict=True) if gold != p.gold]
    assert len(wrong) > 50 and not any(wrong)
