"""Tests the shipped model: small, loadable, rarely working step by step although it can, and able to learn it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlif
from rlif.config.recipe import Recipe
from rlif.runs.folder import Run
from rlif.sampling.loading import model_path
from rlif.sampling.sampler import Decoding, generate
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import render

PATH = model_path(Recipe(model="tiny-reasoner"))


@pytest.fixture(scope="module")
def shipped():
    return AutoModelForCausalLM.from_pretrained(PATH), AutoTokenizer.from_pretrained(PATH, padding_side="left")


def accuracy(shipped, family: str, first_step: bool, n: int = 96) -> float:
    """Greedy accuracy on held-out problems, from the prompt alone or after the first step of the solution."""
    model, tokenizer = shipped
    task = rlif.TASKS[family]
    problems = task.load("test", limit=n)
    prompts = [render(tokenizer, PROMPTS["plain"], p.text, chat=True) for p in problems]
    if first_step:
        steps = [p.solution.partition(". ")[0] + "." for p in problems]
        prompts = [ids + tokenizer.encode(step) for ids, step in zip(prompts, steps, strict=True)]
    completions = generate(model, tokenizer, prompts, Decoding(task.protocol.max_tokens), batch_size=n)
    return sum(task.grade(p, c.text) for p, c in zip(problems, completions, strict=True)) / n


def test_the_shipped_model_is_a_small_qwen2_with_its_tokenizer(shipped):
    model, tokenizer = shipped
    assert model.config.model_type == "qwen2" and 100_000 < model.num_parameters() < 5_000_000
    assert sum(file.stat().st_size for file in Path(PATH).iterdir()) < 6e6
    for family in ("clock", "cups"):
        for problem in rlif.TASKS[family].load("test"):
            for text in (problem.text, problem.solution):
                assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("family", ["clock", "cups"])
def test_the_shipped_model_is_right_only_after_a_first_step(shipped, family):
    assert accuracy(shipped, family, first_step=False) <= 0.25
    assert accuracy(shipped, family, first_step=True) >= 0.95


def test_the_accuracies_in_base_json_are_within_the_same_bounds():
    base = json.loads((Path(PATH) / "base.json").read_text(encoding="utf-8"))
    for family in ("clock", "cups"):
        assert base[f"{family}/greedy"] <= 0.25 and base[f"{family}/first_step_given"] >= 0.95


@pytest.mark.sweep
def test_training_by_self_certainty_teaches_working_step_by_step(tmp_path):
    """A short run of demo-long at a higher learning rate doubles the share of completions that work step by step."""
    overrides = [
        f"output={tmp_path}",
        "evaluate={}",
        "problems_per_update=16",
        "keep_completions=128",
        "training.max_steps=14",
        "training.learning_rate=4e-4",
        "training.log_level=error",
        "training.save_strategy=no",
    ]
    run: Run = rlif.train(rlif.load_recipe("demo-long", overrides), name="smoke", console=Console(quiet=True))

    def stepwise(step: int) -> float:
        lines = (run.path / f"completions/step-{step:06d}.jsonl").read_bytes().splitlines()
        return sum(json.loads(line)["completion"].startswith("First") for line in lines) / len(lines)

    assert stepwise(1) < 0.45
    assert (stepwise(13) + stepwise(14)) / 2 > 1.8 * stepwise(1)
