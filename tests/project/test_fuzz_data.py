"""Tests that any bytes and any values in a file of data give problems or one sentence; see `test_fuzz.py`."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import zlib
from typing import Any

import pyarrow
import pytest
from hypothesis import strategies as st
from support.fuzzing import JSON, some_bytes

import rlif
from rlif.files.tables import read_rows
from rlif.selection.score_file import read_rows as pairs_to_score
from rlif.tasks.code.programs import CodeTask
from rlif.tasks.prompts import Prompt

NAMES = ["question", "answer", "problem", "solution", "prompt", "instruction", "output", "id", "level", "type", "gold"]


ROWS = {
    ".jsonl": [b'{"question": "q", "answer": "#### 1", "prompt": "p"}\n{"problem": "x", "solution": "\\\\boxed{2}"}\n'],
    ".json": [b'[{"question": "q", "answer": "#### 1", "prompt": "p", "instruction": "i", "output": "o"}]'],
    ".csv": [b'prompt,answer\n"a, b",1\nc,2\n', b"frage;antwort\nx;1\n", "prompt\nx\n".encode("utf-16")],
    ".txt": [b"one\ntwo\n"],
    ".jsonl.gz": [gzip.compress(b'{"prompt": "p"}\n')],
    ".jsonl.xz": [lzma.compress(b'{"prompt": "p"}\n')],
    ".jsonl.bz2": [bz2.compress(b'{"prompt": "p"}\n')],
    ".jsonl.zst": [pyarrow.compress(b'{"prompt": "p"}\n', codec="zstd", asbytes=True)],
}


@pytest.mark.parametrize("suffix", ROWS)
def test_data_files(suffix, fuzz, tmp_path):
    path = tmp_path / f"rows{suffix}"

    def read(data):
        path.write_bytes(data)
        read_rows(str(path), "train", columns=("prompt",))

    fuzz(some_bytes(*ROWS[suffix]), read)


def test_parquet_files(fuzz, tmp_path):
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "p"}, {"prompt": "q"}]), path)

    def read(data):
        path.write_bytes(data)
        read_rows(str(path), "train", columns=("prompt",))

    fuzz(some_bytes(path.read_bytes()), read)


@pytest.mark.parametrize("task", sorted(set(rlif.TASKS) - {"clock", "cups"}))
def test_rows_of_every_task(task, fuzz, tmp_path):
    path = tmp_path / "test.json"
    names = st.sampled_from(NAMES)
    valid = {"question": "q", "answer": "#### 1", "problem": "p", "solution": "\\boxed{2}", "prompt": "p"}
    row = st.dictionaries(names, JSON | st.just("\\boxed{1}"), max_size=6).map(lambda changes: {**valid, **changes})

    def read(rows):
        path.write_text(json.dumps(rows))
        for problem in rlif.TASKS[task].load("test", source=str(path)):
            assert isinstance(problem.text, str) and problem.text and isinstance(problem.id, str)

    fuzz(st.lists(row, max_size=3), read)


TURN = {"role": "user", "content": "q"}
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "tool", "human"]) | JSON,
            "content": st.text(max_size=8) | JSON | st.just([{"type": "text", "text": "q"}]),
            "from": st.sampled_from(["human", "gpt"]) | JSON,
            "value": st.text(max_size=8) | JSON,
            "tool_calls": JSON,
        },
    )
    | JSON,
    max_size=4,
).map(lambda turns: [*turns, TURN])


def test_conversations_golds_and_named_columns(fuzz, tmp_path):
    """What is read can be put to a model and graded."""
    path, task = tmp_path / "test.jsonl", rlif.TASKS["prompts"]
    columns = st.dictionaries(
        st.sampled_from(["prompt", "gold", "solution", "id", "x"]),
        st.sampled_from(["a", "messages", "a.b"]),
        max_size=2,
    )
    row = st.fixed_dictionaries(
        {}, optional={"prompt": MESSAGES, "messages": MESSAGES | MESSAGES.map(json.dumps), "a": JSON | st.lists(JSON)}
    )

    def read(pair):
        rows, named = pair
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for problem in task.reading(named).load("test", source=str(path)):
            assert Prompt(system="s").messages(problem.prompt)[-1] == {"role": "user", "content": problem.text}
            assert all(isinstance(each["content"], str) for each in problem.history)
            task.mark([problem], [task.gold_completion(problem) or ""])

    fuzz(st.tuples(st.lists(row, max_size=3), st.just({}) | columns), read)


def test_files_to_score(fuzz, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = st.fixed_dictionaries(
        {}, optional={"prompt": MESSAGES | JSON, "completion": MESSAGES | st.text(), "messages": MESSAGES}
    )

    def read(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for _, found in pairs_to_score(path):
            assert isinstance(found["completion"], str)

    fuzz(st.lists(row, max_size=3), read)


PLUS = {
    "task_id": "Mbpp/2",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x",
    "atol": 0,
}
PLUS |= {"base_input": [[1]], "plus_input": "[[2]]"}
HUMANEVAL = {"task_id": "H/0", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": " pass", "test": "t"}
CONTEST = {"question_id": "a", "question_content": "Add.", "contest_date": "2024-01-01", "starter_code": ""}
CONTEST |= {"public_test_cases": '[{"input": "1", "output": "2"}]', "private_test_cases": "[]", "metadata": "{}"}
PAIRS = {"input": ["1"], "output": ["2"]}
LAYOUTS = {  # task, what its rows are like
    "humaneval": [HUMANEVAL],
    "humaneval.chat": [HUMANEVAL],
    "humaneval.plus": [PLUS],
    "mbpp": [
        {"task_id": i, "text": "t", "code": "c", "test_list": ["assert f(1) == 2"], "test_setup_code": ""}
        for i in (2, 3, 4, 11, 12)
    ],
    "mbpp.plus": [PLUS, PLUS | {"base_input": {}}],
    "livecodebench": [
        CONTEST,
        CONTEST | {"metadata": '{"func_name": "f"}'},
        {"id": 1, "content": "?", "labels": '{"task_id": "a/b"}', "test": "eJw="},
    ],
    "code_contests": [
        {"name": "x", "description": "?", "public_tests": PAIRS, "private_tests": PAIRS, "generated_tests": None},
        {"problem": "?", "tests": {"inputs": ["1"], "outputs": ["2"]}},
        {"problem": "?", "tests": [{"input": "1", "output": ["2"]}]},
        {"content": "?", "test": '[{"input": {"stdin": "1"}, "output": {"stdout": "2"}}]'},
    ],
    "mmlu_pro.lighteval": [
        {"question_id": 1, "question": "q", "category": "c", "answer": "A", "options": ["a", "b"], "cot_content": "x"}
    ],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_in_the_layout_of_a_task(name, fuzz, tmp_path):
    """Rows with some values replaced, also inside their tests, or left out. What is loaded can be graded."""
    path, task = tmp_path / "test.json", rlif.tasks.find_task(name)
    split = task.splits[-1]

    rows = LAYOUTS[name]
    texts = ["[]", "", "assert", "assert f(1) == 2, 'x'", "x = 1", "assert f(\0)", "(" * 500, "[[]]"]
    packed = JSON.map(lambda value: base64.b64encode(zlib.compress(pickle.dumps(value))).decode())
    text = st.sampled_from(texts) | JSON.map(json.dumps) | packed
    place = st.sampled_from([(number, key) for number, row in enumerate(rows) for key in row])
    changes = st.dictionaries(place, JSON | text | text.map(lambda value: [value]) | st.just(PAIRS), max_size=2)

    def changed(pair: Any) -> list[dict[str, Any]]:
        values, dropped = pair
        return [
            {key: values.get((number, key), value) for key, value in row.items() if (number, key) not in dropped}
            for number, row in enumerate(rows)
        ]

    def read(rows):
        path.write_text(json.dumps(rows))
        for problem in task.load(split, source=str(path)):
            assert isinstance(problem.text, str) and problem.text and isinstance(problem.id, str)
            answer = task.gold_completion(problem) or "```\nx = 1\n```"
            if isinstance(task, CodeTask):
                extracted = task.answer(problem, answer)
                assert extracted is None or task.trials(problem, extracted) is not None
            else:
                task.mark([problem], [answer])

    fuzz(st.tuples(changes, st.just(()) | st.sets(place, max_size=1)).map(changed), read)
