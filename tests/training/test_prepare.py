"""Tests the checks of a recipe before a run, which `rlif train`, `rlif plan` and `rlif launch` share."""

from __future__ import annotations

import shutil

import pytest
from support.commands import main

import rlif
from rlif.training.prepare import prepare

REFUSED = [
    ("task=clok", "clok"),
    ("prompt=plane", "plane"),
    ("reward=self_certanty", "self_certanty"),
    ("reward=semantic_entropy", "equivalence"),
    ("evaluate.sources={gsm8k: x}", "gsm8k"),
    ("evaluate.columns={gsm8k: {prompt: x}}", "a mapping of columns is given for 'gsm8k'"),
    ("columns={prompt: x}", "has columns of its own, or none"),
    ("training.learning_rat=1", "learning_rat"),
    ("problems_per_update=3", "do not divide"),
]


@pytest.mark.parametrize(("override", "expected"), REFUSED)
def test_train_plan_and_launch_refuse_a_recipe_with_the_same_message(override, expected, monkeypatch, capsys):
    commands = (
        ["train", "demo", override, "--dry-run"],
        ["plan", "demo", override, "--gpus", "1"],
        ["launch", "demo", override, "--processes", "1", "--dry-run"],
    )
    outcomes = [main(monkeypatch, capsys, *command) for command in commands]
    assert [code for code, _, _ in outcomes] == [2, 2, 2]
    sentences = {error for _, _, error in outcomes}
    assert len(sentences) == 1 and expected in sentences.pop()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=prompts", "source=nowhere.jsonl"], "nowhere.jsonl"),
        (["max_prompt_tokens=3"], "longer than max_prompt_tokens (3)"),
        (["evaluate.tasks=[]", "max_prompt_tokens=4000", "training.max_completion_length=4000"], "positions"),
        (["model=nowhere"], "nowhere"),
        (["limit=1"], "problem"),
        (["lora={rank: 8}"], "lora.rank"),
    ],
)
@pytest.mark.parametrize("how", [[], ["--slurm"]], ids=["here", "slurm"])
def test_dry_runs_of_train_and_launch_prepare_the_run(how, overrides, expected, monkeypatch, capsys):
    """The commands are printed all the same, as they may be for another machine."""
    train = main(monkeypatch, capsys, "train", "demo", *overrides, "--dry-run")
    launch = main(monkeypatch, capsys, "launch", "demo", *overrides, "--processes", "1", "--dry-run", *how)
    assert (train[0], launch[0]) == (2, 2) and train[2] == launch[2] and expected in launch[2]
    assert "demo" in launch[1]


def test_a_dry_run_refuses_a_name_that_a_run_has(tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").mkdir()
    code, out, err = main(monkeypatch, capsys, "train", "demo", f"output={tmp_path}", "name=taken", "--dry-run")
    assert code == 2 and "taken exists already; choose another name" in err and "max_steps: 30" in out


def test_a_dry_run_of_launch_reads_the_weights(model_folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"torn")
    arguments = [f"model={tmp_path / 'model'}", "evaluate.tasks=[]", "max_prompt_tokens=512", "--dry-run"]
    code, _, err = main(monkeypatch, capsys, "launch", "demo", *arguments, "--processes", "1")
    assert code == 2 and "cannot read model.safetensors" in err


@pytest.mark.parametrize("first", [True, False])
def test_stages_come_in_order_and_hidden_golds_stay_with_the_record(first):
    order = "labelled_first" if first else "unlabelled_first"
    recipe = rlif.load_recipe("demo-labelled-first", ["limit=64", "labels=40", f"order={order}", "evaluate={}"])
    prepared = prepare(recipe)
    known = [problem.gold is not None for problem in prepared.rewarded]
    assert known == ([True] * 40 + [False] * 24 if first else [False] * 24 + [True] * 40)
    assert all(problem.gold is not None for problem in prepared.problems)
    assert [p.text for p in prepared.problems] == [p.text for p in prepared.rewarded]
    assert prepared.options["shuffle_dataset"] is False
    plain = prepare(rlif.load_recipe("demo", ["limit=64", "evaluate={}"]))
    assert plain.problems == plain.rewarded and {p.id for p in plain.problems} == {p.id for p in prepared.problems}
