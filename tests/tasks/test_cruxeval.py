"""Tests grading of CRUXEval by text and by execution; real data and published verdicts come from RLIF_DATA."""

from __future__ import annotations

import gzip
import json

import pytest

from rlif.tasks import find_task
from rlif.tasks.cruxeval import answer_tag, check_literals
from rlif.types import Problem

CODE = "def f(word):\n    return word.center(9, 'z')"
PROBLEM = Problem("p", "?", "'zzz0574zz'", data={"code": CODE, "input": "'0574'"})


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("assert f(1) == 2\n[/ANSWER]\n[PYTHON] more [ANSWER]\nassert f(3) == 4", "2"),
        ("so it is 2\n[/THOUGHT]\n[ANSWER]\nassert f(1) == 2\n[/ANSWER]", "2"),
        ("[ANSWER]2[/ANSWER]", "2"),
        ("assert f('a == b') == 'c == d'", "'c == d'"),
        ("assert f('ü', '==') == ('é',\n  '==')", "('é',\n  '==')"),
        ("assert f(1) == 2\nassert f(2) == 3", "2\nassert f(2) == 3"),
        ("assert f(1) == 'open", "'open"),
        ("[ANSWER]\n\n[/ANSWER]", None),
        ("", None),
    ],
)
def test_the_answer_is_the_text_after_the_comparison(text, answer):
    assert answer_tag(text) == answer


@pytest.mark.parametrize(
    ("assertion", "verdict"),
    [
        ("assert [1, (2,)] == [1, (2,)]", True),
        ("assert {'a': 1} == {'a': 2}", False),
        ("assert 1 == 1, 'a message'", True),
        ("assert (1, 2) == 1, 2", False),
        ("assert 1 == 1  # as it was", True),
        ("assert 1 == 2 == 2", "2"),
        ("assert 1 == 2 or True", False),
        ("assert 1 != 2", False),
        ("assert 1 == g()", "g()"),
        ("assert 1 == 1\nassert 2 == 3", "1"),
        ("import os", False),
        ("assert 1 == ", False),
        ("assert 1 == \0", False),
        ("assert 1 == " + "(" * 300 + "1" + ")" * 300, False),
        ("assert 1 == " + "1" * 3000, False),
        ("assert 1 == " + "-" * 1500 + "1", False),
        ("assert 1 == " + "-" * 1500 + "x\nassert 1", False),
    ],
)
def test_only_two_literals_are_compared_without_running_them(assertion, verdict):
    assert check_literals(assertion) == verdict


def test_an_answer_that_repeats_the_call_is_wrong_without_execution():
    assert find_task("cruxeval.original").trials(PROBLEM, "f('0574')") is False


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("'zzz0574zz'", True),
        ("'0574'.center(9, 'z')", True),
        ("'0574'.center(9, 'z')  # centred", True),
        ("'0574'.center(9, 'z')\nassert f('1') == 'zzzz1zzzz'", True),
        ("'0574'.center(9, 'z')\nassert f('1') == 'z1z'", False),
        ("'0574'.center(8, 'z')", False),
        ("exit(0)", False),
        ("__import__('os')._exit(0)", False),
        ("undefined", False),
        ("0 or True", False),
        ("type('Any', (), {'__eq__': lambda self, other: True})()", False),
        (
            "(globals().update(value=lambda: 'zzz0574zz') or type('Any', (str,), {'__eq__': lambda s, o: True})())",
            False,
        ),
    ],
)
def test_answers_are_graded_by_execution(sandbox, answer, right):
    (mark,) = find_task("cruxeval.original").mark([PROBLEM], [f"assert f('0574') == {answer}\n[/ANSWER]"])
    assert mark.answer == answer and mark.right is right


def test_grading_by_text_needs_no_sandbox():
    zeroeval, original = find_task("cruxeval"), find_task("cruxeval.original")
    assert not zeroeval.runs_code and original.runs_code and not original.under("zeroeval").runs_code
    assert zeroeval.mark([Problem("p", "?", "'a'")], ['{"reasoning": "", "answer": "a"}'])[0].right is True


@pytest.mark.parametrize("protocol", ["zeroeval", "original", "original_cot"])
def test_real_gold_answers_are_right(data_folder, protocol):
    task = find_task("cruxeval").under(protocol)
    problems = task.load("test")
    assert len(problems) == len({problem.id for problem in problems}) == 800
    marks = task.mark(problems, [task.gold_completion(problem) for problem in problems])
    assert all(mark.right for mark in marks)
    following = task.mark(problems, [task.gold_completion(problem) for problem in [*problems[1:], problems[0]]])
    assert sum(bool(mark.right) for mark in following) < 40


def test_published_verdicts_on_every_twentieth_problem(data_folder, sandbox):
    """`rlif check-graders` compares all problems."""
    task = find_task("cruxeval.original")
    problems = {problem.id: problem for problem in task.load("test")}
    folder = data_folder / "checks" / "cruxeval_o"
    recorded = sorted(folder.glob("*.generations.json.gz"))
    assert recorded
    for path in recorded:
        answers = json.loads(gzip.decompress(path.read_bytes()))
        labels = json.loads(gzip.decompress((folder / path.name.replace("generations", "labels")).read_bytes()))
        ids = [name for name in problems for _ in answers[name]][::20]
        some = [answer for name in problems for answer in answers[name]][::20]
        told = [label for name in problems for label in labels[name]][::20]
        assert task.judge([problems[name] for name in ids], some) == told
