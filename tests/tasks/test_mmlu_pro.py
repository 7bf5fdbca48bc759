"""Tests MMLU-Pro: worked examples in the prompt, options, and the letter of the answer."""

from __future__ import annotations

import json

import pytest

import rlif
from rlif.tasks import find_task
from rlif.tasks.mmlu_pro import draw

ROW = {"question_id": 7, "question": "Which?", "category": "law", "src": "x", "cot_content": ""}


def rows(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    worked = [
        ROW | {"question_id": i, "category": "law" if i % 2 else "math", "options": ["a", "b"], "answer": "B"}
        | {"question": f"Number {i}?", "cot_content": "A: Let's think step by step. It is b. The answer is (B)."}
        for i in range(10)
    ]  # fmt: skip
    test = [ROW | {"options": ["x", "N/A", "y", "z"], "answer": "C"}]
    return rows(tmp_path, validation=worked, test=test)


def test_the_prompt_begins_with_worked_questions_of_the_same_subject(folder):
    (problem,) = find_task("mmlu_pro").load("test", source=folder)
    assert [shot.split("\n")[1] for shot in problem.shots] == [f"Number {i}?" for i in (1, 3, 5, 7, 9)]
    assert problem.shots[0].endswith("Answer: Let's think step by step. It is b. The answer is (B).\n\n")
    assert problem.text.endswith("Options:\nA. x\nB. y\nC. z\nAnswer: Let's think step by step.")
    assert "law" in problem.preamble


def test_worked_questions_are_found_beside_a_single_file(folder):
    (problem,) = find_task("mmlu_pro").load("test", source=f"{folder}/test.jsonl")
    assert len(problem.shots) == 5


def test_only_lighteval_loads_without_worked_questions(tmp_path):
    source = rows(tmp_path, test=[ROW | {"options": ["x", "y"], "answer": "A"}])
    with pytest.raises(rlif.RlifError, match=r"validation\.jsonl.*mmlu_pro\.lighteval"):
        find_task("mmlu_pro").load("test", source=source)
    (problem,) = find_task("mmlu_pro.lighteval").load("test", source=source)
    assert problem.shots == () and "A) x\nB) y" in problem.text


def test_only_the_draw_reads_the_data_of_the_problem():
    found = {name: find_task(name).reads_data for name in ("mmlu_pro", "mmlu_pro.guess", "mmlu_pro.lighteval", "gsm8k")}
    assert found == {name: name == "mmlu_pro.guess" for name in found}
    assert find_task("mmlu_pro.guess").under("official").reads_data is False


def test_a_missing_letter_is_wrong_or_drawn_at_random_by_the_guess_variant(folder):
    for answer in "ABC":
        rows_ = [ROW | {"options": ["x", "y", "z"], "answer": answer}]
        with open(f"{folder}/test.jsonl", "w") as file:
            file.write(json.dumps(rows_[0]))
        (problem,) = find_task("mmlu_pro").load("test", source=folder)
        (strict,) = find_task("mmlu_pro").mark([problem], ["who knows"])
        (drawn,) = find_task("mmlu_pro.guess").mark([problem], ["who knows"])
        assert (strict.answer, strict.right) == (None, False)
        assert (drawn.answer, drawn.right) == (None, draw(3) == answer)
        assert find_task("mmlu_pro.guess").mark([problem], [f"the answer is ({answer})"])[0].right is True


def test_real_gold_answers_are_right(data_folder):
    task = find_task("mmlu_pro.lighteval")
    problems = task.load("test")
    assert len(problems) == len({problem.id for problem in problems}) == 12032
    assert all(mark.right for mark in task.mark(problems, [task.gold_completion(problem) for problem in problems]))
