"""Equality of answers, and that no expression can take more than itself down."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest

import rlif
from rlif.answers import equality as grading
from rlif.answers.clusters import clusters
from rlif.answers.equality import equal, equal_all
from rlif.answers.extraction import last_expression
from rlif.files.tables import read_rows

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", sorted({pair["kind"] for pair in PAIRS}))
def test_answers_of_every_kind_are_compared_as_they_mean(kind):
    """Each pair of pairs.jsonl, in both orders."""
    pairs = [pair for pair in PAIRS if pair["kind"] == kind]
    for first, second in (("answer", "gold"), ("gold", "answer")):
        assert [pair for pair in pairs if equal(pair[first], pair[second]) != pair["equal"]] == []


@pytest.mark.parametrize("text", ["", " ", "\\boxed{}", "$$", "**", ".", "\\text{ }"])
def test_an_empty_answer_equals_nothing(text):
    assert not equal(text, text) and not equal(text, "1") and not equal("0", text)


def test_whole_numbers_need_no_process(monkeypatch):
    monkeypatch.setattr(grading.Worker, "compare", lambda *_: pytest.fail("a process was used"))
    assert equal_all([("12", "13"), ("12", " 12"), ("-3", "3"), ("", "3"), ("007", "7"), ("70", "7")]) == [
        *[False, True, False, False, True, False]
    ]


def test_results_are_cached(monkeypatch):
    assert equal("\\sqrt{44}", "2\\sqrt{11}") and not equal("\\sqrt{11}", "11")
    groups = [["\\sqrt{13}", None, "13^{0.5}", "\\sqrt{14}"], ["x^2+13"], []]
    grading.compare_ahead(groups)
    monkeypatch.setattr(grading.Worker, "compare", lambda *_: pytest.fail("a process was used"))
    assert equal("\\sqrt{44}", "2\\sqrt{11}") and not equal("\\sqrt{11}", "11")
    assert [clusters(group, equal) for group in groups] == [[[0, 2], [3]], [[0]], []]


@pytest.mark.parametrize("processes", [1, 2, 1000])
def test_processes_of_a_machine_share_its_cores(monkeypatch, processes):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(grading.os, "cpu_count", lambda: 8)
    assert grading._cores() == max(1, 8 // processes)


def test_equal_all_agrees_with_equal():
    pairs = [("1/2", "0.5"), ("7", "8"), ("1/2", "0.5"), ("", "1"), ("x", "x")]
    assert equal_all(pairs) == [equal(*pair) for pair in pairs] == [True, False, True, False, True]
    assert equal_all([]) == []


def test_a_hostile_expression_affects_only_its_own_item():
    """A tower of powers exceeds the time limit; later expressions are graded."""
    tower = "10^{10^{10^{10}}}"
    assert equal_all([(tower, "10^{10^{10}}"), ("\\sqrt{4}", "2")], seconds=0.5) == [False, True]
    assert equal(tower, tower) is True
    assert equal("\\sqrt{9}", "3") is True


@pytest.mark.parametrize("hostile", ["9^{{9^{{9^{{9+{}}}}}}}", "\\prod_{{k=1}}^{{10^8}} (k+{})", "{}0000000!"])
def test_the_answers_of_a_group_are_compared_within_one_time_limit(hostile):
    answers = [hostile.format(number) for number in range(1, 9)] + ["6.0", "6"]
    began = time.monotonic()
    found = clusters(answers, equal, seconds=1.0)
    assert found == [[number] for number in range(8)] + [[8, 9]]
    assert time.monotonic() - began < 60  # two processes may start; all pairs would take 7 minutes


def test_long_lists_are_compared_within_the_time_limit_of_their_group():
    """Each number is compared with each, which takes up to a second for one pair."""
    lists = [",".join(f"{number}.{'0' * zeros}" for number in range(100, 350)) for zeros in range(1, 4)]
    answers = [*lists, *(",".join(reversed(text.split(","))) for text in lists), "6.0", "6"]
    found = clusters(answers, equal, seconds=0.01)
    assert len(found) > 2 and found[-1] == [6, 7]  # all lists are equal, but most are not compared


def test_time_that_a_group_lost_is_not_spent_again(monkeypatch):
    """Groups are compared ahead, then again."""
    asked = []
    monkeypatch.setattr(grading.Worker, "compare", lambda self, pair, seconds: asked.append(pair))
    answers = [f"7^{{7^{{7^{{7+{number}}}}}}}" for number in range(4)]
    assert len(clusters(answers, equal, seconds=1.0)) == 4 and len(asked) == 6
    assert len(clusters(answers, equal, seconds=1.0)) == 4 and len(asked) == 6


def test_the_process_imports_nothing_of_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    worker = grading.Worker()
    assert worker.compare(("\\sqrt{9}", "3"), 60.0) is True
    worker.stop()


def test_clusters_do_not_depend_on_the_order_of_the_samples():
    answers = ["50\\%", "0.5", "50", "1/2", "\\sqrt{4}", "2", None, "x^2-1", "(x-1)(x+1)", "7"]
    chance, found = random.Random(0), set()
    for _ in range(20):
        order = chance.sample(range(len(answers)), len(answers))
        groups = clusters([answers[place] for place in order], equal)
        found.add(frozenset(frozenset(order[member] for member in group) for group in groups))
    assert found == {frozenset(map(frozenset, [{0, 1, 2, 3}, {4, 5}, {7, 8}, {9}]))}


def test_texts_too_long_to_be_answers_are_wrong():
    assert equal("(" * 100_000, "1") is False


def test_a_worker_that_ended_is_replaced():
    assert equal("\\sqrt{17}", "17^{1/2}")
    processes = [worker.process for worker in grading._idle if worker.process]
    for process in processes:
        process.kill()
    assert processes and equal_all([(f"\\sqrt{{{n}}}", f"{n}^{{1/2}}") for n in (18, 19, 20)]) == [True] * 3


def test_grading_works_in_any_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(equal("\\sqrt{21}", "21^{1/2}")))
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
