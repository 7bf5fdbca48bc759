"""Tests the two-line script: it trains as `rlif train demo` does, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.scripts import load

import rlif

EXAMPLE = "examples/two_lines.py"
STEPS = 4
QUICK = ["evaluate={}", "guard.prompt_check=0", f"training.max_steps={STEPS}"]


@pytest.mark.sweep
def test_the_script_ends_where_the_demo_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer, (before, _) = load(EXAMPLE).main(STEPS, output=str(tmp_path / "out"))
    recipe = rlif.load_recipe("demo", [f"output={tmp_path}", *QUICK])
    run = rlif.train(recipe, console=Console(quiet=True))
    trained = load_file(run.path / "model/model.safetensors")
    weights = {name: p.detach() for name, p in trainer.model.named_parameters() if name in trained}
    assert len(weights) > 10 and all(torch.equal(trained[name], weights[name]) for name in weights)
    start = load_file(Path(load(EXAMPLE).MODEL) / "model.safetensors")
    assert before < 0.2 and not torch.equal(start["model.norm.weight"], trained["model.norm.weight"])
