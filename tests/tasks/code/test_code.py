"""HumanEval, MBPP and contests: programs that are run, in the sandbox."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import pytest

import rlif
from rlif.sandbox.runner import Outcome, run_programs
from rlif.tasks import find_task
from rlif.tasks.code import evalplus, programs
from rlif.tasks.code.evalplus_oracle import agree, close, restore
from rlif.tasks.code.humaneval import completed
from rlif.tasks.code.livecodebench import read_tests, unpack
from rlif.tasks.code.mbpp import split_assertion
from rlif.tasks.code.programs import Trial, run_trials, same_output
from rlif.tasks.code.stdin_tests import trials_of
from rlif.types import Problem


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n", "1 2", True),
        ("  1 2  \n3\n\n", "1 2\n3", True),
        ("1.50 2", "1.5 2.0", True),
        ("1\t2", "1 2", True),
        ("1 2 3", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("Yes", "YES", False),
        ("a 1", "a 1.0", False),
        ("50000000000000001", "50000000000000000", False),
        ("nan", "nan", True),
        ("", "", True),
    ],
)
def test_outputs_are_compared_line_by_line_and_number_by_number(printed, expected, same):
    assert same_output(printed, expected) is same


def test_trials_run_in_growing_batches_until_one_fails(monkeypatch):
    waves = []

    def run(batch, **_):
        waves.append(list(batch))
        return [Outcome("error" if program == 5 else "ok", "", "", 0, 0.0) for program in batch]

    monkeypatch.setattr(programs, "run_programs", run)
    good, bad = [Trial(1)] * 9, [Trial(2), Trial(5), *[Trial(3)] * 90]
    assert run_trials([good, bad, [], [Trial(4, expected="x")]]) == [True, False, False, False]
    assert [sorted(wave) for wave in waves] == [[1, 2, 4], [1, 1, 3, 5], [1] * 4, [1, 1]]


def test_equal_answers_are_run_once(monkeypatch):
    ran = []
    monkeypatch.setattr(programs, "run_programs", lambda batch, **_: ran.extend(batch) or [])
    monkeypatch.setattr(programs, "run_trials", lambda trials, **_: [ran.append(t) or True for t in trials])
    task = find_task("mbpp.base")
    spec = {"name": "f", "prompt": "", "number": None, "base": "[]", "plus": "[]", "atol": 0.0}
    problems = [Problem("a", "?", "x", data=spec), Problem("b", "?", "x", data=spec)]
    owners = [problems[0], problems[0], problems[1], problems[0]]
    assert task.judge(owners, ["one", "one", "one", "x" * 300_000]) == [True, True, True, False]
    assert len(ran) == 2


def test_a_function_is_completed_or_replaced():
    prompt = "import math\n\ndef f(x):\n    '''f'''\n"
    assert completed(prompt, "f", "    return x") == f"{prompt}    return x\n"
    assert completed(prompt, "f", "def f(x):\n    return 1") == "import math\n\n\ndef f(x):\n    return 1\n"
    assert completed('"""text"""\n', "f", "def f(x): pass").strip() == "def f(x): pass"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mbpp", {"test_list": ["x = 1"]}, "a test of problem 11 of .* is not one assertion"),
        ("mbpp", {"test_list": ["assert f(1)", "assert ("]}, "a test of problem 11 of .* is not one assertion"),
        ("mbpp", {"test_setup_code": ["x"]}, "'test_setup_code' in row 1 of .* is a list"),
        ("mbpp.plus", {"atol": "much"}, "the atol of 'Mbpp/3' of .* is 'much'"),
        ("mbpp.plus", {"atol": float("nan")}, "the atol of 'Mbpp/3' of .* is nan"),
        ("mbpp.plus", {"task_id": "Mbpp/x"}, "the task_id 'Mbpp/x' of .* has no number"),
        ("mbpp.plus", {"base_input": "[1"}, "has no list 'base_input' of arguments"),
        ("mbpp.plus", {"base_input": [1]}, "has no list 'base_input' of arguments"),
    ],
)
def test_rows_that_could_not_be_graded_are_refused(tmp_path, name, changes, message):
    row = {"task_id": 11, "text": "t", "code": "c", "test_list": ["assert f(1) == 2"]}
    if name == "mbpp.plus":
        row = {"task_id": "Mbpp/3", "prompt": "p", "entry_point": "f", "canonical_solution": "c"}
        row |= {"base_input": [[1]], "plus_input": [[2]]}
    (tmp_path / "test.json").write_text(json.dumps([row | changes]))
    with pytest.raises(rlif.RlifError, match=message):
        find_task(name).load("test", source=str(tmp_path / "test.json"))


@pytest.mark.parametrize(
    ("test", "sides"),
    [
        ("assert f(1) == {2}", ("f(1)", "{2}")),
        ("assert set(f(1)) == set([2])", ("set(f(1))", "set([2])")),
        ("assert f(1) == sys.maxsize", ("bool(f(1) == sys.maxsize)", "True")),
        ("assert not f(1)", ("bool(not f(1))", "True")),
        ("assert 1 < f(1) < 2", ("bool(1 < f(1) < 2)", "True")),
    ],
)
def test_an_assertion_is_split_into_expression_and_value(test, sides):
    assert split_assertion(test) == sides


def test_types_that_json_removed_are_restored():
    assert restore(2, [[1], [2]]) == [(1,), (2,)]
    assert restore(63, [[[1, 2]]]) == [[(1, 2)]]
    assert restore(259, [[[1]], [[2]]]) == [((1,),), ((2,),)]
    assert restore(75, [[[1]], 3]) == [[(1,)], 3]
    assert restore(307, [[1, [2]], 3, 4]) == [(1, [2]), 3, 4]
    assert restore(106, [[1], [2]]) == [[1], (2,)]
    assert restore(580, [[1, [2]]]) == [(1, (2,))]
    assert restore(115, [[[1], [], 2]]) == [[{1}, {}, {}]]
    assert restore(124, ["1.5", "2j"]) == [1.5, 2j] and restore(252, ["3+1j"]) == [3 + 1j]
    assert restore(278, [[1, [2]]]) == [(1, (2,))] and restore(722, [{"a": [1]}, 2]) == [{"a": (1,)}, 2]
    assert restore(3, [[1]]) == [[1]]


@pytest.mark.parametrize(
    ("name", "out", "expected", "atol", "same"),
    [
        ("f", [1, 2], [1, 2], 0, True),
        ("f", [2, 1], [1, 2], 0, False),
        ("Diff", [2, 1], [1, 2], 0, True),
        ("check_str", object(), "a match", 0, True),
        ("check_str", False, "a match", 0, False),
        ("check_str", None, None, 0, True),
        ("sum_div", 0, 7, 0, True),
        ("sum_div", 1, 7, 0, False),
        ("are_equivalent", "?", True, 0, True),
        ("f", 1.0000001, 1.0, 0, True),
        ("f", 1.0001, 1.0, 0, False),
        ("f", 1.00005, 1.0, 1e-4, True),
        ("f", 1, 2, 0, False),
        ("f", (1.0, 2.0), [1.0, 2.0], 0, True),
        ("f", [1.0], [1.0, 2.0], 0, False),
        ("f", "1.0", 1.0, 0, False),
    ],
)
def test_what_agrees_with_the_reference(name, out, expected, atol, same):
    assert agree(name, [], out, expected, atol) is same


def test_any_root_of_the_polynomial_is_right():
    assert agree("find_zero", [[-4, 0, 1]], 2.0, -2.0, 1e-4) and not agree("find_zero", [[-4, 0, 1]], 1.9, 2.0, 1e-4)
    assert close(float("nan"), float("nan"), 1e-6) and not close(float("inf"), 1.0, 1e-6)


def packed(value) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def contest_row(**changes):
    tests = [{"input": "2 3\n", "output": "5\n", "testtype": "stdin"}]
    hidden = [{"input": "20 30\n", "output": "50\n", "testtype": "stdin"}]
    row = {
        "question_id": "abc1",
        "question_content": "Add two numbers.",
        "contest_date": "2025-01-04T00:00:00",
        "starter_code": "",
        "public_test_cases": json.dumps(tests),
        "private_test_cases": packed(json.dumps(hidden)),
        "metadata": "{}",
    }
    return row | changes


def contest(tmp_path, name="test.jsonl", **changes):
    (tmp_path / name).write_text(json.dumps(contest_row(**changes)))
    return str(tmp_path)


def test_a_contest_problem_has_public_and_private_tests(tmp_path):
    (problem,) = find_task("livecodebench").load("v6", source=contest(tmp_path))
    assert problem.data["tests"] == [{"input": "2 3\n", "output": "5\n"}, {"input": "20 30\n", "output": "50\n"}]
    assert problem.data["function"] is None and "Add two numbers." in problem.text


def test_dates_decide_the_release(tmp_path):
    days = {"test.jsonl": "2023-05-07", "test5.jsonl": "2025-01-03", "test6.jsonl": "2025-01-04"}
    for name, day in days.items():
        contest(tmp_path, name, question_id=day, contest_date=f"{day}T12:00:00")
    task = find_task("livecodebench")
    sizes = {split: [p.data["date"] for p in task.load(split, source=str(tmp_path))] for split in task.splits}
    assert sizes == {"v5": [*days.values()][:2], "v6-increment": ["2025-01-04"], "v6": [*days.values()]}
    (tmp_path / "test6.jsonl").unlink()
    with pytest.raises(rlif.RlifError, match="no problem of v6-increment"):
        task.load("v6-increment", source=str(tmp_path))
    with pytest.raises(rlif.RlifError, match="has the splits"):
        task.load("test", source=str(tmp_path))


class Attack:
    def __reduce__(self):
        return (print, ("run!",))


@pytest.mark.parametrize("hidden", [packed(Attack()), packed([len]), "%%%", base64.b64encode(b"x").decode(), "", "{}"])
def test_private_tests_are_plain_data_or_refused(tmp_path, capsys, hidden):
    with pytest.raises(rlif.RlifError, match="problem abc1 of"):
        find_task("livecodebench").load("v6", source=contest(tmp_path, private_test_cases=hidden))
    assert capsys.readouterr().out == ""


def test_packed_and_plain_tests_are_the_same():
    tests = [{"input": "1", "output": "2"}]
    assert read_tests(json.dumps(tests)) == read_tests(packed(json.dumps(tests))) == read_tests(tests) == tests
    assert unpack(packed({"a": [1, "b"]})) == {"a": [1, "b"]}


SPECIAL = ("HumanEval/32", "HumanEval/33", "HumanEval/50", "mbpp/367", "Mbpp/793")  # tests need more than a function
LAYOUTS = [
    {"name": "x", "description": "?", "public_tests": {"input": ["1"], "output": ["2"]}, "generated_tests": None},
    {"problem": "?", "tests": {"inputs": ["1"], "outputs": ["2"]}},
    {"problem": "?", "tests": [{"input": "1", "output": "2"}]},
    {"content": "?", "test": json.dumps([{"input": {"stdin": "1"}, "output": {"stdout": "2"}}])},
]


@pytest.mark.parametrize("row", LAYOUTS)
def test_layouts_of_contest_problems(tmp_path, row):
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    (problem,) = find_task("code_contests").load("train", source=str(tmp_path))
    assert problem.data["tests"] == [{"input": "1", "output": "2"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, "has none of description, problem, content; it has question"),
        ({"problem": "?"}, "none of the known layouts"),
        ({"problem": "?", "tests": {"inputs": ["1"], "outputs": []}}, "none of the known layouts"),
    ],
)
def test_unknown_layouts(tmp_path, row, message):
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(rlif.RlifError, match=message):
        find_task("code_contests").load("train", source=str(tmp_path))


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("print(sum(map(int, input().split())))", True),
        ("if __name__ == '__main__':\n    a, b = map(int, sys.stdin.read().split())\n    print(a + b)", True),
        ("print(5)", False),
        ("print(sum(map(int, input().split())))\nraise SystemExit(1)", False),
        ("import subprocess, nothing", False),
    ],
)
def test_programs_that_print(tmp_path, sandbox, code, right):
    task = find_task("livecodebench")
    (problem,) = task.load("v6", source=contest(tmp_path))
    marks = task.mark([problem] * 2, [f"So:\n```python\n{code}\n```", "no code"])
    assert [mark.right for mark in marks] == [right, False]


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("class Solution:\n    def pair(self, xs: List[int], n: int):\n        return (sum(xs), n)", True),
        ("def pair(xs, n):\n    return [sum(xs), n]", True),
        ("def pair(xs, n):\n    return [[sum(xs)], n]", False),
        ("def other(xs, n):\n    return [sum(xs), n]", False),
    ],
)
def test_functions_are_called_with_json(sandbox, code, right):
    tests = [{"input": "[1, 2]\n7", "output": "[3, 7]"}, {"input": "[]\n0", "output": "[0, 0]"}]
    assert run_trials([trials_of(code, tests, "pair")]) == [right]


@pytest.mark.sweep
def test_real_functions(data_folder, sandbox):
    """Some of each; all of them are for `rlif eval --check-gold`."""
    for name in ("humaneval", "humaneval.chat", "humaneval.plus", "mbpp", "mbpp.plus"):
        task = find_task(name)
        problems = task.load("test")
        problems = problems[:3] + [problem for problem in problems if problem.id in SPECIAL]
        golds = [task.gold_completion(problem) for problem in problems]
        assert all(mark.right for mark in task.mark(problems, golds)), name
        assert not any(mark.right for mark in task.mark(problems, [golds[-1], *golds[:-1]])), name


BOOKS = """
n, m = map(int, input().split())
titles = [(input(), i + 1) for i in range(n)]
key = lambda book: [ord(c) if j % 2 == 0 else -ord(c) for j, c in enumerate(book[0])]
print(*[i for _, i in sorted(titles, key=key)])
"""
CARDS = """
for _ in range(int(input())):
    row = input()
    print("YES" if sum(a != b for a, b in zip(row, "abc")) <= 2 else "NO")
"""
SENIORS = """
class Solution:
    def countSeniors(self, details: List[str]) -> int:
        return sum(int(d[11:13]) > 60 for d in details)
"""


def test_additional_inputs_reject_more_programs(tmp_path, sandbox):
    """HumanEval+ in EvalPlus' layout: the second completion is right on the original inputs alone."""
    row = {"task_id": "HumanEval/0", "prompt": "def f(x):\n    # Doubles x.\n", "entry_point": "f", "atol": 0}
    row |= {"canonical_solution": "    return 2 * x\n", "base_input": [[1]], "plus_input": [[[]], [-1.5]]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    task = find_task("humaneval.plus")
    (problem,) = task.load("test", source=str(tmp_path))
    bodies = [task.gold_completion(problem), "    return 2 if x == 1 else None\n", "    while x: pass\n"]
    assert [mark.right for mark in task.mark([problem] * 3, bodies)] == [True, False, False]
    (tmp_path / "test.jsonl").write_text(json.dumps(row | {"plus_input": None}))
    with pytest.raises(rlif.RlifError, match=r"'HumanEval/0' of .* has no list 'plus_input'"):
        task.load("test", source=str(tmp_path))


def test_an_import_has_a_limit_of_time(sandbox, monkeypatch):
    monkeypatch.setattr(evalplus, "ORACLE", evalplus.ORACLE.replace("LOADING = 10.0", "LOADING = 0.5"))
    spec = {"name": "f", "prompt": "", "number": None, "base": "[[1]]", "plus": "[]", "atol": 0.0}
    problem = Problem("a", "?", "def f(x): return x", data=spec)
    (endless,) = evalplus.plus_trials(problem, "while True: pass", extra=False)
    (outcome,) = run_programs([endless.program])
    assert outcome.status == "error" and "TimeoutError" in outcome.stderr


def test_real_contest_problems(data_folder, sandbox):
    task, folder = find_task("code_contests"), data_folder / "code_contests"
    loaded = {path.name: task.load("test", source=str(path)) for path in sorted(folder.glob("*.gz"))}
    assert [len(problems) for problems in loaded.values()] == [165, 408, 20]
    books = loaded["code_contests_test.json.gz"][0]
    minimum = "for _ in range(int(input())): print(*sorted(map(int, input().split())))"
    smallest = loaded["codeforces_test.json.gz"][0]
    marks = task.mark([books, smallest, books], [f"```\n{code}\n```" for code in (BOOKS, minimum, minimum)])
    assert [mark.right for mark in marks] == [True, True, False]

    task = find_task("livecodebench")
    problems = task.load("v6", source=str(data_folder / "livecodebench" / "sandboxfusion_lcb_samples.jsonl"))
    assert [len(problem.data["tests"]) for problem in problems] == [5, 14, 15]
    assert [problem.data["function"] for problem in problems] == [None, "countSeniors", None]
    marks = task.mark(problems, [f"```python\n{code}\n```" for code in (CARDS, SENIORS, CARDS)])
    assert [mark.right for mark in marks] == [True, True, False]


def test_programs_and_values_are_not_compared_as_mathematics():
    """Sympy would call the first two equal, and the last two."""
    contests, values = find_task("livecodebench"), find_task("cruxeval.original")
    assert not contests.equal("x = int(input())\nprint(x + 1)", "x = int(input())\nprint(x - 1)")
    assert contests.equal("print(1)", "print(1)")
    assert values.equal("'ab'", '"ab"') and values.equal("[1, 2]", "[1,2]") and values.equal("f(", "f(")
    assert not values.equal("'ab'", "'ba'") and not values.equal("'10'", "10") and not values.equal("x", "y")
    assert not values.equal("1" * 400 + "+1j", "2")  # too large for a complex number
