"""What the command line says of the guard."""

from __future__ import annotations

import io
from dataclasses import asdict

import pytest
from rich.console import Console
from typer.testing import CliRunner

import rlif
from rlif.cli.main import app
from rlif.cli.probe import show_guard
from rlif.guard.limits import Guard
from rlif.guard.monitor import Monitor
from rlif.runs.checkpoints import seal
from rlif.runs.folder import Run
from rlif.runs.launcher_contract import GUARD_STOPPED
from rlif.runs.rollback import alarms, guard_summary, roll_back, rollbacks, strengthened
from rlif.training import lifecycle as training

(ALARM,) = Monitor(Guard()).step(24, {"kl": float("nan")})


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run.create(rlif.load_recipe("demo", [f"output={tmp_path}"]), "demo")
    for step in (10, 20, 30):
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
        (run.checkpoints / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        seal(run.checkpoints / f"checkpoint-{step}")
    return run


def finish(run: Run, healthy: int | None, stopped=None) -> None:
    summary = {"steps": 24, "seconds": 1.0, "reward": "self_certainty", "extra_passes": 0, "path": "decode"}
    run.write_summary(summary | {"evaluations": {}, "guard": guard_summary(run, run.recipe().guard, healthy, stopped)})


def said(run: Run) -> str:
    out = io.StringIO()
    show_guard(run, Console(file=out, width=400))
    return out.getvalue()


def test_a_stop_is_one_sentence_with_the_checkpoint_to_use(run):
    run.append("alarms.jsonl", asdict(ALARM))
    finish(run, 20, ALARM)
    text = said(run)
    assert "ended the run at step 24: kl is not finite, since step 24" in text
    assert f"the best healthy checkpoint: {run.checkpoints / 'checkpoint-20'}" in text
    assert run.summary()["guard"]["stopped"]["sign"] == "non_finite"


def test_alarms_under_policy_log_are_said_and_a_healthy_run_says_nothing(run):
    finish(run, 30)
    assert said(run) == ""
    run.append("alarms.jsonl", asdict(ALARM))
    finish(run, None)
    text = said(run)
    assert "raised non_finite and went on" in text and "there is no healthy checkpoint" in text


def test_a_checkpoint_that_is_gone_is_not_named(run):
    finish(run, 40)
    assert run.summary()["guard"]["best_healthy_checkpoint"] is None


@pytest.mark.parametrize(("stopped", "code"), [(ALARM, GUARD_STOPPED), (None, 0)])
def test_a_run_that_the_guard_ended_exits_with_a_code_of_its_own(run, monkeypatch, stopped, code):
    finish(run, 20, stopped)
    monkeypatch.setattr(training, "train", lambda recipe, **_: run)
    assert CliRunner().invoke(app, ["train", "demo"]).exit_code == code


def test_rolling_back_leaves_the_folder_as_it_was_at_the_checkpoint(run):
    for step in range(1, 25):
        run.append_metrics({"step": step, "kl": 0.0})
        run.write_completions(step, [])
    run.append("alarms.jsonl", asdict(ALARM))
    recipe = run.recipe()
    assert roll_back(run, recipe, ALARM, 20) == pytest.approx(0.3)
    assert {path.name for path in run.checkpoints.iterdir()} == {"checkpoint-10", "checkpoint-20"}
    assert run.metrics()[-1]["step"] == 20 and len(list(run.path.glob("completions/*"))) == 20 and alarms(run) == []
    assert roll_back(run, recipe, ALARM, 0) == pytest.approx(0.9)
    assert not any(run.checkpoints.iterdir()) and run.metrics() == []
    assert [(event["from"], event["to"]) for event in rollbacks(run)] == [(24, 20), (24, 0)]


def test_the_weight_depends_on_recipe_and_rollbacks_alone():
    recipe = rlif.load_recipe("demo", ["guard.strengthen=2"])
    assert [strengthened(recipe, n).resolved_training["beta"] for n in (0, 1, 2)] == pytest.approx([0.1, 0.2, 0.4])
    assert strengthened(recipe, 0) is recipe


def test_probe_takes_the_names_of_columns(monkeypatch, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"frage": "1 + 1", "antwort": "2"}\n' * 8)
    seen = []
    monkeypatch.setattr("rlif.training.forecast.probe", lambda recipe, problems: seen.append(recipe) or 1 / 0)
    data = ["task=prompts", f"source={tmp_path / 'data.jsonl'}"]
    result = CliRunner().invoke(app, ["probe", "demo", *data, "--columns", "prompt=frage,gold=antwort"])
    assert isinstance(result.exception, ZeroDivisionError)
    assert seen[0].columns == {"prompt": "frage", "gold": "antwort"} and seen[0].task == "prompts"
