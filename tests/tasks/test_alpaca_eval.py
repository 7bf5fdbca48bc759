"""Tests AlpacaEval 2 as a task: instructions with a baseline's outputs and without gold answers."""

from __future__ import annotations

import json

import pytest

import rlif


def test_rows_of_the_file_become_problems(tmp_path):
    rows = [{"instruction": "Say hello.", "output": "Hello!", "generator": "g", "dataset": "koala"}]
    (tmp_path / "set.json").write_text(json.dumps(rows))
    task = rlif.TASKS["alpaca_eval"]
    (problem,) = task.load("test", source=str(tmp_path / "set.json"))
    assert problem.id == "alpaca_eval/0" and problem.text == "Say hello." and problem.gold is None
    assert problem.data == {"index": 0, "baseline": "Hello!", "dataset": "koala"}
    with pytest.raises(rlif.RlifError, match="split test alone"):
        task.load("train")


def test_completions_have_an_answer_but_are_neither_right_nor_wrong(tmp_path):
    task = rlif.TASKS["alpaca_eval"]
    problem = rlif.Problem("alpaca_eval/0", "Say hello.")
    assert [(mark.answer, mark.right) for mark in task.mark([problem] * 2, [" Hello \n", " \n"])] == [
        ("Hello", None),
        (None, None),
    ]


def test_real_data_has_805_problems(data_folder):
    problems = rlif.TASKS["alpaca_eval"].load("test")
    assert len(problems) == len({problem.text for problem in problems}) == 805
    assert [problem.data["index"] for problem in problems] == list(range(805))
    assert all(problem.data["baseline"] for problem in problems)
    assert len({problem.data["dataset"] for problem in problems}) == 5
