"""The program of a completion that has prose, several blocks, a block that is not closed, or no block."""

from __future__ import annotations

import pytest

from rlif.selection.samples import mark_samples
from rlif.tasks import find_task
from rlif.tasks.code.blocks import defining, program_of
from rlif.types import Problem

CODE = "import math\n\ndef f(x):\n    return x"
FENCED = f"```python\n{CODE}\n```"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (FENCED, CODE),
        (f"So:\n{FENCED}\nUse it:\n```\nf(1)\n```\n", CODE),
        (f"Tests:\n```\ndef test_f():\n    assert f(1)\n```\nand\n{FENCED}", CODE),
        (f"{FENCED}\n```\ndef test_f():\n    assert f(1)\n```", CODE),
        (f"First\n```\ndef f(x): pass\n```\nno:\n{FENCED}", CODE),
        (f"So:\n```python\n{CODE}", CODE),
        (f"{FENCED}\nand\n```\nf(2", CODE),
        (f"Here is the function:\n\n{CODE}\n\nIt returns (of course) what it gets.", CODE),
        (f"if you import it:\n{CODE}\nx = f(1)\nprint(x)\nfor all x.", f"{CODE}\nx = f(1)\nprint(x)"),
        (f"  1. as asked\n  {FENCED.replace(chr(10) + '```', chr(10) + '  ```')}", CODE),
        ("```\ng = 1\n```\n```\nh = 1\n```", "h = 1"),
        (f"I wrote ```f``` here: {FENCED}", CODE),
        ("    return x", "    return x"),
        ("```\n```", "```\n```"),
        (" \n", None),
    ],
)
def test_the_program_that_defines_the_entry_point(text, code):
    assert defining(text, "f") == code


def test_a_program_is_found_in_linear_time():
    for part in ("```\n", "def f(x):\n", "import a, ", "x = ", "word " * 50, "\n" * 50, "'" * 50):
        program_of(part * (200_000 // len(part)))


def test_a_chat_answer_with_a_usage_example(data_folder, sandbox):
    task = find_task("humaneval.chat")
    problem = task.load("test", limit=1)[0]
    gold = task.gold_completion(problem)
    usage = f"\n```python\nprint({problem.data['name']}([1.0], 0.5))\n```\n"
    texts = [f"{gold}{usage}", gold.removesuffix("```"), f"Here:\n\n{gold[10:-3]}\nDone.", usage]
    assert [mark.right for mark in task.mark([problem] * 4, texts)] == [True, True, True, False]


def test_samples_that_are_marked_already_get_the_program_of_their_problem():
    task, problem = find_task("humaneval.chat"), Problem("1", "Write f.", data={"name": "f"})
    text = f"{FENCED}\nTests:\n```python\ndef test_f():\n    assert f(1)\n```"
    (row,) = mark_samples([{"id": "1", "completion": text, "right": True}], task, {"1": problem})
    assert row["answer"] == task.answer(problem, text) == CODE
