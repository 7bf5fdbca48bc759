"""Whole runs: `rlif train` from recipe to run folder, on a tiny random model."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import sys

import oracle
import pytest
import torch
from conftest import classifier_folder
from rich.console import Console
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlif
from rlif import prompt_check
from rlif.config import Meaning
from rlif.job import prepare
from rlif.meaning import load_meaning
from rlif.prompts import BOXED
from rlif.run import Run
from rlif.session import build
from rlif.signals import every_signal
from rlif.signals.group_confidence import WINDOW

SMALL = [
    "problems_per_update=2",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.max_completion_length=8",
    "training.max_steps=4",
    "training.save_steps=2",
    "training.warmup_steps=0",
    "training.learning_rate=1e-3",
    "training.log_level=error",
    "max_prompt_tokens=1024",
    "evaluate.limit=4",
    "evaluate.every=2",
]
TIMES = ("step_seconds", "seconds")


def train(tmp_path, model_folder, *overrides, **options) -> Run:
    recipe = rlif.load_recipe("demo", [*SMALL, f"model={model_folder}", f"output={tmp_path / 'runs'}", *overrides])
    return rlif.train(recipe, name="demo", console=Console(quiet=True), **options)


def timeless(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def completions(run: Run, step: int):
    return [json.loads(line) for line in (run.path / f"completions/step-{step:06d}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder) -> Run:
    return train(tmp_path_factory.mktemp("whole"), model_folder)


def test_the_run_folder_says_what_happened(run):
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


def test_completions_carry_their_rewards_and_the_engines_advantages(run):
    rows = completions(run, 1)
    assert len(rows) == 8
    keys = (
        "step problem prompt completion prompt_ids completion_ids token_chars token_self_certainty"
        " truncated answer right rewards reward advantage"
    )
    assert all(set(row) == set(keys.split()) for row in rows)
    rewards = [row["reward"] for row in rows]
    assert rewards == [row["rewards"]["self_certainty"] for row in rows]
    start = json.loads((run.checkpoints / "checkpoint-2/trainer_state.json").read_text())
    spread = start["stateful_callbacks"]["NormaliserState"]["attributes"]["start_spread"]["self_certainty"]
    expected = oracle.group_advantages(rewards, 4, 0.4 * spread)
    assert [row["advantage"] for row in rows] == pytest.approx(expected, abs=1e-4)


def test_completions_carry_the_self_certainty_of_their_tokens(run):
    """To two decimals: their mean is the reward, and their texts join to the completion."""
    for row in completions(run, 1):
        by_token = row["token_self_certainty"]
        assert len(by_token) == len(row["completion_ids"]) == len(row["token_chars"])
        assert sum(by_token) / len(by_token) == pytest.approx(row["reward"], abs=0.006)
        assert sum(row["token_chars"]) == len(row["completion"])
        assert row["right"] is False and row["problem"].startswith("clock/")


def test_the_rewards_are_those_of_the_model_that_sampled(run, model_folder):
    """The first rollout was sampled from the start, so a fresh pass of the start gives its rewards."""
    model, rows = AutoModelForCausalLM.from_pretrained(model_folder), completions(run, 1)
    stats = rlif.score_completions(model, [r["prompt_ids"] for r in rows], [r["completion_ids"] for r in rows])
    assert rlif.SIGNALS["self_certainty"](stats) == pytest.approx([r["reward"] for r in rows], abs=1e-4)


def test_the_trained_model_loads(run, model_folder):
    model = AutoModelForCausalLM.from_pretrained(run.model)
    start = AutoModelForCausalLM.from_pretrained(model_folder)
    assert not torch.equal(model.lm_head.weight, start.lm_head.weight)
    assert AutoTokenizer.from_pretrained(run.model).decode([1]) == "<|end|>"


def test_the_same_seed_gives_the_same_metrics_and_another_does_not(run, tmp_path, model_folder):
    again = train(tmp_path, model_folder)
    other = train(tmp_path, model_folder, "seed=1")
    assert timeless(again.metrics()) == timeless(run.metrics()) != timeless(other.metrics())


def test_a_resumed_run_is_the_run_that_was_not_interrupted(run, tmp_path, model_folder):
    """From the checkpoint at step 2, with later traces still in the folder."""
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


def test_a_finished_run_is_not_trained_further(run):
    with pytest.raises(rlif.RlifError, match="is finished"):
        rlif.train(run.recipe(), resume=run, console=Console(quiet=True))


def test_no_gold_answer_reaches_the_trainer(tmp_path, model_folder):
    """The trainer's data set is the rendered problems and nothing else, whatever the task knows of them."""
    overrides = [*SMALL, f"model={model_folder}", f"output={tmp_path}", "task=clock"]
    job = prepare(rlif.load_recipe("demo", overrides))
    assert all(problem.gold and problem.solution for problem in job.problems)
    trainer = build(job, Run(tmp_path / "run"), fresh=False)
    assert trainer.train_dataset.column_names == ["prompt"]
    shown = [row["prompt"] for row in trainer.train_dataset]
    assert shown == [[{"role": "user", "content": problem.text}] for problem in job.problems]
    assert not any("boxed" in str(prompt) or "now" in str(prompt) for prompt in shown)
    assert trainer.reward_funcs == [trainer.reward]
    assert trainer.args.run_name == "run"


def test_gold_reaches_a_trainer_whose_recipe_asks(tmp_path, model_folder):
    """As row numbers: the problems themselves stay with the reward."""
    overrides = [*SMALL, f"model={model_folder}", f"output={tmp_path}", "reward={self_certainty: 1, accuracy: 0}"]
    job = prepare(rlif.load_recipe("demo", overrides))
    trainer = build(job, Run(tmp_path / "run"), fresh=False)
    assert trainer.train_dataset.column_names == ["prompt", "problem"]
    assert trainer.train_dataset["problem"][:] == list(range(len(job.problems)))
    assert trainer.reward.problems is job.problems


SEVERAL = "reward={self_certainty: {linear: [[0, 1.0], [4, 0.0]]}, format: 0.5, accuracy: 0, length: 0}"


def test_several_rewards_from_recipe_to_run_folder(tmp_path, model_folder):
    run = train(tmp_path, model_folder, SEVERAL, "evaluate={}")
    rows = run.metrics()
    assert [row["self_certainty_weight"] for row in rows] == [1.0, 0.75, 0.5, 0.25]
    for row in rows:
        assert row["length"] == pytest.approx(row["completion_length"])
        assert {"format", "accuracy", "accuracy_spread", "accuracy_unscorable"} <= set(
            row
        ) and "format_weight" not in row
    for row in completions(run, 2):
        rewards = row["rewards"]
        assert set(rewards) == {"self_certainty", "format", "accuracy", "length"}
        assert row["reward"] == pytest.approx(0.75 * rewards["self_certainty"] + 0.5 * rewards["format"])
        assert rewards["length"] == len(row["completion_ids"]) and rewards["format"] == float(row["answer"] is not None)
    start = json.loads((run.checkpoints / "checkpoint-2/trainer_state.json").read_text())
    starts = start["stateful_callbacks"]["NormaliserState"]["attributes"]["start_spread"]
    first = completions(run, 1)
    assert not any(row["rewards"]["format"] for row in first)  # a random model boxes nothing, so one reward is left
    certainty = [row["rewards"]["self_certainty"] for row in first]
    expected = oracle.group_advantages(certainty, 4, 0.4 * starts["self_certainty"])
    assert [row["advantage"] for row in first] == pytest.approx(expected, abs=1e-4)
    assert run.recipe().reward == run.recipe().model_dump()["reward"] and run.recipe().weights["format"].at(0) == 0.5


CONFIDENCES = ("group_confidence", "group_confidence_tail", "group_confidence_lowest", "group_confidence_bottom")


def test_the_window_of_the_group_confidences(tmp_path, model_folder):
    """Of 3 tokens of at most 24, the four are four rewards, those of a fresh pass; of the usual 2048 they are one."""
    reward = f"reward={{{', '.join(f'{name}: 1' for name in CONFIDENCES)}}}"
    usual = [reward, "evaluate={}", "training.max_steps=1", "training.max_completion_length=24"]
    run = train(tmp_path, model_folder, *usual, "confidence_window=3", "name=three")
    rows, model = completions(run, 1), AutoModelForCausalLM.from_pretrained(model_folder)
    ids = [[row[key] for row in rows] for key in ("prompt_ids", "completion_ids")]
    expected = every_signal(rlif.score_completions(model, *ids, top_k=20), window=3)
    for row, values in zip(rows, expected, strict=True):
        assert row["rewards"] == pytest.approx({name: values[name] for name in CONFIDENCES}, abs=1e-4)
    longest = max(rows, key=lambda row: len(row["completion_ids"]))
    assert len(set(longest["rewards"].values())) == len(CONFIDENCES), "a window of 3 changes nothing"
    same = train(tmp_path, model_folder, *usual, "name=usual")
    assert same.recipe().confidence_window == WINDOW
    for row in completions(same, 1):
        assert len(set(row["rewards"].values())) == 1


def test_a_reward_model_and_a_model_of_meaning(tmp_path, model_folder):
    """Both loaded by a recipe: agreement of free text, by the texts of each group after its own prompt, and what a
    classifier says of each completion.
    """
    judge, entails = classifier_folder(tmp_path / "judge"), tmp_path / "entails"
    classifier_folder(entails, labels=2)
    config = json.loads((entails / "config.json").read_text())
    labels = {"id2label": {"0": "entailment", "1": "other"}, "label2id": {"entailment": 0, "other": 1}}
    (entails / "config.json").write_text(json.dumps(config | labels))
    reward = f"reward={{semantic_entropy: 1.0, {judge}: 0.5}}"
    overrides = [reward, f"meaning={{entailment: {entails}}}", "evaluate={}", "training.max_steps=2"]
    run = train(tmp_path, model_folder, *overrides)
    alike, sizes = load_meaning(Meaning(entailment=str(entails))), set()
    for step in (1, 2):
        rows = completions(run, step)
        for start in (0, 4):
            group = rows[start : start + 4]
            together = alike(group[0]["prompt"][-1]["content"], [row["completion"] for row in group])
            assert all(row["completion"].strip() for row in group)
            expected = {member: math.log(len(members) / 4) for members in together for member in members}
            found = [row["rewards"]["semantic_entropy"] for row in group]
            assert found == pytest.approx([expected[member] for member in range(4)])
            sizes |= {len(members) for members in together}
        assert len({row["rewards"][judge] for row in rows}) == len({row["completion"] for row in rows})
    assert len(sizes) > 1, "all meant the same, or nothing did, so that any grouping would pass"


def test_rewards_of_the_current_folder_are_found_from_another(tmp_path, model_folder, monkeypatch):
    """A reward model named by where the run was started, which is resumed from elsewhere; a module has to be shown."""
    start = tmp_path / "start"
    classifier_folder(start / "judge")
    (start / "rewards_kept_here.py").write_text("def short(completions, **_):\n    return [1.0 for _ in completions]\n")
    monkeypatch.chdir(start)
    monkeypatch.setattr(sys, "path", [*sys.path])
    reward = "reward={./judge: 1, rewards_kept_here:short: 0}"
    run = train(tmp_path, model_folder, reward, "evaluate={}", "training.num_iterations=1")
    whole = run.metrics()
    assert {str(start / "judge"), "rewards_kept_here:short"} <= set(whole[-1])
    (run.path / "summary.json").unlink()
    shutil.rmtree(run.model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "rewards_kept_here")
    with pytest.raises(rlif.RlifError, match=r"No module named .*; go to the folder .* or add that to PYTHONPATH"):
        rlif.train(run.recipe(), resume=run, console=Console(quiet=True))
    monkeypatch.syspath_prepend(start)
    resumed = rlif.train(run.recipe(), resume=run, console=Console(quiet=True))
    assert timeless(resumed.metrics()) == timeless(whole)


def test_prompts_are_checked_before_the_first_step_and_their_text_is_no_markup(tmp_path, model_folder, monkeypatch):
    seen, out = [], io.StringIO()

    def check(model, tokenizer, task, problems, **settings):
        seen.append((len(problems), settings["max_tokens"], list(tmp_path.glob("runs/*/metrics.jsonl"))))
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


FAILING = []


def fails_in_the_third_step(completions, trainer_state, **_):
    if FAILING and trainer_state.global_step == 3:
        raise ValueError("out of luck")
    return [float(len(completion[0]["content"])) for completion in completions]


def test_a_reward_that_fails_leaves_a_checkpoint_to_go_on_from(tmp_path, model_folder):
    """Put right, the run is the run that never failed, to the last bit."""
    reward = "reward={self_certainty: 1, test_training:fails_in_the_third_step: 0.5}"
    overrides = [reward, "evaluate={}", "training.save_steps=100", "training.num_iterations=1"]
    whole = train(tmp_path, model_folder, *overrides, "name=whole")
    FAILING.append(True)
    with pytest.raises(
        rlif.RlifError, match=r"raised ValueError: out of luck; stopped after step 3; .*--resume .*torn"
    ):
        train(tmp_path, model_folder, *overrides, "name=torn")
    FAILING.clear()
    torn = Run.open(tmp_path / "runs/torn")
    assert [path.name for path in torn.checkpoints.glob("checkpoint-*")] == ["checkpoint-3"]
    resumed = rlif.train(torn.recipe(), resume=torn, console=Console(quiet=True))
    assert timeless(resumed.metrics()) == timeless(whole.metrics())
    weights = [AutoModelForCausalLM.from_pretrained(r.model).state_dict() for r in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_reward_that_fails_at_once(tmp_path, model_folder):
    """A random model boxes nothing, so a vote on clock has nothing to count."""
    with pytest.raises(
        rlif.RlifError, match=r"task clock finds an answer in none of them.* put it right and start again"
    ):
        train(tmp_path, model_folder, "reward=plurality_vote", "evaluate={}")


def test_two_steps_on_real_gsm8k(tmp_path, model_folder, data_folder):
    run = train(tmp_path, model_folder, "task=gsm8k", "prompt=boxed", "limit=16", "training.max_steps=2", "evaluate={}")
    assert len(run.metrics()) == 2 and run.summary()["evaluations"] == {}
    known = {problem.text for problem in rlif.TASKS["gsm8k"].load("train", limit=16)}
    for row in completions(run, 1):
        assert row["prompt"][0]["content"].removesuffix("\n" + BOXED) in known


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_a_file_of_unlabelled_prompts(tmp_path, model_folder, name):
    lines = [f"Tell me about {i}." for i in range(6)]
    text = "\n".join(lines if name.endswith("txt") else [json.dumps({"prompt": line}) for line in lines])
    (tmp_path / name).write_text(text)
    source = f"source={tmp_path / name}"
    run = train(tmp_path, model_folder, "task=prompts", source, "training.max_steps=2", "evaluate={}", "chat=false")
    assert len(run.metrics()) == 2
    assert {row["prompt"].strip() for row in completions(run, 1)} <= set(lines)


def test_lora_rloo_and_the_offline_annotator(tmp_path, model_folder):
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


def test_tensorboard_shows_the_same_metrics_by_the_same_names(tmp_path, model_folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path, model_folder, "training.report_to=tensorboard", "evaluate.tasks=[clock]")
    (events,) = run.path.rglob("events.out.tfevents.*")
    seen = EventAccumulator(str(events))
    seen.Reload()
    tags = {tag: {event.step: event.value for event in seen.Scalars(tag)} for tag in seen.Tags()["scalars"]}
    for name in set(run.metrics()[0]) - {"step", "path", "epoch", "alarms"}:
        shown = tags[f"train/{name}"]
        assert [shown[row["step"]] for row in run.metrics()] == pytest.approx([row[name] for row in run.metrics()])
    looks = run.evaluations()["clock"]
    assert sorted(tags["eval/clock/accuracy"]) == sorted(looks) == [0, 2, 4]
    certainty = [looks[step]["self_certainty"] for step in sorted(looks)]
    assert list(tags["eval/clock/self_certainty"].values()) == pytest.approx(certainty)
    assert not any(name.startswith("eval") for row in run.metrics() for name in row)


def test_no_room_for_a_checkpoint(tmp_path, model_folder, monkeypatch):
    """Refused before a byte is written; what was there before is still good."""
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


@pytest.mark.parametrize(
    ("writer", "good", "error"),
    [
        ("torch.save", 4, RuntimeError(f"[enforce fail at inline_container.cc] {os.strerror(errno.ENOSPC)}")),
        ("transformers.modeling_utils.safe_save_file", 1, SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)}")),
    ],
)
def test_a_disk_that_fills_up_meanwhile(tmp_path, model_folder, monkeypatch, writer, good, error):
    """The torn checkpoint is removed and the last good one named as the way on."""
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
