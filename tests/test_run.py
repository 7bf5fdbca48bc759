"""The run folder."""

from __future__ import annotations

import json
import math

import pytest

import rlif
from rlif.checkpoints import seal
from rlif.config import load_recipe
from rlif.run import Run


@pytest.fixture
def run(tmp_path):
    return Run.create(load_recipe("demo", [f"output={tmp_path}"]), "demo")


def test_names_are_numbered_and_never_overwritten(tmp_path):
    recipe = load_recipe("demo", [f"output={tmp_path}"])
    assert [Run.create(recipe, "demo").path.name for _ in range(3)] == ["demo", "demo-2", "demo-3"]
    with pytest.raises(rlif.RlifError, match=r"demo exists already; choose another name=.*--resume"):
        Run.create(recipe.model_copy(update={"name": "demo"}), "demo")


def test_the_recipe_comes_back(run):
    """With nothing left to defaults, so that a later version of them changes nothing."""
    again, started = Run.open(run.path).recipe(), load_recipe("demo", [f"output={run.path.parent}"])
    assert again.name == "demo" and again.normalisation == "group_std_floor"
    assert again.training == started.resolved_training and again.training["loss_type"] == "grpo"
    assert again.model_copy(update={"name": None, "training": started.training}) == started


def test_environment_names_versions_and_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
    run = Run.create(load_recipe("demo", [f"output={tmp_path}"]), "demo")
    written = (run.path / "environment.json").read_text()
    assert {"torch", "trl", "transformers"} <= set(json.loads(written)["packages"])
    assert "hf_not_a_real_token" not in written


def test_metrics_leave_out_a_torn_line_and_know_no_nan(run):
    run.append_metrics({"step": 1, "reward": math.nan})
    run.append_metrics({"step": 2, "reward": 1.5})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert run.metrics() == [{"step": 1, "reward": None}, {"step": 2, "reward": 1.5}]


def test_rewind_forgets_what_came_after(run):
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
        run.write_completions(step, [{"step": step}])
        run.write_evaluation(step, "clock", {"step": step}, [{"id": "a", "step": step}])
    run.rewind(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert sorted(run.evaluations()["clock"]) == [1, 2]
    assert sorted(path.name for path in run.path.glob("completions/*")) == ["step-000001.jsonl", "step-000002.jsonl"]


def test_a_torn_checkpoint_is_not_the_latest(run):
    for step in (5, 10, 15):
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}")
        if step < 15:
            seal(folder)
    assert run.latest_checkpoint() == run.checkpoints / "checkpoint-10"
    run.remove_torn()
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(rlif.RlifError, match="is no run folder"):
        Run.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(rlif.RlifError, match="cannot make the run folder"):
        Run.create(load_recipe("demo", [f"output={tmp_path / 'file'}"]), "demo")
