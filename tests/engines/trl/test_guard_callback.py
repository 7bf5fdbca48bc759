"""Tests the guard in real runs: stop, rollback and resume of a tiny random model whose KL to the start grows."""

from __future__ import annotations

import io
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import rlif
from rlif.config.loading import check_recipe
from rlif.engines.trl.guard_callback import GuardState, ScriptGuard
from rlif.guard.limits import Guard
from rlif.guard.monitor import Alarm, Monitor
from rlif.guard.signs import NON_FINITE, SIGNS
from rlif.runs.checkpoints import seal
from rlif.runs.folder import Run
from rlif.runs.rollback import alarms, rollbacks
from rlif.training.session import Session

SMALL = {
    "task": "clock",
    "prompt": "plain",
    "dtype": "float32",
    "problems_per_update": 2,
    "max_prompt_tokens": 1024,
    "training": {
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 8,
        "max_steps": 8,
        "save_steps": 2,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-3,
        "beta": 0.1,
        "temperature": 1.0,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "log_level": "error",
    },
}
OFF = dict.fromkeys(SIGNS)
QUICK = {"start": 1, "window": 1, "patience": 1, "prompt_check": 0, **OFF}
STRENGTHEN = 1000.0


def train(folder, model, guard, *, resume=None, **training) -> Run:
    recipe = SMALL | {"model": str(model), "output": str(folder), "guard": guard}
    recipe["training"] = SMALL["training"] | training
    return rlif.train(check_recipe(recipe), resume=resume, console=Console(quiet=True))


def kls(run: Run) -> dict[int, float]:
    return {row["step"]: row["kl"] for row in run.metrics()}


def timeless(run: Run, after: int = 0):
    return [
        {key: value for key, value in row.items() if key != "step_seconds"}
        for row in run.metrics()
        if row["step"] > after
    ]


def weights(run: Run, step: int):
    return load_file(run.checkpoints / f"checkpoint-{step}" / "model.safetensors")


def same(some, others) -> bool:
    return set(some) == set(others) and all(torch.equal(some[name], others[name]) for name in some)


def from_checkpoint(run: Run, step: int, folder, **training) -> Run:
    """Copies a run as it was at a checkpoint and resumes the copy with other training options."""
    copy = Run(shutil.copytree(run.path, folder))
    shutil.rmtree(copy.model, ignore_errors=True)
    for name in ("summary.json", "rollbacks.jsonl"):
        (copy.path / name).unlink(missing_ok=True)
    for path in copy.checkpoints.glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path)
    values = copy.recipe().model_dump()
    return rlif.train(
        check_recipe(values | {"training": values["training"] | training}), resume=copy, console=Console(quiet=True)
    )


@pytest.fixture(scope="module")
def logged(tmp_path_factory, model_folder) -> Run:
    """A run whose guard has no limits."""
    return train(tmp_path_factory.mktemp("logged"), model_folder, QUICK, save_total_limit=9)


@pytest.fixture(scope="module")
def limit(logged) -> float:
    """A limit on KL that the run first exceeds after the checkpoint at step 4."""
    found = kls(logged)
    early, late = max(found[step] for step in (1, 2, 3, 4)), max(found[step] for step in (5, 6))
    assert 1.2 * early < late
    return 0.1 * early + 0.9 * late


@pytest.mark.parametrize("fp16", [True, False])
def test_an_infinite_gradient_raises_an_alarm_except_in_fp16(fp16, tmp_path):
    """With fp16 the scaler skips such a step because its scale has grown too large; that is normal."""
    run = Run.create(check_recipe({"output": str(tmp_path)}), "run")
    guard = GuardState(Guard(policy="stop"), run, Console(quiet=True), 1)
    state = SimpleNamespace(global_step=1, is_world_process_zero=True)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    logs = {"loss": 0.0, "grad_norm": float("inf")}
    guard.on_log(SimpleNamespace(fp16=fp16), state, control, logs=logs)
    assert control.should_training_stop is not fp16 and bool(alarms(run)) is not fp16
    assert ("grad_norm" in logs) is not fp16


@pytest.fixture
def three_checkpoints(tmp_path):
    """A run folder, its output, and a function that rolls it back to the healthy checkpoint at step 4."""
    run = Run.create(check_recipe({"output": str(tmp_path)}), "run")
    for step in (2, 4, 6):
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(str(step))
        seal(folder)
        run.append_metrics({"step": step})
    alarm = Alarm("kl", "alarm", 6, 5, 1.0, 0.1, "", "", "")
    guard, out = SimpleNamespace(healthy=4, stopped=alarm), io.StringIO()
    prepared = SimpleNamespace(recipe=check_recipe({}))
    session = Session(prepared, run, None, None, None, None, guard, None)
    return run, out, lambda: session.roll_back(Console(file=out))


def test_rollback_skips_a_damaged_checkpoint(three_checkpoints):
    run, out, roll_back = three_checkpoints
    (run.checkpoints / "checkpoint-4" / "weights").write_text("?")
    assert roll_back() == run.checkpoints / "checkpoint-2"
    assert "checkpoint-4 is damaged: weights has other content" in out.getvalue()
    assert "rolled back from step 6 to step 2" in out.getvalue()
    assert [row["step"] for row in run.metrics()] == [2] and rollbacks(run)[0]["to"] == 2


@pytest.mark.parametrize("gone", [False, True])
def test_a_rollback_without_a_whole_checkpoint_removes_nothing(gone, three_checkpoints):
    run, _, roll_back = three_checkpoints
    for step in (2, 4):
        weights = run.checkpoints / f"checkpoint-{step}" / "weights"
        shutil.rmtree(weights.parent) if gone else weights.unlink()
    before = sorted(run.path.rglob("*"))
    with pytest.raises(rlif.RlifError, match="nothing was removed" if gone else "no checkpoint of .* is whole"):
        roll_back()
    assert sorted(run.path.rglob("*")) == before and len(run.metrics()) == 3


def test_square_brackets_in_alarms_are_not_read_as_markup(tmp_path, monkeypatch):
    alarm = Alarm("kl", "alarm", 1, 1, 1.0, 0.1, "it ends with [/INST]", "none", "none")
    monkeypatch.setattr(Monitor, "step", lambda *_: [alarm])
    assert "it ends with [/INST]" in logged_step(tmp_path, 0.0)[3]


def first_beyond(run: Run, limit: float) -> int:
    return min(step for step, kl in kls(run).items() if kl > limit)


@pytest.mark.sweep
def test_signs_of_health_and_alarms_are_logged(logged):
    for row in logged.metrics():
        assert row["alarms"] == []
        assert {"repetition", "compression", "goes_on", "unanswered", "prompt_use"} <= set(row)
    found = logged.summary()["guard"]
    assert found["stopped"] is None and found["rollbacks"] == [] and alarms(logged) == []
    assert found["best_healthy_checkpoint"] == "checkpoints/checkpoint-8"


def test_policy_log_reports_the_alarm_and_continues(tmp_path, model_folder, logged, limit):
    run = train(tmp_path, model_folder, QUICK | {"kl": limit}, save_total_limit=1)
    step = first_beyond(logged, limit)
    (alarm, *_) = alarms(run)
    assert (alarm["sign"], alarm["step"], alarm["since"]) == ("kl", step, step) and "beta" in alarm["remedy"]
    assert [row["alarms"] == ["kl"] for row in run.metrics()] == [kl > limit for kl in kls(run).values()]
    assert kls(run) == kls(logged) and same(weights(run, 8), weights(logged, 8))
    best = run.summary()["guard"]["best_healthy_checkpoint"]
    assert best == "checkpoints/checkpoint-4" and (run.path / best).is_dir(), "kept, whatever save_total_limit says"


def test_policy_stop_ends_the_run_at_a_checkpoint(tmp_path, model_folder, logged, limit):
    run = train(tmp_path, model_folder, QUICK | {"kl": limit, "policy": "stop"}, save_total_limit=1)
    step, found = first_beyond(logged, limit), run.summary()
    assert found["steps"] == step == run.metrics()[-1]["step"] < 8
    assert found["guard"]["stopped"]["sign"] == "kl" and found["guard"]["stopped"]["step"] == step
    assert found["guard"]["best_healthy_checkpoint"] == "checkpoints/checkpoint-4"
    assert {path.name for path in run.checkpoints.glob("checkpoint-*")} == {"checkpoint-4", f"checkpoint-{step}"}
    assert same(weights(run, step), load_file(run.model / "model.safetensors"))
    assert same(weights(run, 4), weights(logged, 4))


@pytest.mark.sweep
def test_rollback_equals_a_resume_with_the_larger_beta(tmp_path, model_folder, logged, limit):
    """The weights equal those of a separate resume from the healthy checkpoint with that beta, to the last bit."""
    guard = QUICK | {"kl": limit, "policy": "rollback", "strengthen": STRENGTHEN, "rollbacks": 1}
    run = train(tmp_path / "one", model_folder, guard, save_total_limit=9)
    (event,) = rollbacks(run)
    assert (event["from"], event["to"], event["beta"]) == (first_beyond(logged, limit), 4, 0.1 * STRENGTHEN)
    assert event["alarm"]["sign"] == "kl"
    last = run.metrics()[-1]["step"]
    assert [row["step"] for row in run.metrics()] == list(range(1, last + 1)) and last > event["from"]

    fresh = from_checkpoint(logged, 4, tmp_path / "fresh", beta=0.1 * STRENGTHEN)
    after = [row for row in timeless(fresh, after=4) if row["step"] <= last]
    assert [row | {"alarms": []} for row in timeless(run, after=4)] == after
    assert kls(run)[last] != kls(logged)[last], "the weight changed nothing"
    step = last if (fresh.checkpoints / f"checkpoint-{last}").is_dir() else last - last % 2
    assert step > 4 and same(weights(run, step), weights(fresh, step))


@pytest.mark.sweep
def test_the_run_stops_after_the_allowed_number_of_rollbacks(tmp_path, model_folder):
    """No beta can hold this limit, and no checkpoint exists yet: two rollbacks to the start, then a stop."""
    guard = QUICK | {"kl": 1e-12, "policy": "rollback", "strengthen": 2.0, "rollbacks": 2}
    run = train(tmp_path, model_folder, guard)
    assert [(event["to"], event["beta"]) for event in rollbacks(run)] == [(0, 0.2), (0, 0.4)]
    found = run.summary()["guard"]
    assert found["stopped"]["sign"] == "kl" and found["best_healthy_checkpoint"] is None
    assert len(found["rollbacks"]) == 2 and len(alarms(run)) == 1


@pytest.mark.sweep
def test_a_run_resumed_after_a_rollback_keeps_its_larger_beta(tmp_path, model_folder, limit):
    guard = QUICK | {"kl": limit, "policy": "rollback", "strengthen": STRENGTHEN, "rollbacks": 1}
    run = train(tmp_path / "one", model_folder, guard, save_total_limit=9)
    events = (run.path / "rollbacks.jsonl").read_text()
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    (copy.path / "summary.json").unlink()
    shutil.rmtree(copy.model)
    last = run.metrics()[-1]["step"]
    for path in copy.checkpoints.glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > 4:
            shutil.rmtree(path)
    again = rlif.train(copy.recipe(), resume=copy, console=Console(quiet=True))
    assert (copy.path / "rollbacks.jsonl").read_text() == events
    assert timeless(again) == timeless(run) and again.metrics()[-1]["step"] == last
    assert same(load_file(again.model / "model.safetensors"), load_file(run.model / "model.safetensors"))


@pytest.mark.sweep
def test_the_guards_state_is_restored_on_resume(tmp_path, model_folder, logged, limit):
    """The steps of patience begin before the checkpoint and end after it."""
    guard = Guard(**QUICK | {"kl": 1e-12, "patience": 4, "start": 1}).model_dump()
    run = train(tmp_path / "one", model_folder, guard, save_total_limit=9)
    (alarm,) = alarms(run)
    assert (alarm["since"], alarm["step"]) == (2, 5)
    resumed = from_checkpoint(run, 4, tmp_path / "copy")
    assert timeless(resumed) == timeless(run) and alarms(resumed) == [alarm]
    states = [json.loads((r.checkpoints / "checkpoint-8/trainer_state.json").read_text()) for r in (run, resumed)]
    assert states[0]["stateful_callbacks"]["GuardState"] == states[1]["stateful_callbacks"]["GuardState"]


def logged_step(tmp_path, kl, *, step=1, every=1, policy="stop", **control):
    """Gives one logged step to a guard without a trainer; returns the guard and what it asked of the trainer."""
    run, out = Run(tmp_path), io.StringIO()
    guard = GuardState(Guard(**QUICK | {"kl": 1e-3, "policy": policy}), run, Console(file=out, width=300), every)
    asked = SimpleNamespace(**{"should_save": False, "should_training_stop": False} | control)
    state = SimpleNamespace(global_step=step, max_steps=9, is_world_process_zero=True, stateful_callbacks={})
    args = SimpleNamespace(num_generations=4, beta=0.0 if kl is None else 0.1)
    guard.on_train_begin(args, state, asked)
    logs = {"loss": 0.0} | ({} if kl is None else {"kl": kl})
    guard.on_log(SimpleNamespace(fp16=False), state, asked, logs=logs)
    return guard, asked, state, out.getvalue()


def test_the_guard_acts_only_at_the_end_of_a_rollout(tmp_path):
    """A checkpoint between updates that share a rollout could not be resumed exactly."""
    guard, asked, _, text = logged_step(tmp_path, 1.0, step=1, every=2)
    assert "alarm at step 1" in text and not asked.should_training_stop and guard.stopped is None
    asked = SimpleNamespace(should_save=False, should_training_stop=False)
    state = SimpleNamespace(global_step=2, is_world_process_zero=True)
    guard.on_log(SimpleNamespace(fp16=False), state, asked, logs={"loss": 0.0, "kl": 0.0})
    assert asked.should_training_stop and asked.should_save and guard.stopped and guard.stopped.step == 1


@pytest.fixture
def script_guard():
    args = SimpleNamespace(steps_per_generation=1, gradient_accumulation_steps=1)
    return ScriptGuard(True, SimpleNamespace(args=args, num_iterations=1))  # type: ignore[arg-type]


def test_messages_in_a_script_name_no_key_of_a_recipe(script_guard, caplog):
    for name, sign in {**SIGNS, "non_finite": NON_FINITE}.items():
        script_guard.say(str(Alarm(name, sign.severity, 1, 1, 1.0, 0.1, "seen", sign.cause, sign.remedy)))
    said = "\n".join(caplog.messages)
    assert len(caplog.messages) == len(SIGNS) + 1
    assert not re.search(r"training\.\w|problems_per_update", said)
    assert "a lower learning_rate, a larger beta, normalisation='group_std_floor'." in said
    assert "annotator='online', a larger beta." in said and "more prompts in an update" in said


def test_a_script_is_told_that_the_guard_ended_training(script_guard, tmp_path, caplog):
    args, state = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=3, is_world_process_zero=True)
    script_guard.on_train_end(args, state, None)
    assert not caplog.messages, "training ended by itself"
    script_guard.stopped = Alarm("kl", "alarm", 3, 1, 1.0, 0.1, "", "", "")
    script_guard.on_train_end(args, state, None)
    (tmp_path / "checkpoint-3").mkdir()
    script_guard.on_train_end(args, state, None)
    state.is_world_process_zero = False
    script_guard.on_train_end(args, state, None)
    ended = "guard: training ended at step 3, by the alarm kl; "
    assert caplog.messages == [f"{ended}it has no checkpoint", f"{ended}its checkpoint is {tmp_path / 'checkpoint-3'}"]


def test_each_policy_asks_the_trainer_to_stop_or_save(tmp_path):
    for policy, stops, saves in (("log", False, False), ("stop", True, True), ("rollback", True, False)):
        _, asked, _, _ = logged_step(tmp_path, 1.0, policy=policy)
        assert (asked.should_training_stop, asked.should_save) == (stops, saves)
    _, asked, _, _ = logged_step(tmp_path, 1.0, policy="rollback", should_training_stop=True, should_save=True)
    assert asked.should_save, "Ctrl-C in the same step still has its checkpoint"


def test_a_healthy_checkpoint_is_marked_before_it_is_written(tmp_path):
    guard, *_ = logged_step(tmp_path, 0.0, should_save=True)
    assert guard.healthy == 1 and guard.state()["attributes"]["watch"]["healthy"] == 1
    guard, *_ = logged_step(tmp_path, 1.0, policy="log", should_save=True)
    assert guard.healthy is None


def test_the_guard_says_when_kl_is_not_measured(tmp_path):
    assert "is not measured" in logged_step(tmp_path, None)[3]
    assert logged_step(tmp_path, 0.0)[3] == ""
