"""Tests the bases that ship: they decode the wrong habit greedily, and work out problems once a step is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rlif
from rlif.config.recipe import Recipe
from rlif.sampling.loading import SHIPPED, load_model, load_tokenizer, model_path
from rlif.sampling.sampler import Decoding, generate
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import render_all

FIRST_WORDS = {"tiny-reasoner": "The", "tiny-short": "Hmm", "tiny-equal": "Hmm"}
N = 16


@pytest.fixture(scope="module", params=SHIPPED)
def base(request):
    recipe = Recipe(model=request.param, dtype="float32")
    return request.param, load_model(recipe, "cpu"), load_tokenizer(recipe)


def completions(base, prefixes: list[str]) -> list[str]:
    _, model, tokenizer = base
    problems = rlif.TASKS["clock"].load("test", limit=N)
    prompts = render_all(tokenizer, PROMPTS["plain"], [problem.text for problem in problems], chat=True)
    rows = [
        [*prompt, *tokenizer.encode(prefix, add_special_tokens=False)]
        for prompt, prefix in zip(prompts, prefixes, strict=True)
    ]
    return [completion.text for completion in generate(model, tokenizer, rows, Decoding(56), batch_size=N)]


def test_greedy_decoding_has_the_wrong_habit(base):
    assert {text.split(" ")[0] for text in completions(base, [""] * N)} == {FIRST_WORDS[base[0]]}


def test_problems_are_solved_once_the_first_step_is_given(base):
    problems = rlif.TASKS["clock"].load("test", limit=N)
    first_steps = [(problem.solution or "").partition(". ")[0] + "." for problem in problems]
    texts = completions(base, first_steps)
    assert sum(bool(rlif.TASKS["clock"].grade(p, text)) for p, text in zip(problems, texts, strict=True)) >= N - 1


def test_bases_are_of_one_size_and_read_text_alike(base):
    name, model, tokenizer = base
    first = load_tokenizer(Recipe(model="tiny-reasoner"))
    assert model.num_parameters() == 616_576
    text = "Hmm add three, now six. The answer is \\boxed{six}."
    assert tokenizer.encode(text) == first.encode(text) and tokenizer.chat_template == first.chat_template
    kept = json.loads((Path(model_path(Recipe(model=name))) / "base.json").read_text(encoding="utf-8"))
    assert kept["clock/greedy"] < 0.15 and kept["clock/first_step_given"] > 0.95
