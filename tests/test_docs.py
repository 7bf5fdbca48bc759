"""docs/signals.md says what is there, and its worked example works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from trainers import make_trainer

import rlif
from rlif.config import check_recipe
from rlif.graders import GRADERS
from rlif.signals import GROUP_SIGNALS, NEEDS, SIGNALS
from rlif.terms import check_terms
from rlif.types import TokenStats
from rlif.yaml_files import parse_yaml

TEXT = (Path(__file__).parents[1] / "docs/signals.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def rows():
    """The tables' rows by the name in their first cell."""
    cells = [line.strip("|").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row] for row in cells}


def test_every_signal_and_grader_has_a_row():
    assert set(rows()) - {"module:function"} == {*SIGNALS, *GROUP_SIGNALS, *GRADERS}
    assert {len(row) for row in rows().values()} == {7}
    for name, field in NEEDS.items():
        assert rows()[name][2] == f"`{field.removesuffix('_BT')}`"


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_recipes_of_the_page_can_be_read(text):
    recipe = check_recipe(parse_yaml(text, "docs/signals.md"))
    check_terms(recipe, rlif.TASKS[recipe.task])


def test_the_worked_example(monkeypatch, model_folder):
    """The file, the line and the test of the page, as they stand; then it is watched, and trained on."""
    file, line, test = blocks("python")
    names: dict = {"torch": torch, "pytest": pytest, "TokenStats": TokenStats}
    exec(compile(file, "mean_probability.py", "exec"), names)
    for name, (signal, field) in eval("{" + line + "}", names).items():
        monkeypatch.setitem(SIGNALS, name, signal)
        monkeypatch.setitem(NEEDS, name, field)
    exec(compile(test, "test_signals.py", "exec"), names)
    names["test_mean_probability"]()
    for weight, other in ((0.0, 1.0), (1.0, 0.0)):
        reward = {"self_certainty": other, "mean_probability": weight}
        trainer = make_trainer(model_folder, reward=reward, max_steps=1)
        trainer.train()
        assert trainer.rollouts[0]["path"] == "pass"
        assert all(0 < row.rewards["mean_probability"] < 1 for row in trainer.rollouts[0]["scored"])
