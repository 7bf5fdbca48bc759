"""Tests the checks of a recipe before a run, which `rlif train`, `rlif plan` and `rlif launch` share."""

from __future__ import annotations

import pytest
from support.commands import main

REFUSED = [
    ("task=clok", "clok"),
    ("prompt=plane", "plane"),
    ("reward=self_certanty", "self_certanty"),
    ("reward=semantic_entropy", "equivalence"),
    ("evaluate.sources={gsm8k: x}", "gsm8k"),
    ("evaluate.columns={gsm8k: {prompt: x}}", "a mapping of columns is given for 'gsm8k'"),
    ("columns={prompt: x}", "reads a published layout"),
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
