"""Tests reading run folders that are whole, torn, empty, old or hostile."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from support.folders import make_run, metrics_row, write_json, write_lines

import rlif
from rlif.reporting.verdict import reported_runs
from rlif.runs.history import read_history


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def test_a_whole_run_is_read_without_notes(run):
    history = read_history(run)
    assert history.notes == [] and history.name == "run"
    assert history.steps.tolist() == list(range(1, 13)) and history.last_step == history.planned_steps == 12
    assert history.metrics["self_certainty"][0] == 6.0 and "path" not in history.metrics
    assert sorted(history.evaluations) == ["clock", "cups"] and sorted(history.evaluations["clock"]) == [0, 4, 8, 12]
    assert len(list(history.records(4, "clock"))) == 24 and len(list(history.records(4, "clock", limit=5))) == 5
    assert len(list(history.read_completions(3, 100))) == 16 and list(history.read_completions(99, 100)) == []


def test_torn_and_garbled_lines_are_skipped_and_counted(run):
    good = [json.dumps(metrics_row(step)) for step in (1, 2, 4, 3, 2)]
    extra = ["", "garbage", "[1, 2]", '{"step": "5"}', '{"reward": 1}', "\ufffd\x00", "[" * 5000, '{"step": 5, "rew']
    (run / "metrics.jsonl").write_bytes("\n".join([*good, *extra]).encode() + b"\xff\xfe")
    history = read_history(run)
    assert history.steps.tolist() == [1, 2, 3, 4]
    assert [note for note in history.notes if "5 lines of metrics.jsonl could not be read" in note]


def test_old_names_of_signals_become_the_new_ones(run):
    write_lines(run / "metrics.jsonl", [{"step": 1, "group_confidence": 2.0, "group_confidence_spread": 0.5}])
    assert read_history(run).metrics.keys() == {"step", "mean_token_confidence", "mean_token_confidence_spread"}


def test_old_and_new_names_of_a_signal_share_one_column(run):
    rows = [{"step": 1, "group_confidence_tail_unscorable": 0.5}, {"step": 2, "tail_confidence_unscorable": 0.25}]
    write_lines(run / "metrics.jsonl", rows)
    metrics = read_history(run).metrics
    assert metrics.keys() == {"step", "tail_confidence_unscorable"}
    assert metrics["tail_confidence_unscorable"].tolist() == [0.5, 0.25]


def test_values_that_are_not_finite_numbers_are_missing(run):
    rows = [
        {"step": 1, "reward": None},
        {"step": 2, "reward": math.nan},
        {"step": 3, "reward": math.inf},
        {"step": 4, "reward": 2},
    ]
    write_lines(
        run / "metrics.jsonl", [*rows, {"step": 5, "reward": "high", "kl": True}, {"step": 6, "reward": 10**400}]
    )
    history = read_history(run)
    assert np.isnan(history.metrics["reward"]).tolist() == [True] * 3 + [False] + [True] * 2
    assert "kl" not in history.metrics
    assert "reward is not a number in 5 of 6 logged steps." in history.notes


def test_a_number_missing_at_some_steps_is_nan_there(run):
    """Some rollouts lack signs of the guard, for example."""
    rows = [metrics_row(step) | ({} if step == 3 else {"distinct": 0.5}) for step in range(1, 6)]
    write_lines(run / "metrics.jsonl", rows)
    found = read_history(run).metrics["distinct"].tolist()
    assert math.isnan(found.pop(2)) and found == [0.5] * 4


def test_missing_files_are_noted(run):
    for name in ("environment.json", "summary.json", "metrics.jsonl"):
        (run / name).unlink()
    for folder in ("completions", "eval"):
        for path in (run / folder).iterdir():
            path.unlink()
    history = read_history(run)
    said = " ".join(history.notes)
    for words in ("environment.json is missing", "No step was logged", "no summary", "No completions", "not monitored"):
        assert words in said
    assert reported_runs([history])[0].verdict.startswith("Nothing was logged")


def test_unreadable_files_are_noted(run):
    (run / "recipe.yaml").write_text("a: [1\nb")
    (run / "summary.json").write_text("[]")
    (run / "environment.json").write_bytes(b"\xff{")
    (run / "eval/step-000004-clock.json").write_text('{"accuracy"')
    (run / "eval/step-x-clock.json").write_text("{}")
    said = " ".join(read_history(run).notes)
    for words in (
        "recipe is unreadable",
        "summary.json is not an object",
        "environment.json is unreadable",
        "step-000004",
        "1 file of eval left out: the name is not that of a step (step-x-clock.json)",
    ):
        assert words in said


@pytest.mark.parametrize("step", ["two", 1e300, -1, 2.5, None, [1]])
def test_a_step_that_is_not_a_whole_number_is_noted(step, run):
    before = read_history(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "reward": 1.0}) + "\n")
    history = read_history(run)
    said = f"the step is not a whole number below 2^53 ({json.dumps(step)})"
    assert f"1 line of metrics.jsonl left out: {said}." in history.notes
    assert history.steps.tolist() == before.steps.tolist()


def test_many_such_lines_are_one_note(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": "x" * 99, "reward": 1.0}) + "\n")
        file.write('{"reward": 1.0}\n' * 2_999)
    (note,) = (note for note in read_history(run).notes if "metrics.jsonl" in note)
    assert note == f'3,000 lines of metrics.jsonl left out: the step is not a whole number below 2^53 ("{"x" * 36}...).'


def test_files_of_a_step_that_no_run_reaches_are_noted_and_not_read(run):
    before = read_history(run)
    for name in (
        "completions/step-99999999999999999999999999.jsonl",
        "eval/step-99999999999999999999999999-clock.json",
        f"completions/step-{max(before.completions):06d}-old.jsonl",
        "eval/step-000004.json",
    ):
        (run / name).write_text('{"accuracy": {"n": 1, "mean": 1.0}}\n')
    history = read_history(run)
    assert history.completions.keys() == before.completions.keys() and history.evaluations == before.evaluations
    assert max(history.completions) < 100 > max(history.evaluations["clock"])
    left_out = [note.partition(" left out: ")[0] for note in history.notes if "not that of a step" in note]
    assert left_out == ["2 files of eval", "2 files of completions"]
    assert rlif.report([run])[1]


def test_records_inside_an_evaluations_summary_are_read(run):
    """The first rlif 0.1.0 wrote them there."""
    path = run / "eval/step-000004-clock.json"
    (run / "eval/step-000004-clock.jsonl").unlink()
    write_json(path, {"accuracy": {"n": 1, "mean": 1.0}, "records": [{"right": True, "self_certainty": 1.0}, "torn"]})
    history = read_history(run)
    assert list(history.records(4, "clock")) == [{"right": True, "self_certainty": 1.0}]
    assert "records" not in history.evaluations["clock"][4]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(rlif.RlifError, match="is not a run folder"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        ({}, "Learned: accuracy on clock rose from"),
        ({"collapse": True}, "Learned, then collapsed: accuracy on clock rose from"),
        ({"task": "cups"}, "Learned: accuracy on cups rose from"),
        ({"task": "math"}, "Learned: accuracy on clock rose from"),
        (
            {"tasks": ()},
            "Accuracy was not monitored, so whether answers got better is unknown: self-certainty went from 6.00",
        ),
        (
            {"tasks": (), "collapse": True, "steps": 24},
            "Collapsed from step 15 on, by its own signs: 90% of completions are truncated",
        ),
        ({"finished": False, "every": 12}, "Going, or stopped, at step 12 of 12. Learned"),
        ({"every": 99}, "Accuracy on clock is 20.8% at step 0; there is no later one"),
        ({"problems": 2}, "No clear change: accuracy on clock went from"),
    ],
)
def test_the_verdict_of_each_kind_of_run(tmp_path, settings, begins):
    assert reported_runs([read_history(make_run(tmp_path / "run", **settings))])[0].verdict.startswith(begins)


def test_the_collapse_is_found_in_the_accuracy_of_the_training_task(tmp_path):
    history = read_history(make_run(tmp_path / "run", collapse=True))
    found = reported_runs([history])[0].collapse
    assert found is not None and found.step == 8
    assert reported_runs([read_history(make_run(tmp_path / "healthy"))])[0].collapse is None
