"""Tests the run folder: its files, what a resume deletes, and faults while writing."""

from __future__ import annotations

import errno
import json
import math
import os
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

import rlif
from rlif.config.loading import load_recipe
from rlif.engines.trl import checkpointing
from rlif.runs.checkpoints import seal
from rlif.runs.folder import Run, is_free
from rlif.training.faults import faults_as_errors
from rlif.training.lifecycle import _save_model
from rlif.training.processes import on_main


@pytest.fixture
def run(tmp_path):
    return Run.create(load_recipe("demo", [f"output={tmp_path}"]), "demo")


def test_default_names_are_numbered_and_given_names_never_overwritten(tmp_path):
    recipe = load_recipe("demo", [f"output={tmp_path}"])
    with ExitStack() as going:
        assert [Run.create(recipe, "demo", going).path.name for _ in range(3)] == ["demo", "demo-2", "demo-3"]
    Run.open(tmp_path / "demo").append_metrics({"step": 1})
    with pytest.raises(rlif.RlifError, match=r"demo exists already; choose another name, .*--resume"):
        Run.create(recipe.model_copy(update={"name": "demo"}), "demo")
    Run.open(tmp_path / "demo").write_summary({})
    with pytest.raises(rlif.RlifError, match=r"demo exists already; choose another name\.$"):
        Run.create(recipe.model_copy(update={"name": "demo"}), "demo")


def failed_start(run):
    """What is there when a reward of one's own raises at the first rollout."""
    run.write_evaluation(0, "clock", {"step": 0}, [{"id": "a"}])
    run.write_traceback(1, "Traceback ...")
    run.append("alarms.jsonl", {"step": 0})
    run.checkpoints.mkdir()
    (run.path / ".summary.json.draft").touch()


STEPS = {
    "a logged step": lambda run: run.append_metrics({"step": 1}),
    "a rollout": lambda run: run.write_completions(1, []),
    "a checkpoint": lambda run: (run.checkpoints / "checkpoint-1").mkdir(),
    "a later evaluation": lambda run: run.write_evaluation(1, "clock", {}, []),
    "a summary": lambda run: run.write_summary({}),
    "a file of the user's": lambda run: (run.path / "notes.txt").touch(),
    "a file of the user's in eval": lambda run: (run.path / "eval" / "mine.json").touch(),
}


@pytest.mark.parametrize("name", [None, "demo"])
def test_a_start_that_took_no_step_does_not_block_the_next(name, tmp_path):
    recipe = load_recipe("demo", [f"output={tmp_path}", *([f"name={name}"] if name else [])])
    with ExitStack() as going:
        failed_start(Run.create(recipe, "demo", going))
        assert not is_free(tmp_path / "demo")  # it is still going
        if name:
            with pytest.raises(rlif.RlifError, match="exists already"):
                Run.create(recipe, "demo")
    assert is_free(tmp_path / "demo") and is_free(tmp_path / "other")
    again = Run.create(recipe, "demo")
    assert again.path == tmp_path / "demo" and {path.name for path in again.path.iterdir()} == {
        "recipe.yaml", "environment.json"
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_took_a_step_is_never_replaced(step, run):
    failed_start(run)
    STEPS[step](run)
    before = sorted(run.path.rglob("*"))
    assert not is_free(run.path)
    with pytest.raises(rlif.RlifError, match="exists already"):
        Run.create(load_recipe("demo", [f"output={run.path.parent}", "name=demo"]), "demo")
    assert sorted(path for path in run.path.rglob("*") if path.name != ".lock") == before


def test_folders_that_are_no_runs_and_links_to_runs_are_never_replaced(run):
    (run.path.parent / "linked").symlink_to(run.path)
    (run.path.parent / "other").mkdir()
    (run.path.parent / "gone").symlink_to(run.path.parent / "nowhere")
    free = {name: is_free(run.path.parent / name) for name in ("demo", "linked", "other", "gone")}
    assert free == {"demo": True, "linked": False, "other": False, "gone": False}


def test_the_written_recipe_is_read_back_with_all_defaults(run):
    """All values are written, so later changes of the defaults do not change the run."""
    again, started = Run.open(run.path).recipe(), load_recipe("demo", [f"output={run.path.parent}"])
    assert again.name == "demo" and again.normalisation == "group_std_floor"
    assert again.training == started.resolved_training and again.training["loss_type"] == "grpo"
    assert again.model_copy(update={"name": None, "training": started.training}) == started


@pytest.mark.parametrize(
    ("given", "strategy"),
    [
        ({}, "ddp"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "fsdp2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, None),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, "zero2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "own.json"}, None),
    ],
)
def test_the_environment_has_the_strategy_of_the_launch(given, strategy, tmp_path, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Run.create(load_recipe("demo", [f"output={tmp_path}"]), "run").environment()["strategy"] == strategy


def test_environment_names_versions_and_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_token")
    run = Run.create(load_recipe("demo", [f"output={tmp_path}"]), "demo")
    written = (run.path / "environment.json").read_text()
    assert {"torch", "trl", "transformers"} <= set(json.loads(written)["packages"])
    assert "hf_not_a_real_token" not in written


def test_metrics_skip_a_torn_line_and_write_nan_as_none(run):
    run.append_metrics({"step": 1, "reward": math.nan})
    run.append_metrics({"step": 2, "reward": 1.5})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert run.metrics() == [{"step": 1, "reward": None}, {"step": 2, "reward": 1.5}]


def test_rewind_deletes_all_later_steps(run):
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
        run.write_completions(step, [{"step": step}])
        run.write_evaluation(step, "clock", {"step": step}, [{"id": "a", "step": step}])
    run.rewind(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert sorted(run.evaluations()["clock"]) == [1, 2]
    assert sorted(path.name for path in run.path.glob("completions/*")) == ["step-000001.jsonl", "step-000002.jsonl"]


def test_torn_checkpoints_are_skipped_and_removed(run):
    for step in (5, 10, 15):
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}")
        if step < 15:
            seal(folder)
    assert run.good_checkpoint()[0] == run.checkpoints / "checkpoint-10"
    run.remove_torn()
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_folders_that_are_not_run_folders_are_refused(tmp_path):
    with pytest.raises(rlif.RlifError, match="is not a run folder"):
        Run.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(rlif.RlifError, match="cannot make the run folder"):
        Run.create(load_recipe("demo", [f"output={tmp_path / 'file'}"]), "demo")


def test_new_files_are_synced_before_they_replace_old_ones(run, monkeypatch):
    """Logs are synced before a checkpoint is sealed, and the model before the summary is written."""
    seen = []

    def fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((path.name, (run.path / "summary.json").exists(), (folder / "manifest.json").exists()))

    folder = run.checkpoints / "checkpoint-1"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("1")
    run.append_metrics({"step": 1})
    monkeypatch.setattr(os, "fsync", fsync)
    state = SimpleNamespace(global_step=1, is_world_process_zero=True)
    checkpointing.SealCheckpoints(run, None, lambda: None).on_save(None, state, None)
    assert seen[0] == ("metrics.jsonl", False, False) and ("weights", False, False) in seen
    seen.clear()

    def save(path):
        (Path(path) / "deep").mkdir(parents=True)
        (Path(path) / "deep" / "model.safetensors").write_text("1")

    monkeypatch.setattr("rlif.training.lifecycle.write_card", lambda folder, *_: (folder / "README.md").write_text(""))
    _save_model(run, SimpleNamespace(save_model=save), {})
    assert (run.model / "deep" / "model.safetensors").exists()
    assert {name for name, _, _ in seen} == {"model.safetensors", "README.md", "deep", ".model.draft", run.path.name}
    seen.clear()
    run.write_summary({"steps": 1})
    assert [(name, there) for name, there, _ in seen] == [(".summary.json.draft", False), (run.path.name, True)]


@pytest.mark.parametrize("tidies", [False, True])
def test_only_the_process_that_holds_the_folder_removes_torn_checkpoints(run, tidies):
    """To other processes, a checkpoint that is being sealed looks torn."""
    half = run.checkpoints / "checkpoint-1"
    half.mkdir(parents=True)
    with pytest.raises(rlif.RlifError, match="the disk is full"), faults_as_errors(run, 2, tidies=tidies):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert half.exists() is not tidies


def test_a_summary_of_something_else_is_refused(run):
    run.write_summary({"python": "3.11"})
    with pytest.raises(rlif.RlifError, match=r"summary.json is damaged: it has no whole number as its 'steps'"):
        run.summary()


@pytest.mark.parametrize("step", [True, -1, 2.5, 10**300, "3"])
def test_a_line_of_the_log_whose_step_is_not_a_whole_number_is_refused(step, run):
    run.append_metrics({"step": step})
    with pytest.raises(rlif.RlifError, match=r"line 1 of .*metrics.jsonl is damaged: it has no whole number as its"):
        run.metrics()
    run.write_summary({"steps": step})
    with pytest.raises(rlif.RlifError, match=r"summary.json is damaged: it has no whole number as its 'steps'"):
        run.summary()


def test_a_missing_file_of_the_run_is_explained(run):
    gone = pytest.raises(rlif.RlifError, match=r"checkpoint-1/x was removed while .*; leave .* alone and go on with")
    with gone, faults_as_errors(run):
        (run.checkpoints / "checkpoint-1" / "x").open()
    with pytest.raises(FileNotFoundError), faults_as_errors(run):
        (run.path.parent / "elsewhere").open()


def test_an_error_on_the_main_process_is_raised():
    assert on_main(lambda: 3) == 3
    for error in (rlif.RlifError("mine"), ValueError("a defect")):
        with pytest.raises(type(error), match=str(error)):
            on_main(lambda error=error: (_ for _ in ()).throw(error))


def test_a_default_name_becomes_a_valid_folder_name(tmp_path):
    run = Run.create(load_recipe("demo", [f"output={tmp_path}"]), "my recipe (2)")
    assert run.path.name == "my-recipe--2-" and Run.open(run.path).recipe().name == run.path.name
