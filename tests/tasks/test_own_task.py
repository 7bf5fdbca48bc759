"""Tasks of one's own."""

from __future__ import annotations

import pytest

from rlif.errors import DataError, RecipeError
from rlif.tasks import Task, find_task

HEAD = """
from rlif.tasks import Protocol, Task
from rlif.types import Problem

class Riddles(Task):
    {body}
    def load(self, split, *, source=None, limit=None, seed=0):
        {load}
"""
GOOD = 'return [Problem(str(i), f"What is {i} + 1?", str(i + 1)) for i in range(4)][:limit]'


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()

    def write(load=GOOD, body="", text=None):
        (tmp_path / "tasks/riddles.py").write_text(text or HEAD.format(load=load, body=body))

    return write


def test_a_task_is_found_by_file_and_by_name_with_its_protocols(write):
    write(body='protocols = {"default": Protocol(), "short": Protocol(max_tokens=7)}')
    for name in ("tasks/riddles.py:Riddles", "Riddles"):
        task, short = find_task(name), find_task(f"{name}.short")
        assert (task.name, short.name, short.protocol.max_tokens) == ("Riddles", "Riddles.short", 7)
        (problem, _) = task.load("test", limit=2)
        assert task.grade(problem, "\\boxed{1}") is True and task.grade(problem, "\\boxed{2}") is False
    with pytest.raises(RecipeError, match="unknown protocol of Riddles 'shrt'; did you mean 'short'"):
        find_task("Riddles.shrt")
    with pytest.raises(RecipeError, match="unknown task 'Ridles'; did you mean 'Riddles'"):
        find_task("Ridles")


def test_an_instance_with_arguments_is_a_task_too(write):
    write(text=HEAD.format(load=GOOD, body="name = 'hard'") + "\nHARD = Riddles()\nHARD.level = 3\n")
    task = find_task("tasks/riddles.py:HARD")
    assert isinstance(task, Task) and (task.name, task.level) == ("hard", 3) and len(task.load("train")) == 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("name = 'gsm8k'", "has the name 'gsm8k', which ships; give it another `name`"),
        ("protocols = {}", "has protocols {}; expected"),
        ("protocols = {'default': 5}", "the protocol 'default' of the task .* is a int, not a Protocol"),
        (
            "protocols = {'default': Protocol(max_tokens=-8)}",
            "max_tokens of the protocol 'default' .* is -8; expected a number from 1",
        ),
        ("name = '../up'", "has the name '../up'; use letters, digits"),
        ("def __init__(self): pass", r"does not call `super\(\).__init__\(\)`"),
        ("def __init__(self): 1 / 0", r"raised ZeroDivisionError: division by zero at .*riddles\.py, line 6\."),
    ],
)
def test_classes_that_cannot_be_tasks(write, body, message):
    write(body=body)
    with pytest.raises(RecipeError, match=message):
        find_task("tasks/riddles.py:Riddles")


def test_what_is_no_task(write):
    write(text="class Riddles: pass\ndef f(): pass\nfrom rlif.tasks import Task\nclass Bare(Task): pass\n")
    with pytest.raises(RecipeError, match="is the class Riddles; a task is a class over"):
        find_task("Riddles")
    with pytest.raises(RecipeError, match="is a function; a task is a class over"):
        find_task("tasks/riddles.py:f")
    with pytest.raises(RecipeError, match="Bare has no load; define it"):
        find_task("tasks/riddles.py:Bare")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("return 1 / 0", r"^the task Riddles raised ZeroDivisionError: division by zero at .*riddles\.py, line 8\.$"),
        ("return []", "loads no problem for the split 'train'"),
        ("return None", "loads a NoneType for the split"),
        ("return ['a']", r"problem 1 of the task Riddles is a str; expected a rlif\.types\.Problem"),
        ("return [Problem('1', 'What?', 4)]", "the gold of problem 1 of the task Riddles is 4; expected text, as '4'"),
        ("return [Problem('1', '?')] * 3", "loads 3 problems where `limit` is 2"),
        ("return [Problem('1', ' ')]", "the text of problem 1 of the task Riddles is empty; leave the problem out"),
        ("return [Problem('1', '?', '')]", "the gold of problem 1 of the task Riddles is empty; use None"),
        ("return [Problem('1', '?', '4', other_golds=[5])]", r"other_golds of problem 1 .* is \[5\]; expected a tuple"),
    ],
)
def test_what_load_does_wrong_is_said(write, load, message):
    write(load=load)
    with pytest.raises(DataError, match=message):
        find_task("Riddles").load("train", limit=2)


def test_grading_that_raises_names_its_line(write):
    write(body="def equal(self, answer, gold): return int(answer) == int(gold)\n    extract = staticmethod(str)")
    task = find_task("Riddles")
    (problem,) = task.load("train", limit=1)
    assert task.grade(problem, "1") is True


def test_an_answer_that_is_not_text_is_refused(write):
    write(body="extract = staticmethod(len)")
    task = find_task("Riddles")
    with pytest.raises(DataError, match="the task Riddles extracts 3 from a completion; expected text, or None"):
        task.mark(task.load("train", limit=1), ["two"])


def test_a_file_without_a_name_is_answered_with_its_names(write):
    write()
    with pytest.raises(RecipeError, match=r"riddles\.py is a file; name what to use of it as \S+riddles\.py:NAME\."):
        find_task("tasks/riddles.py")
