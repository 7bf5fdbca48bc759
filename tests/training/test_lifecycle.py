"""Tests whole runs of `rlif train`, from recipe to run folder, on a tiny random model."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sqlite3
import struct
import sys
from collections.abc import Iterator

import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError
from support import commands, oracle
from support.small_runs import SMALL, completions, timeless, train
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlif
from rlif.guard.health import measure_health
from rlif.runs.folder import Run
from rlif.tasks.miniature import HOURS
from rlif.tasks.prompts import BOXED
from rlif.training import prompt_check
from rlif.training.prepare import prepare
from rlif.training.progress import logging_console


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder) -> Run:
    return train(tmp_path_factory.mktemp("whole"), model_folder)


def test_the_run_folder_holds_recipe_metrics_evaluations_and_checkpoints(run):
    names = {path.name for path in run.path.iterdir()} - {".lock"}
    expected = "recipe.yaml environment.json begun.json metrics.jsonl completions eval checkpoints model summary.json"
    assert names == set(expected.split())
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    wanted = "reward self_certainty reward_spread completion_length truncated kl entropy grad_norm extra_passes path"
    assert set(wanted.split()) <= set(rows[0])
    assert {row["path"] for row in rows} == {"decode"} and {row["extra_passes"] for row in rows} == {0}
    assert set(run.evaluations()) == {"clock", "cups"} and sorted(run.evaluations()["clock"]) == [0, 2, 4]
    summary = run.summary()
    assert summary["steps"] == 4 and summary["seed"] == 0 and summary["extra_passes"] == 0
    for when in ("before", "after"):
        assert summary["evaluations"]["cups"][when]["accuracy"]["n"] == 4
    assert sorted(path.name for path in run.checkpoints.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_completions_are_written_with_rewards_and_advantages(run):
    rows = completions(run, 1)
    assert len(rows) == 8
    keys = (
        "step problem prompt completion prompt_ids completion_ids token_chars token_self_certainty"
        " truncated answer gold right rewards reward advantage"
    )
    assert all(set(row) == set(keys.split()) for row in rows)
    rewards = [row["reward"] for row in rows]
    assert rewards == [row["rewards"]["self_certainty"] for row in rows]
    start = json.loads((run.checkpoints / "checkpoint-2/trainer_state.json").read_text())
    spread = start["stateful_callbacks"]["NormaliserState"]["attributes"]["start_spread"]["self_certainty"]
    expected = oracle.group_advantages(rewards, 4, 0.4 * spread)
    assert [row["advantage"] for row in rows] == pytest.approx(expected, abs=1e-4)


def test_completions_are_written_with_the_self_certainty_of_each_token(run):
    """It has two decimals. Its mean is the reward, and the texts of the tokens join to the completion."""
    for row in completions(run, 1):
        by_token = row["token_self_certainty"]
        assert len(by_token) == len(row["completion_ids"]) == len(row["token_chars"])
        assert sum(by_token) / len(by_token) == pytest.approx(row["reward"], abs=0.006)
        assert sum(row["token_chars"]) == len(row["completion"])
        assert row["right"] is False and row["problem"].startswith("clock/") and row["gold"] in HOURS


def test_rewards_are_the_self_certainty_of_the_sampling_model(run, model_folder):
    """The initial model sampled the first rollout, so a fresh pass of that model gives the same rewards."""
    model, rows = AutoModelForCausalLM.from_pretrained(model_folder), completions(run, 1)
    stats = rlif.score_completions(model, [r["prompt_ids"] for r in rows], [r["completion_ids"] for r in rows])
    assert rlif.SIGNALS["self_certainty"](stats) == pytest.approx([r["reward"] for r in rows], abs=1e-4)


def test_the_trained_model_differs_and_can_be_loaded(run, model_folder):
    model = AutoModelForCausalLM.from_pretrained(run.model)
    start = AutoModelForCausalLM.from_pretrained(model_folder)
    assert not torch.equal(model.lm_head.weight, start.lm_head.weight)
    assert AutoTokenizer.from_pretrained(run.model).decode([1]) == "<|end|>"


@pytest.mark.sweep
def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(run, tmp_path, model_folder):
    again = train(tmp_path, model_folder)
    other = train(tmp_path, model_folder, "seed=1")
    assert timeless(again.metrics()) == timeless(run.metrics()) != timeless(other.metrics())


def test_a_resumed_run_equals_an_uninterrupted_run(run, tmp_path, model_folder):
    """It resumes from the checkpoint at step 2; the folder still holds lines of later steps."""
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    (copy.path / "summary.json").unlink()
    shutil.rmtree(copy.model)
    with (copy.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "torn')
    recipe = copy.recipe()
    resumed = rlif.train(recipe, resume=copy, console=Console(quiet=True))
    assert timeless(resumed.metrics()) == timeless(run.metrics())
    assert completions(resumed, 4) == completions(run, 4)
    weights = [AutoModelForCausalLM.from_pretrained(r.model).state_dict() for r in (run, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_progress_is_logged_and_not_printed_without_a_console(tmp_path, model_folder, caplog, capsys):
    overrides = [*SMALL, f"model={model_folder}", f"output={tmp_path / 'runs'}", "training.max_steps=2"]
    with caplog.at_level("INFO", logger="rlif.training"):
        run = rlif.train(rlif.load_recipe("demo", overrides))
    lines = [record.getMessage() for record in caplog.records if record.name == "rlif.training"]
    assert f"run folder {run.path}" in lines and any(line.startswith("step 2/2  self_certainty ") for line in lines)
    assert {record.levelname for record in caplog.records if record.name == "rlif.training"} == {"INFO"}
    assert capsys.readouterr().out == ""


def test_a_finished_run_is_not_trained_further(run):
    before, out = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}, io.StringIO()
    assert rlif.train(run.recipe(), resume=run, console=Console(file=out, width=500)) is run
    assert f"{run.path} is finished; there is nothing to continue" in out.getvalue()
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


@pytest.mark.sweep
def test_the_prompt_check_runs_before_the_first_step_and_prints_brackets_as_text(tmp_path, model_folder, monkeypatch):
    seen, out = [], io.StringIO()

    def check(model, tokenizer, task, problems, **settings):
        seen.append((len(problems), settings["decoding"].max_tokens, list(tmp_path.glob("runs/*/metrics.jsonl"))))
        return ["the chat template ends a turn with '[/INST]'"]

    monkeypatch.setattr(prompt_check, "check_prompts", check)
    small = ["evaluate={}", "training.max_steps=1", "training.num_iterations=1", "training.save_steps=1"]
    small += [f"model={model_folder}", f"output={tmp_path / 'runs'}"]
    recipe = rlif.load_recipe("demo", [*SMALL, *small, "guard={prompt_check: 3}"])
    rlif.train(recipe, console=Console(file=out))
    assert seen == [(3, recipe.training["max_completion_length"], [])]
    assert "prompt check: the chat template ends a turn with '[/INST]'" in out.getvalue()
    rlif.train(rlif.load_recipe("demo", [*SMALL, *small, "guard={prompt_check: 0}"]), console=Console(quiet=True))
    assert len(seen) == 1


def test_two_steps_on_real_gsm8k(tmp_path, model_folder, data_folder):
    run = train(tmp_path, model_folder, "task=gsm8k", "prompt=boxed", "limit=16", "training.max_steps=2", "evaluate={}")
    assert len(run.metrics()) == 2 and run.summary()["evaluations"] == {}
    known = {problem.text for problem in rlif.TASKS["gsm8k"].load("train", limit=16)}
    for row in completions(run, 1):
        assert row["prompt"][0]["content"].removesuffix("\n" + BOXED) in known


@pytest.mark.daily(every=2)
@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_a_run_on_a_file_of_unlabelled_prompts(tmp_path, model_folder, name):
    lines = [f"Tell me about {i}." for i in range(6)]
    text = "\n".join(lines if name.endswith("txt") else [json.dumps({"prompt": line}) for line in lines])
    (tmp_path / name).write_text(text)
    source = f"source={tmp_path / name}"
    run = train(tmp_path, model_folder, "task=prompts", source, "training.max_steps=2", "evaluate={}", "chat=false")
    assert len(run.metrics()) == 2
    assert {row["prompt"].strip() for row in completions(run, 1)} <= set(lines)


def test_each_step_logs_the_pull_of_its_completions(tmp_path):
    changes = [
        "problems_per_update=4",
        "training.max_steps=2",
        "training.per_device_train_batch_size=32",
        "evaluate={}",
    ]
    recipe = rlif.load_recipe("demo", [*changes, f"output={tmp_path}"])
    run = rlif.train(recipe, name="pulled", console=Console(quiet=True))
    for row in run.metrics():
        expected = measure_health(run.completions(row["step"]))
        assert row["pull"] == pytest.approx(expected["pull"], abs=1e-12) and 0 <= row["pull"] <= 1


def test_prompts_that_repeat_an_earlier_one_are_counted(tmp_path, model_folder):
    (tmp_path / "prompts.txt").write_text("One?\nTwo?\nOne?\nThree?\nOne?\nTwo\n")
    changes = [f"model={model_folder}", "task=prompts", f"source={tmp_path / 'prompts.txt'}", "evaluate={}"]
    found = prepare(
        rlif.load_recipe("demo", [*changes, "problems_per_update=2", "training.per_device_train_batch_size=8"])
    )
    assert len(found.problems) == 6
    assert found.notes == ["2 of 6 prompts are equal to an earlier one; each counts as a problem"]


@pytest.mark.sweep
def test_runs_with_lora_rloo_and_other_annotators(tmp_path, model_folder):
    lora = train(tmp_path, model_folder, "lora={r: 4, target_modules: [q_proj]}", "evaluate={}", "name=lora")
    assert (lora.model / "adapter_model.safetensors").is_file()
    rloo = train(tmp_path, model_folder, "algorithm=rloo", "normalisation=none", "evaluate={}", "name=rloo")
    assert {row["path"] for row in rloo.metrics()} == {"policy"}
    offline = train(tmp_path, model_folder, "annotator=offline", "evaluate={}", "name=offline")
    assert {row["path"] for row in offline.metrics()} == {"reference"}
    ema = train(tmp_path, model_folder, "annotator=ema", "annotator_decay=0.5", "evaluate={}", "name=ema")
    assert {row["path"] for row in ema.metrics()} == {"pass"}
    assert (ema.checkpoints / "checkpoint-2/annotator.safetensors").is_file()
    with pytest.raises(rlif.RlifError, match=r"unknown key 'lora.rank'"):
        train(tmp_path, model_folder, "lora={rank: 4}")


TRLS_NAMES = {
    "rewards/self_certainty/mean": "self_certainty",
    "completions/mean_length": "completion_length",
    "completions/min_length": "completion_length_min",
    "completions/max_length": "completion_length_max",
    "completions/clipped_ratio": "truncated",
    "clip_ratio/region_mean": "clip_ratio",
    "num_tokens": "tokens",
    "step_time": "step_seconds",
}  # and reward, kl, entropy, loss, which are the same in both


def leveldb_records(data: bytes, start: int) -> Iterator[bytes]:
    """Yields the records of a log of LevelDB that begins at a position of its first block of 32 KiB."""
    position, parts = 0, b""
    while position + 7 <= len(data):
        left = 2**15 - (start + position) % 2**15
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def assert_both_names(seen: dict[int | None, dict[str, float]], run: Run) -> None:
    """Compares what a tracker has of each step with the run folder."""
    for row in run.metrics():
        for theirs, ours in TRLS_NAMES.items():
            assert seen[row["step"]][f"train/{theirs}"] == pytest.approx(row[ours])
            assert seen[row["step"]][f"train/{ours}"] == pytest.approx(row[ours])
    assert seen[4]["eval/clock/accuracy"] == run.evaluations()["clock"][4]["accuracy"]["mean"]


def test_wandb_offline_shows_the_metrics_by_both_names(tmp_path, model_folder, monkeypatch):
    """The file that `wandb sync` would upload is read back."""
    wandb = pytest.importorskip("wandb", reason="no wandb; pip install wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = train(tmp_path, model_folder, "training.report_to=wandb", "evaluate.tasks=[clock]")
    wandb.finish()
    (file,) = tmp_path.rglob("*.wandb")
    seen: dict[int | None, dict[str, float]] = {}
    for data in leveldb_records(file.read_bytes()[7:], 7):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        seen.setdefault(row.get("train/global_step"), {}).update(row)
    assert_both_names(seen, run)


def test_trackio_shows_the_metrics_by_both_names(tmp_path, model_folder, monkeypatch):
    """It keeps them in a folder that it looks for when it is imported, so this is a process of its own."""
    pytest.importorskip("trackio", reason="no trackio; pip install trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    words = [*SMALL, f"model={model_folder}", f"output={tmp_path}", "name=tracked", "training.report_to=trackio"]
    done = commands.run("train", "demo", *words, "evaluate.tasks=[clock]")
    assert done.returncode == 0, done.stderr
    (database,) = (tmp_path / "trackio").glob("*.db")
    logged = [json.loads(row) for (row,) in sqlite3.connect(database).execute("SELECT metrics FROM metrics")]
    seen: dict[int | None, dict[str, float]] = {}
    for row in logged:
        seen.setdefault(row.get("train/global_step"), {}).update(row)
    assert_both_names(seen, Run.open(tmp_path / "tracked"))


@pytest.mark.sweep
def test_tensorboard_shows_the_same_metrics_by_the_same_names(tmp_path, model_folder):
    pytest.importorskip("tensorboard", reason="no tensorboard; pip install -e .[dev]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path, model_folder, "training.report_to=tensorboard", "evaluate.tasks=[clock]")
    (events,) = run.path.rglob("events.out.tfevents.*")
    seen = EventAccumulator(str(events))
    seen.Reload()
    tags = {tag: {event.step: event.value for event in seen.Scalars(tag)} for tag in seen.Tags()["scalars"]}
    for name in set(run.metrics()[0]) - {"step", "path", "epoch", "alarms"}:
        shown = tags[f"train/{name}"]
        assert [shown[row["step"]] for row in run.metrics()] == pytest.approx([row[name] for row in run.metrics()])
    for theirs, ours in TRLS_NAMES.items():
        assert tags[f"train/{theirs}"] == pytest.approx(tags[f"train/{ours}"]), theirs  # TRL's means are of float32
        assert theirs not in run.metrics()[0]
    looks = run.evaluations()["clock"]
    assert sorted(tags["eval/clock/accuracy"]) == sorted(looks) == [0, 2, 4]
    certainty = [looks[step]["self_certainty"] for step in sorted(looks)]
    assert list(tags["eval/clock/self_certainty"].values()) == pytest.approx(certainty)
    assert not any(name.startswith("eval") for row in run.metrics() for name in row)


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_refused(tmp_path, model_folder, monkeypatch):
    """It is refused before a byte is written; the checkpoint before stays whole."""
    usage = shutil.disk_usage(tmp_path)
    real, calls = shutil.disk_usage, []

    def full(path):
        calls.append(path)
        return real(path) if len(calls) == 1 else usage._replace(free=1000)

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(rlif.RlifError, match=r"a checkpoint of .* does not fit"):
        train(tmp_path, model_folder, "evaluate={}")
    run = Run.open(tmp_path / "runs/demo")
    assert [path.name for path in run.checkpoints.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.daily(every=2)
@pytest.mark.parametrize(
    ("writer", "good", "error"),
    [
        ("torch.save", 4, RuntimeError(f"[enforce fail at inline_container.cc] {os.strerror(errno.ENOSPC)}")),
        ("transformers.modeling_utils.safe_save_file", 1, SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)}")),
    ],
)
def test_a_disk_that_fills_up_while_writing_a_checkpoint(tmp_path, model_folder, monkeypatch, writer, good, error):
    """The torn checkpoint is removed, and the message says how to resume from the last good one."""
    module, _, name = writer.rpartition(".")
    save, calls = getattr(sys.modules[module], name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) > good:
            raise error
        return save(*args, **kwargs)

    monkeypatch.setattr(writer, failing)
    with pytest.raises(rlif.RlifError, match="the disk is full; make room and go on with: rlif train --resume"):
        train(tmp_path, model_folder, "evaluate={}")
    run = Run.open(tmp_path / "runs/demo")
    assert [path.name for path in run.checkpoints.glob("checkpoint-*")] == ["checkpoint-2"]


def test_progress_is_logged_in_a_notebook_too(monkeypatch, caplog):
    """Rich would make a display of each line there."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    caplog.set_level("INFO", "rlif.training")
    logging_console().print("step 1")
    assert [record.getMessage() for record in caplog.records] == ["step 1"]
