"""Tests what a run of verl's leaves in its run folder. Needs no verl."""

from __future__ import annotations

import numpy
import pytest
from support.models import byte_tokenizer

from rlif.config.loading import check_recipe
from rlif.engines.verl.metrics import Recorder, our_names
from rlif.engines.verl.settings import Settings
from rlif.guard.limits import Guard
from rlif.rewards.measuring import ScoredCompletion
from rlif.runs.folder import Run
from rlif.tasks import find_task
from rlif.training.verl_run import ending_alarm

STEP = "training/global_step"


def recorder_of(folder, **keys) -> Recorder:
    recipe = check_recipe({"engine": "verl", "model": "a/b", "output": str(folder)} | keys)
    path = folder / "run"
    run = Run(path) if path.is_dir() else Run.create(recipe, "run")
    return Recorder(Settings(recipe, find_task("math"), run), byte_tokenizer())


def rows(*truncated: bool) -> list[ScoredCompletion]:
    """Completions of 2 tokens each, whose prompts have 3."""
    prompt = [{"role": "user", "content": "problem"}]
    return [ScoredCompletion(prompt, "ab", [5, 6, 7], [8, 9], cut, reward=1.0, advantage=0.5) for cut in truncated]


def test_metrics_have_the_names_that_reports_and_the_guard_read():
    logs = {"actor/loss": numpy.float32(0.5), "response_length/mean": 7.0, "critic/vf_loss": 2.0, STEP: 3}
    logs |= {"odd": object()}
    assert our_names(logs) == {"loss": 0.5, "completion_length": 7.0, "critic/vf_loss": 2.0}


def test_numbers_whose_meaning_is_another_keep_verls_name():
    """Its clip_ratio counts the longest of a batch, and its means of KL and entropy are those of the loss."""
    logs = {"response_length/clip_ratio": 0.25, "actor/kl_loss": 9.0, "actor/entropy": 9.0, "perf/total_num_tokens": 4}
    assert our_names(logs) == logs


def test_truncated_is_the_share_that_did_not_end_and_tokens_add_up(tmp_path):
    recorder = recorder_of(tmp_path)
    for step, truncated in enumerate([(True, False, False, False), (True, True, False, False)], start=1):
        recorder.take(rows(*truncated), step, entropy=2.0, kl=0.1)
        logs = {"actor/loss": 0.0, "response_length/clip_ratio": 0.75, "perf/total_num_tokens": 20, STEP: step}
        recorder.log(logs, step)
    logged = recorder.run.metrics()
    assert [row["truncated"] for row in logged] == [0.25, 0.5]
    assert [row["tokens"] for row in logged] == [20, 40]
    assert logged[0]["entropy"] == 2.0 and logged[0]["kl"] == 0.1 and logged[0]["reward"] == 1.0


def test_a_step_that_trains_the_critic_alone_is_recorded_and_a_validation_is_not(tmp_path):
    recorder = recorder_of(tmp_path)
    recorder.log({"val-core/reward": 1.0}, 0)
    recorder.take(rows(False), 1)
    recorder.log({"critic/vf_loss": 2.0, STEP: 1}, 1)
    assert [(row["step"], row["critic/vf_loss"]) for row in recorder.run.metrics()] == [(1, 2.0)]


def test_a_run_that_begins_forgets_nothing(tmp_path):
    recorder = recorder_of(tmp_path)
    recorder.restore(None, 0)
    assert recorder.run.metrics() == [] and recorder.tokens == 0


@pytest.mark.parametrize("step", [0, 1])
def test_a_run_that_goes_on_forgets_what_was_logged_after_its_checkpoint(tmp_path, step):
    """Also after a kill before the first checkpoint, where verl starts anew."""
    recorder, states = recorder_of(tmp_path), {0: None}
    for number in (1, 2):
        recorder.take(rows(False, True), number)
        states[number] = recorder.state()  # verl saves before it logs
        recorder.log({"actor/loss": 0.0, STEP: number}, number)
    again = recorder_of(tmp_path)
    again.restore(states[step], step)
    assert [row["step"] for row in again.run.metrics()] == list(range(1, step + 1))
    assert again.tokens == 10 * step
    assert len(again.run.files("completions/step-*.jsonl")) == step


@pytest.mark.parametrize("policy", ["log", "stop"])
def test_the_summary_says_which_alarm_ended_a_run(tmp_path, policy):
    guard = {"policy": policy, "start": 1, "window": 1, "patience": 1}
    recorder, ended = recorder_of(tmp_path, guard=guard), []
    for step, kl in enumerate([0.0, 0.5], start=1):
        recorder.take(rows(False), step, kl=kl)
        ended.append(recorder.log({"actor/loss": 0.0, STEP: step}, step))
    assert ended == [False, policy == "stop"]
    found = ending_alarm(Guard(**guard), recorder.run)
    assert (found and found.step) == (2 if policy == "stop" else None)
