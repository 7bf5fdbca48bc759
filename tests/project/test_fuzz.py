"""Tests that any bytes in a file that is read give a valid result or one sentence, never a traceback.

The bytes are arbitrary, or a valid file with bytes changed, cut out or doubled, or values of wrong types. The usual
run tries a few cases, a sweep four hundred. They are always the same, so a new failure is due to a change of the code.
`--hypothesis-seed=NUMBER` tries others, as `make torture` does. Files of data are in `test_fuzz_data.py`.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import strategies as st
from support.folders import SUPERSCRIPT
from support.fuzzing import JSON, lines_of, some_bytes

import rlif
from rlif.comparison.summary import summarise_run
from rlif.config.loading import check_recipe, shipped_recipes
from rlif.evaluation.grid import candidates, read_records
from rlif.evaluation.records import Records
from rlif.reporting.completions import completions_data
from rlif.reporting.verdict import reported_runs
from rlif.runs.checkpoints import damage, in_order, prune, seal
from rlif.runs.folder import Run
from rlif.runs.history import read_history
from rlif.runs.rollback import alarms, rollbacks
from rlif.selection.samples import read_samples

RECIPES = [path.read_bytes() for path in shipped_recipes().values()]


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


@pytest.mark.daily(every=3)
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
