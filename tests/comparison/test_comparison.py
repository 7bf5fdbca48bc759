"""Compares methods on made-up run folders: arithmetic, refusals, notes, and equal bytes from equal runs."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats
from support.folders import N, graded_run, make_run, write_json, write_lines
from typer.testing import CliRunner

import rlif
from rlif.cli.compare import read_seeds
from rlif.cli.main import app
from rlif.comparison.comparison import compare
from rlif.comparison.summary import differing, infer_method, summarise_run
from rlif.comparison.table import FORMATS, span
from rlif.config.loading import check_recipe
from rlif.runs.folder import resolved


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Makes two methods; the second lacks seed 3 of the first, and has a seed of its own."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("made")
    for seed in range(4):
        graded_run(folder / f"steady-seed{seed}", seed, 0.1, rng.uniform(0.4, 0.6), rng.uniform(0.7, 0.9))
    for seed in (0, 1, 2, 4):
        graded_run(
            folder / f"brief-seed{seed}", seed, 0.1, rng.uniform(0.6, 0.9), rng.uniform(0.1, 0.3), reward="likelihood"
        )
    return folder


@pytest.fixture
def runs(made, tmp_path) -> Path:
    """Copies the same runs, for tests that change them."""
    return shutil.copytree(made, tmp_path / "runs")


def by_name(found):
    return {(row.method, row.task): row for row in found.rows}


def ends(folder: Path, method: str, seeds, task="clock"):
    evaluations = [summarise_run(folder / f"{method}-seed{seed}").evaluations[task] for seed in seeds]
    return [evaluation[0]["accuracy"]["mean"] for evaluation in evaluations], [
        evaluation[8]["accuracy"]["mean"] for evaluation in evaluations
    ]


def test_methods_of_a_folder_are_sorted_by_name_and_number(runs):
    for name in ("brief-10", "brief-9"):
        shutil.copytree(runs / "brief-seed0", runs / f"{name}-seed0")
    assert compare([runs]).methods == ["brief", "brief-9", "brief-10", "steady"]


def test_methods_keep_the_order_given_and_seeds_are_sorted(runs):
    turned = [runs / name for name in ("steady-seed3", "brief-seed2", "steady-seed0", "brief-seed0", "brief-seed1")]
    turned += [path for path in sorted(runs.iterdir()) if path not in turned]
    found = compare(turned)
    assert found.methods == ["steady", "brief"]
    assert by_name(found)["steady", "clock"].seeds == [0, 1, 2, 3]


@pytest.mark.parametrize("task", ["clock", "cups"])
def test_a_change_has_students_paired_interval_over_seeds(runs, task):
    row = by_name(compare([runs]))["steady", task]
    start, end = ends(runs, "steady", range(4), task)
    expected = stats.ttest_rel(end, start).confidence_interval(0.95)
    assert row.seeds == [0, 1, 2, 3] and row.problems == N
    assert row.change.mean == pytest.approx(sum(end) / 4 - sum(start) / 4)
    assert (row.change.low, row.change.high) == pytest.approx((expected.low, expected.high))
    assert (row.start, row.end) == pytest.approx((sum(start) / 4, sum(end) / 4))
    assert row.best == pytest.approx(sum(o.best.mean for o in row.outcomes) / 4) and row.best >= max(row.start, row.end)


def test_methods_are_compared_over_the_seeds_that_both_have(runs):
    found = by_name(compare([runs], against="steady"))
    row, common = found["brief", "clock"], [0, 1, 2]
    expected = stats.ttest_rel(ends(runs, "brief", common)[1], ends(runs, "steady", common)[1])
    bounds = expected.confidence_interval(0.95)
    assert row.against is not None and list(row.common) == common
    assert (row.against.low, row.against.high) == pytest.approx((bounds.low, bounds.high))
    assert found["steady", "clock"].against is None


def test_the_other_columns(runs):
    found = by_name(compare([runs]))
    brief, cups = found["brief", "clock"], found["brief", "cups"]
    assert brief.trained and not cups.trained
    assert brief.collapsed == dict.fromkeys([0, 1, 2, 4], 8) and found["steady", "clock"].collapsed == {}
    assert brief.completion_length == (10.0, 12.0)
    assert brief.self_certainty == pytest.approx((6.25, 6.45))  # the seeds sum to 7
    assert brief.kl == pytest.approx(0.008)  # of the last of 8 steps
    assert list(found)[:2] == [("brief", "clock"), ("steady", "clock")]
    assert brief.alarms == {}


def test_one_seed_has_no_interval_and_a_note(runs):
    found = compare([runs], seeds=[1])
    row = by_name(found)["steady", "clock"]
    assert row.seeds == [1] and row.change.n == 1 and row.change.low is None
    assert any(note.startswith("One seed gives no interval") for note in found.notes)
    assert "(1 seed)" in FORMATS[".md"](found)


def test_the_csv_is_plain_numbers(runs):
    rows = list(csv.DictReader(FORMATS[".csv"](compare([runs], against="steady")).splitlines()))
    row = by_name(compare([runs], against="steady"))["brief", "clock"]
    (plain,) = [r for r in rows if (r["method"], r["task"]) == ("brief", "clock")]
    assert len(rows) == 4 and plain["seeds"] == "0 1 2 4" and plain["against_seeds"] == "0 1 2"
    assert float(plain["change_low"]) == pytest.approx(row.change.low, abs=1e-5)
    assert plain["collapsed_seeds"] == "0 1 2 4" and plain["problems"] == str(N)


@pytest.mark.parametrize(
    ("path", "seed", "method"),
    [
        ("runs/demo-seed1", 1, "demo"),
        ("runs/demo_s10", 10, "demo"),
        ("runs/demo.seed-03", 3, "demo"),
        ("runs/demo/seed2", 2, "demo"),
        ("runs/demo/s0", 0, "demo"),
        ("runs/demo-seed1", 2, "demo-seed1"),
        ("runs/cups0", 0, "cups0"),
        ("runs/intuitor-1.5b", 5, "intuitor-1.5b"),
    ],
)
def test_the_method_of_a_run_follows_from_its_folder(path, seed, method):
    assert infer_method(Path(path), seed) == method


def test_differing_compares_two_levels():
    one, other = {"a": {"x": 1, "y": 2}, "b": None, "reward": {"p": 1}}, {"a": {"x": 1, "y": 3}, "reward": {"q": 1}}
    assert differing(one, other) == {"a.y": (2, 3), "reward": ({"p": 1}, {"q": 1})}
    assert differing({"lora": None}, {"lora": {"r": 8}}) == {"lora.r": (None, 8)}


def test_differences_between_recipes_are_noted(runs):
    found = compare([runs])
    assert found.differences == {"brief": {}, "steady": {"reward": "self_certainty"}}
    assert not any("Not the same for all" in note for note in found.notes if "seeds" not in note)
    graded_run(runs / "long-seed0", 0, 0.1, 0.5, 0.6, 0.7, training={"max_steps": 12}, task="cups")
    notes = " ".join(compare([runs], against="steady").notes)
    assert "training.max_steps is 8 for brief, steady; 12 for long" in notes
    assert "task is 'clock' for brief, steady; 'cups' for long" in notes
    assert "the seeds that count are 0, 1, 2, 4 for brief; 0 for long; 0, 1, 2, 3 for steady" in notes


def test_different_problems_in_the_first_step_are_noted(runs):
    path = runs / "brief-seed1/completions/step-000001.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    write_lines(path, [row | {"problem": f"other/{i}"} for i, row in enumerate(rows)])
    assert "steady seed 1 met other problems in its first step than brief seed 1." in compare([runs]).notes


def test_different_training_problems_are_noted_and_different_golds_refused(runs):
    """The hashes of the beginning are compared; a run without them is not a difference."""
    facts = {"problems": {"sha256": "a" * 64}, "held_out": {"clock": {"sha256": "c" * 64}}}
    write_json(runs / "brief-seed0/begun.json", facts)
    assert not any("problems" in note for note in compare([runs]).notes)
    write_json(runs / "steady-seed0/begun.json", facts | {"problems": {"sha256": "b" * 64}})
    assert "steady seed 0 was trained on other problems than brief seed 0." in compare([runs]).notes
    write_json(runs / "steady-seed0/begun.json", facts | {"held_out": {"clock": {"sha256": "d" * 64}}})
    with pytest.raises(rlif.RlifError, match=r"evaluated on clock in two ways: content is 'c{16}' and 'd{16}'"):
        compare([runs])


def test_stopped_and_unfinished_runs(runs):
    stopped = {"step": 6, "since": 4, "seen": "KL is too large"}
    alarms = [
        {"sign": "certainty", "severity": "warning", "since": 2, "step": 3},
        {"sign": "kl", "severity": "alarm", "since": 4, "step": 6},
    ]
    write_json(runs / "steady-seed0/summary.json", {"steps": 6, "guard": {"stopped": stopped}})
    write_lines(runs / "steady-seed0/alarms.jsonl", alarms)
    (runs / "steady-seed1/summary.json").unlink()
    write_json(runs / "steady-seed2/summary.json", {"steps": 8, "guard": {"rollbacks": [{"from": 6, "to": 4}]}})
    found = compare([runs])
    row = by_name(found)["steady", "clock"]
    assert row.seeds == [0, 2, 3] and row.alarms[0].sign == "kl" and row.alarms[0].step == 6
    assert "steady seed 0: ended by the guard at step 6: KL is too large, since step 4." in found.notes
    assert "steady seed 1: unfinished, at step 8 of 8." in found.notes
    assert "steady seed 2: rolled back by the guard 1 time, with a larger KL weight from there." in found.notes
    text = FORMATS[".md"](found)
    assert "| 3 (0, 2, 3); 1 stopped; 1 unfinished |" in text and "| unfinished, at step 8 of 8 |" in text


def test_a_run_that_was_not_evaluated_at_both_ends_does_not_count(runs):
    for path in (runs / "steady-seed0/eval").glob("step-00000[48]-cups*"):
        path.unlink()
    found = by_name(compare([runs]))
    assert found["steady", "cups"].seeds == [1, 2, 3] and found["steady", "clock"].seeds == [0, 1, 2, 3]
    assert found["steady", "cups"].outcomes[0].reason == "evaluated on cups from step 0 to 0 of 8"
    (runs / "steady-seed1/eval/step-000008-clock.json").unlink()
    (runs / "steady-seed2/eval/step-000000-clock.json").unlink()
    assert by_name(compare([runs]))["steady", "clock"].seeds == [0, 3]


def test_runs_without_gold_answers_have_the_other_columns(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"quiet-seed{seed}", tasks=(), seed=seed, collapse=True)
    found = compare([tmp_path])
    (row,) = found.rows
    assert row.task is None and row.start is row.end is None and row.change.n == 0
    assert row.completion_length == pytest.approx((20.01, 55.0)) and row.kl == pytest.approx(0.012)
    assert set(row.collapsed) == {0, 1}  # by the label-free signs
    assert "nothing evaluated" in FORMATS[".md"](found) and row.alarms == {}
    assert not any(outcome.watched for outcome in row.outcomes)


def change_evaluation(path: Path, **changes) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda runs: [change_evaluation(p, problems=99) for p in runs.glob("brief-*/eval/*-clock.json")],
            "brief seed 0 and steady seed 0 were evaluated on clock in two ways: problems is 99 and 200",
        ),
        (
            lambda runs: change_evaluation(
                runs / "brief-seed0/eval/step-000004-clock.json", decoding={"max_tokens": 9}
            ),
            "was evaluated on clock in two ways: decoding.max_tokens is None at step 0 and 9 at step 4",
        ),
        (
            lambda runs: write_lines(runs / "brief-seed0/eval/step-000000-clock.jsonl", [{"id": "p/77"}]),
            "brief seed 0 and brief seed 1 were evaluated on clock in two ways: ids is",
        ),
        (
            lambda runs: graded_run(runs / "brief-seed7", 7, 0.1, 0.2, 0.3, reward="likelihood", algorithm="dr_grpo"),
            "brief seed 0 and brief seed 7 are not seeds of one method: algorithm is 'grpo' and 'dr_grpo'",
        ),
        (
            lambda runs: shutil.copytree(runs / "brief-seed1", runs / "more/brief-seed1"),
            "two runs of brief with seed 1",
        ),
        (lambda runs: (runs / "brief-seed1/eval/step-000004-cups.json").write_text("{"), "cannot be read"),
        (lambda runs: [shutil.rmtree(path) for path in runs.iterdir()], "without a run folder in it"),
        (
            lambda runs: (runs / "brief-seed1/recipe.yaml").write_text("modle: x"),
            "brief-seed1 cannot be read: unknown key",
        ),
        (lambda runs: (runs / "brief-seed1/recipe.yaml").write_text("{"), "brief-seed1 cannot be read"),
        (lambda runs: (runs / "brief-seed1/alarms.jsonl").write_text('{"step": 1}\n'), "without 'sign'"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(runs, spoil, message):
    spoil(runs)
    with pytest.raises(rlif.RlifError) as error:
        compare([runs])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_records_are_not_a_difference(runs):
    for path in (runs / "brief-seed1/eval").glob("*.jsonl"):
        path.unlink()
    assert compare([runs]).rows


def call(*arguments: object):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "did you mean 'demo'"),
        (["RUNS", "seed=1"], "seed=1 changes recipes before they are run"),
        (["demo", "seed=1"], "seed differs from run to run in a comparison; it is set by --seeds"),
        (["demo", "modle=x"], "did you mean 'model'"),
        (["demo", "demo-collapse", "reward=likelyhood"], "did you mean 'likelihood'"),
        (["demo", "demo"], "two recipes are called demo"),
        (["RUNS", "--against", "stead"], "unknown method 'stead'; did you mean 'steady'"),
        (["RUNS", "--seeds", "9,"], "there are no runs to compare"),
        (["RUNS", "--seeds", "few"], "cannot read --seeds 'few'"),
        (["RUNS", "--out", "table.html"], "its name has to end with .md, .csv, .json"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_runs(runs, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = call(*(argument.replace("RUNS", str(runs)) for argument in arguments))
    message_shown = str(done.exception) if isinstance(done.exception, rlif.RlifError) else done.output
    assert message in message_shown and done.exit_code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_recipes_that_would_be_evaluated_differently_are_refused_before_they_are_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, limit in (("one", 16), ("two", 32)):
        recipe = {"model": "tiny-reasoner", "task": "clock", "evaluate": {"tasks": ["clock"], "limit": limit}}
        write_json(tmp_path / f"{name}.yaml", recipe)
    with pytest.raises(rlif.RlifError, match=r"would be evaluated on clock in two ways: evaluate.limit is 16 and 32"):
        compare(["one.yaml", "two.yaml"])
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_another_run_is_refused_by_the_key_that_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = resolved(rlif.load_recipe("demo", ["training.beta=0.3"]), "demo-seed0")
    make_run(Path("runs/compare/demo-seed0"), **there)
    with pytest.raises(rlif.RlifError, match=r"demo-seed0 holds a run with training.beta 0.3, and this one has 0.1;"):
        compare(["demo"], seeds=[0])


def test_the_command_line(runs, tmp_path):
    out = tmp_path / "new" / "table"
    done = call(runs, "--against", "steady", *(f"--out={out}{end}" for end in FORMATS))
    assert done.exit_code == 0, done.output
    assert "minus steady" in done.output and "Keys in which brief differs from steady: reward: like" in done.output
    assert "4 of 4 (step 8)" in done.output and "One seed" not in done.output
    text = out.with_suffix(".md").read_text()
    assert text.startswith("# brief, steady on seeds 0-4\n\n    rlif compare runs --against steady\n")
    again = call(f"{out}.json", f"--out={tmp_path / 'again.md'}")
    assert again.exit_code == 0 and (tmp_path / "again.md").read_text() == text
    assert again.output.split("written")[0] == done.output.split("written")[0]
    fewer = call(f"{out}.json", "--seeds=2", f"--out={tmp_path / 'fewer.md'}")
    assert fewer.exit_code == 0 and "rlif compare table.json --seeds 2" in (tmp_path / "fewer.md").read_text()


def test_seeds_are_read():
    assert [read_seeds(text) for text in ("3", "0,1,5", "5,", "2,1")] == [[0, 1, 2], [0, 1, 5], [5], [1, 2]]
    for text in ("", "0", "-1", "1-3", "x", ","):
        with pytest.raises(rlif.RlifError, match="cannot read --seeds"):
            read_seeds(text)
    assert [span(seeds) for seeds in ([0, 1, 2], [0, 1], [0, 2, 3], [4])] == ["0-2", "0, 1", "0, 2, 3", "4"]


def test_reading_runs_loads_no_torch(runs):
    code = f"import sys, rlif; rlif.compare([{str(runs)!r}]); print(sorted(set(sys.modules) & {{'torch', 'trl'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_older_recipes_get_todays_defaults(runs):
    """A run can be compared although its recipe lacks a newer key."""
    path = runs / "steady-seed1/recipe.yaml"
    old = json.loads(path.read_text())
    write_json(path, resolved(check_recipe(old), "x"))
    assert compare([runs]).rows and summarise_run(path.parent).recipe == summarise_run(runs / "steady-seed0").recipe
