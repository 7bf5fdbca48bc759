"""Tests that any bytes in a file that is read give a valid result or one sentence, never a traceback.

The bytes are arbitrary, or a valid file with bytes changed, cut out or doubled, or values of wrong types. The usual
run tries a few cases, a sweep a thousand. They are always the same, so a new failure is due to a change of the code.
`--hypothesis-seed=NUMBER` tries others, as `make torture` does.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.folders import SUPERSCRIPT

import rlif
from rlif.comparison.summary import summarise_run
from rlif.config.loading import check_recipe, shipped_recipes
from rlif.evaluation.grid import candidates, read_records
from rlif.evaluation.records import Records
from rlif.files.tables import read_rows
from rlif.reporting.completions import completions_data
from rlif.reporting.verdict import reported_runs
from rlif.runs.checkpoints import damage, in_order, prune, seal
from rlif.runs.folder import Run
from rlif.runs.history import read_history
from rlif.runs.rollback import alarms, rollbacks
from rlif.selection.samples import read_samples
from rlif.selection.score_file import read_rows as pairs_to_score
from rlif.tasks.code.programs import CodeTask
from rlif.tasks.prompts import Prompt

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
DAILY = 15
NAMES = ["question", "answer", "problem", "solution", "prompt", "instruction", "output", "id", "level", "type", "gold"]
RECIPES = [path.read_bytes() for path in shipped_recipes().values()]


@st.composite
def harmed(draw: Any, samples: list[bytes]) -> bytes:
    """A valid file with pieces replaced, cut out or doubled."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        data = data[:start] + draw(st.binary(max_size=6) | st.just(data[start:end] * 2)) + data[end:]
    return data


def some_bytes(*samples: bytes) -> Any:
    return st.binary(max_size=300) | harmed(list(samples) or [b"{}\n"])


def lines_of(rows: Any) -> Any:
    return st.lists(rows, max_size=4).map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode())


@pytest.fixture(params=[DAILY, pytest.param(1000, marks=pytest.mark.sweep)], ids=lambda many: f"{many} cases")
def fuzz(request, record_property):
    """Calls a function with many values. It may raise an RlifError of one line; any other error is a defect."""

    def run(strategy: Any, body: Callable[[Any], Any]) -> None:
        cases = []

        @settings(
            max_examples=request.param,
            derandomize=request.config.getoption("--hypothesis-seed") is None,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(value: Any) -> None:
            cases.append(1)
            try:
                body(value)
            except rlif.RlifError as error:
                assert "\n" not in str(error).strip(), f"more than a line: {error}"

        each()
        record_property("cases", len(cases))

    return run


def test_recipe_files(fuzz, tmp_path):
    def read(data):
        (tmp_path / "r.yaml").write_bytes(data)
        recipe = rlif.load_recipe(tmp_path / "r.yaml")
        recipe.accumulation(1)

    fuzz(some_bytes(*RECIPES), read)


def test_recipe_values(fuzz):
    keys = st.sampled_from([*rlif.Recipe.model_fields, "evaluate.every", "training.beta"])
    training = st.dictionaries(
        st.sampled_from(
            ["beta", "num_generations", "per_device_train_batch_size", "steps_per_generation", "save_steps"]
        ),
        JSON,
    )
    values = st.dictionaries(keys, JSON, max_size=5).flatmap(
        lambda base: st.just(base) | training.map(lambda t: {**base, "training": t})
    )

    def read(value):
        recipe = check_recipe(value)
        recipe.accumulation(1)

    fuzz(values, read)


def test_overrides(fuzz):
    text = st.text(max_size=30) | st.tuples(st.sampled_from(list(rlif.Recipe.model_fields)), st.text(max_size=20)).map(
        "=".join
    )
    fuzz(st.lists(text, max_size=3), lambda overrides: rlif.load_recipe("demo", overrides))


@pytest.mark.parametrize("text", ["a: &a [x,x]\nb: &b [*a,*a]\n", "seed: 1\nseed: 2\n", "? [1]\n: 2\n", "- " * 5000])
def test_recipes_with_yaml_tricks_are_refused(text, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(rlif.RlifError):
        rlif.load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("key", ["description", "lora", "training"])
def test_a_recipe_of_nested_aliases_is_refused(key, tmp_path):
    """A few lines would become a million million values."""
    lines = ["x0: &x0 {a: 1}", *(f"x{i}: &x{i} {{a: *x{i - 1}, b: *x{i - 1}}}" for i in range(1, 40))]
    (tmp_path / "r.yaml").write_text("\n".join([*lines, f"{key}: *x39"]))
    with pytest.raises(rlif.RlifError):
        rlif.load_recipe(tmp_path / "r.yaml")


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


@pytest.fixture
def run(tmp_path):
    return Run.create(rlif.load_recipe("demo", [f"output={tmp_path}", "name=run"]), "run")


FILES = {
    "recipe.yaml": Run.recipe,
    "environment.json": Run.environment,
    "begun.json": Run.fingerprint,
    "summary.json": Run.summary,
    "metrics.jsonl": Run.metrics,
    "alarms.jsonl": alarms,
    "rollbacks.jsonl": rollbacks,
    "eval/step-000001-cups.json": Run.evaluations,
    "eval/step-000001-cups.jsonl": lambda run: run.records(1, "cups"),
    "completions/step-000001.jsonl": lambda run: completions_data(reported_runs([read_history(run.path)])),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_run_folder(name, fuzz, run):
    (run.path / name).parent.mkdir(exist_ok=True)
    samples = [b'{"step": 1, "reward": 0.5}\n{"step": 2, "reward": null}\n', b'{"accuracy": {"mean": 1}}', *RECIPES[:1]]

    def read(data):
        (run.path / name).write_bytes(data)
        FILES[name](Run.open(run.path))

    fuzz(some_bytes(*samples) | JSON.map(lambda value: json.dumps(value).encode()), read)


@pytest.mark.parametrize("name", FILES)
def test_files_read_by_reports_and_comparisons(name, fuzz, run):
    """Also rows with different keys and values of any type."""
    (run.path / name).parent.mkdir(exist_ok=True)
    keys = st.sampled_from(
        ["step", "reward", "kl", "distinct", "accuracy", "alarms", "n", "mean", "prompt", "advantage"]
    )
    row = st.dictionaries(keys, JSON | st.integers(0, 3), max_size=4)
    rows = st.lists(row | row.map(lambda values: {**values, "completion": "x"}), max_size=4)

    def read(data):
        (run.path / name).write_bytes(data)
        for reader in (
            lambda: reported_runs([read_history(run.path)])[0].verdict,
            lambda: completions_data(reported_runs([read_history(run.path)])),
            lambda: summarise_run(run.path),
        ):
            try:
                reader()
            except rlif.RlifError as error:
                assert "\n" not in str(error)

    lines = rows.map(lambda values: "".join(json.dumps(value) + "\n" for value in values).encode())
    fuzz(lines | some_bytes(b'{"accuracy": {"mean": 1}}') | JSON.map(lambda value: json.dumps(value).encode()), read)


def test_rewinding_a_folder_with_arbitrary_metrics_and_names(fuzz, run):
    (run.path / "completions").mkdir()

    def rewind(value):
        step, metrics, name = value
        (run.path / "metrics.jsonl").write_bytes(metrics)
        strange = run.path / "completions" / f"step-{name}.jsonl"
        strange.touch()
        try:
            run.rewind(step)
            assert all(row["step"] <= step for row in run.metrics())
        finally:
            strange.unlink(missing_ok=True)

    names = st.text("0123456789abc-. " + SUPERSCRIPT, max_size=8)
    fuzz(
        st.tuples(st.integers(0, 9), lines_of(st.fixed_dictionaries({"step": st.integers(0, 9)}) | JSON), names), rewind
    )


def test_manifests(fuzz, tmp_path):
    path = tmp_path / "checkpoint-1"
    path.mkdir()
    (path / "weights").write_bytes(b"12345")
    seal(path)
    good = (path / "manifest.json").read_bytes()
    entry = st.fixed_dictionaries({"bytes": JSON, "sha256": JSON}) | JSON
    named = st.dictionaries(st.sampled_from(["weights", "../x", "/etc/passwd", "\0", ""]), entry)
    made = (st.fixed_dictionaries({"files": named | JSON}) | JSON).map(lambda value: json.dumps(value).encode())

    def check(data):
        (path / "manifest.json").write_bytes(data)
        found = damage(path)
        assert found is None or isinstance(found, str)
        if data == good:
            assert found is None

    fuzz(some_bytes(good) | made, check)


def test_names_of_checkpoints(fuzz, tmp_path):
    def check(names):
        for name in names:
            (tmp_path / f"checkpoint-{name}").mkdir(exist_ok=True)
        in_order(tmp_path)
        prune(tmp_path, 1)
        candidates(str(tmp_path / "checkpoint-1"), tmp_path)

    fuzz(st.lists(st.text("0123456789-+ x" + SUPERSCRIPT, max_size=22), max_size=4), check)


def test_records_of_an_evaluation(fuzz, tmp_path):
    setting = {"task": "cups", "n": 1}
    good = json.dumps({"settings": setting}).encode() + b'\n{"batch": 0, "records": [{"id": "a", "right": true}]}\n'
    line = st.fixed_dictionaries({"batch": JSON, "records": JSON}) | st.fixed_dictionaries({"settings": JSON}) | JSON

    def read(data):
        for name in ("x.part.jsonl", "x.json", "x.jsonl"):
            (tmp_path / name).write_bytes(data)
        for reader in (
            lambda: Records.finished(tmp_path / "x", setting),
            lambda: read_records(tmp_path / "x.jsonl"),
            lambda: read_samples(tmp_path / "x.jsonl"),
        ):
            try:
                reader()
            except rlif.RlifError:
                continue
        assert len(Records(tmp_path / "x", setting)) >= 0

    fuzz(some_bytes(good) | lines_of(line), read)
