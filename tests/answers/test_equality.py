"""Equality of answers, and that no expression can take more than itself down."""

from __future__ import annotations

import json
import re
import threading

import pytest

import rlif
from rlif.answers import equality as grading
from rlif.answers import equality_worker as grading_worker
from rlif.answers.clusters import clusters
from rlif.answers.equality import equal, equal_all
from rlif.answers.extraction import last_expression
from rlif.files.tables import read_rows


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("\\frac{1}{2}", "0.5", True),
        ("\\dfrac12", "\\frac{1}{2}", True),
        ("1,234", "1234", True),
        ("10,\\!080", "10080", True),
        ("x=5", "5", True),
        ("50\\%", "\\frac{1}{2}", True),
        ("7", "8", False),
        ("", "8", False),
        ("\\text{Evelyn}", "\\text{Evelyn}", True),
        ("\\text{(C)}", "C", True),
        ("12 \\text{ cm}", "12", True),
        ("12 miles", "12", True),
        ("\\$5", "5", True),
        ("1e3", "1000", True),
        ("\\varnothing", "\\emptyset", True),
        ("(2, 5)", "(5, 2)", False),
        ("(2,5)", "(2, 5)", True),
        ("(2,5)", "2,5", False),
        ("5, 2", "2, 5", True),
        ("\\{5, 2\\}", "2, 5", True),
        ("\\left( 2, 5 \\right)", "(2,5)", True),
        ("[2,5)", "(2,5)", False),
        ("x \\in [0, 1]", "[0,1]", True),
        ("(-\\infty, 0) \\cup (1, 2)", "(-\\infty,0)\\cup(1,2)", True),
        ("2516", "2516_8", False),
        ("2516_8", "2516_{8}", True),
        ("2516_7", "2516_8", False),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", True),
    ],
)
def test_mathematical_equality(answer, gold, same):
    assert equal(answer, gold) is same


def test_whole_numbers_are_compared_as_math_verify_compares_them(monkeypatch):
    numbers = ["0", "7", "-7", "70", "17", "999999", "-999999", "999998", "100000"]
    pairs = [(a, b) for a in numbers for b in numbers]
    ours = equal_all(pairs)
    monkeypatch.setattr(grading, "_differ", lambda answer, gold: False)
    assert ours == equal_all(pairs) == [a == b for a, b in pairs]


def test_whole_numbers_need_no_process(monkeypatch):
    monkeypatch.setattr(grading.Worker, "compare", lambda *_: pytest.fail("a process was used"))
    assert equal_all([("12", "13"), ("12", " 12"), ("-3", "3"), ("", "3")]) == [False, True, False, False]


def test_results_are_cached(monkeypatch):
    assert equal("\\frac{11}{22}", "0.5") and not equal("\\sqrt{11}", "11")
    groups = [["\\frac{13}{26}", None, "0.5", "\\sqrt{13}"], ["x^2+13"], []]
    grading.compare_ahead(groups)
    monkeypatch.setattr(grading.Worker, "compare", lambda *_: pytest.fail("a process was used"))
    assert equal("\\frac{11}{22} ", "0.5") and not equal("\\sqrt{11}", "11")
    assert [clusters(group, equal) for group in groups] == [[[0, 2], [3]], [[0]], []]


@pytest.mark.parametrize("processes", [1, 2, 1000])
def test_processes_of_a_machine_share_its_cores(monkeypatch, processes):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(grading.os, "cpu_count", lambda: 8)
    assert grading._cores() == max(1, 8 // processes)


EQUAL = [
    ("1/3", "0.333333"), ("\\sqrt{8}", "2\\sqrt{2}"), ("x^2-1", "(x-1)(x+1)"), ("\\frac{x^2-1}{x+1}", "x-1"),
    ("\\sin^2 x + \\cos^2 x", "1"), ("\\log_2 8", "3"), ("50\\%", "\\frac{1}{2}"), ("50\\%", "50"),
    ("x = 5", "5"), ("1{,}000.5", "1000.5"), ("\\frac{\\pi}{2}", "\\frac12 \\pi"), ("10^{-9}", "0.0"),
    ("n(n+1)/2", "\\binom{n+1}{2}"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_values_at_one_point_reject_no_equal_answers(answer, gold):
    assert equal(answer, gold)
    assert not grading_worker.differ(grading_worker.prepare(answer), grading_worker.prepare(gold))


def test_values_at_one_point_agree_with_math_verify(monkeypatch, data_folder):
    """Golds of MATH against themselves with one digit or sign changed."""
    golds = [problem.gold for problem in rlif.TASKS["math500"].load("test")]
    changed = [(f"-{gold}", gold) for gold in golds[:120]]
    changed += [(re.sub(r"\d", lambda digit: str(9 - int(digit[0])), gold, count=1), gold) for gold in golds[120:240]]
    rejected = [pair for pair in changed if grading_worker.differ(*map(grading_worker.prepare, pair))]
    assert len(rejected) > 50
    monkeypatch.setattr(grading_worker, "differ", lambda *pair: False)
    assert [pair for pair in rejected if grading_worker.same(*pair)] == []


def test_equal_all_agrees_with_equal():
    pairs = [("1/2", "0.5"), ("7", "8"), ("1/2", "0.5"), ("", "1"), ("x", "x")]
    assert equal_all(pairs) == [equal(*pair) for pair in pairs] == [True, False, True, False, True]
    assert equal_all([]) == []


def test_a_hostile_expression_affects_only_its_own_item():
    """A tower of powers exceeds the time limit; later expressions are graded."""
    tower = "10^{10^{10^{10}}}"
    assert equal_all([(tower, "10^{10^{10}}"), ("2/4", "0.5")], seconds=0.5) == [False, True]
    assert equal(tower, tower) is True
    assert equal("3/6", "0.5") is True


def test_texts_too_long_to_be_answers_are_wrong():
    assert equal("(" * 100_000, "1") is False


def test_a_worker_that_ended_is_replaced():
    assert equal("1/4", "0.25")
    processes = [worker.process for worker in grading._idle if worker.process]
    for process in processes:
        process.kill()
    assert processes and equal_all([("1/8", "0.125"), ("3/8", "0.375"), ("5/8", "0.625")]) == [True] * 3


def test_grading_works_in_any_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(equal("2/8", "0.25")))
    thread.start()
    thread.join()
    assert found == [True]


def test_all_golds_of_math500_grade_as_right_and_none_of_another_problem(data_folder):
    task = rlif.TASKS["math500"]
    problems = task.load("test")
    solved = task.mark(problems, [problem.solution for problem in problems])
    assert len(solved) == 500 and all(found.right for found in solved)
    respelled = equal_all([(f"\\, {problem.gold} ", problem.gold) for problem in problems])
    assert sum(respelled) == 500
    golds = [problem.gold for problem in problems]
    shuffled = [(a, b) for a, b in zip(golds[7:] + golds[:7], golds, strict=True) if a != b]
    assert len(shuffled) > 490 and not any(equal_all(shuffled))


def test_all_golds_of_gsm8k_grade_as_right_against_their_solutions(data_folder):
    rows = read_rows(str(data_folder / "gsm8k"), "test")
    problems = rlif.TASKS["gsm8k"].load("test")
    pairs = [(last_expression(row["answer"]), problem.gold) for row, problem in zip(rows, problems, strict=True)]
    assert len(pairs) == 1319 and all(equal_all(pairs))


def test_published_verdicts_on_gsm8k(data_folder):
    """Solutions of four models with the verdicts that OpenAI published for them."""
    rows = read_rows(str(data_folder / "checks" / "gsm8k_labelled.jsonl.gz"), "test")
    graded = [
        (row["ground_truth"].rpartition("A: ")[2], solution["solution"].rpartition("A: ")[2], solution["is_correct"])
        for row in rows
        for solution in row.values()
        if isinstance(solution, dict)
    ]
    verdicts = equal_all([(answer, gold) for gold, answer, _ in graded])
    assert len(graded) == 2640 and verdicts == [label for *_, label in graded]


def test_published_scores_of_zeroeval(data_folder):
    expected = json.loads((data_folder / "checks" / "expected.json").read_text())
    for name, task in (("gsm", "gsm8k"), ("math-l5", "math")):
        task = rlif.TASKS[task].under("zeroeval")
        problems = {problem.id: problem for problem in task.load("test")}
        for key in (key for key in expected if key.startswith(f"zeroeval_{name}/") and "Llama-3.1" not in key):
            rows = read_rows(str(data_folder / "checks" / f"{key}.jsonl.gz"), "test")
            marks = task.mark([problems[str(row["id"])] for row in rows], [row["output"] for row in rows])
            assert round(100 * sum(bool(found.right) for found in marks) / len(rows), 2) == expected[key]["published"]
