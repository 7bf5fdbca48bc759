"""Tests the prompt check on models that end their turns and on models that do not."""

from __future__ import annotations

import pytest
import torch
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.sampling.sampler import Completion, Decoding
from rlif.tasks import find_task
from rlif.tasks.prompts import find_prompt
from rlif.tasks.rendering import turn_end
from rlif.training import prompt_check

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatml():
    """Makes a tokenizer like a base model's: its chat template ends a turn with another token than the end of text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def warnings(monkeypatch, texts, truncated=(), task="clock"):
    """Gives the warnings of the prompt check for these completions."""

    def sample(self, prompt_ids, decoding):
        return [Completion(text, [1], [2, 3], i in truncated) for i, text in enumerate(texts)]

    monkeypatch.setattr(prompt_check.TransformersSampler, "sample", sample)
    found = find_task(task)
    problems = found.load("test", limit=len(texts))
    settings = {"prompt": find_prompt("plain"), "chat": True, "decoding": Decoding(9, temperature=1.0)}
    return prompt_check.check_prompts(tiny_model(), byte_tokenizer(), found, problems, **settings)


def test_the_end_of_a_turn_is_found_in_the_chat_template():
    assert turn_end(byte_tokenizer()) == 1
    tokenizer = chatml()
    assert turn_end(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert turn_end(tokenizer) is None


def test_a_stop_token_that_differs_from_the_templates_is_reported():
    model, tokenizer = tiny_model(), chatml()
    warning = prompt_check.stop_warning(tokenizer, [1])
    assert warning and "ends a turn with '<|im_end|>'" in warning and "end at '<|end|>' only" in warning
    assert prompt_check.stop_warning(tokenizer, [1, tokenizer.convert_tokens_to_ids("<|im_end|>")]) is None
    assert prompt_check.stop_warning(tokenizer, prompt_check.stops(model, tokenizer, True)) is None


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (r"It is \boxed{two}. Next problem: add one.", "2 of 8 completions go on after their answer"),
        (r"\boxed{two}", None),
    ],
)
def test_a_quarter_of_completions_continuing_after_their_answer_is_reported(monkeypatch, bad, said):
    found = warnings(monkeypatch, [bad] * 2 + [r"\boxed{one}"] * 6)
    assert [said in warning for warning in found] == ([True] if said else [])
    assert warnings(monkeypatch, [bad] * 1 + [r"\boxed{one}"] * 6) == []


def test_truncation_and_missing_answers_are_reported(monkeypatch):
    box = [r"\boxed{one}"] * 8
    (warning,) = warnings(monkeypatch, box, truncated={0, 1})
    assert "2 of 8 completions do not end within 9 tokens" in warning and "max_completion_length" in warning
    assert warnings(monkeypatch, box, truncated={0}) == []
    (warning,) = warnings(monkeypatch, ["no box"] * 6 + box[:2])
    assert "6 of 8 completions have no answer" in warning
    assert warnings(monkeypatch, ["no box"] * 5 + box[:3]) == []


def test_the_demo_gives_no_warning_and_the_random_state_is_unchanged():
    recipe = rlif.load_recipe("demo")
    model, tokenizer, task = load_model(recipe, "cpu"), load_tokenizer(recipe), find_task("clock")
    before = torch.get_rng_state()
    problems, prompt = task.load("train", limit=8), find_prompt("plain")
    settings = {"prompt": prompt, "chat": True, "decoding": Decoding(56, temperature=1.0)}
    assert prompt_check.check_prompts(model, tokenizer, task, problems, **settings) == []
    assert torch.equal(torch.get_rng_state(), before)
    (warning,) = prompt_check.check_prompts(
        model, tokenizer, task, problems, **settings | {"decoding": Decoding(4, temperature=1.0)}
    )[:1]
    assert "8 of 8 completions do not end within 4 tokens" in warning
