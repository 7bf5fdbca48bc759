"""Tests sampling outside a trainer."""

from __future__ import annotations

import pytest
import torch
from support import oracle
from support.architectures import architecture
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.evaluation.evaluate import evaluate
from rlif.intervals import proportion
from rlif.sampling.protocol import setup_of
from rlif.sampling.sampler import Decoding, TransformersSampler, generate, token_chars
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import render

TEXTS = ["Go.", "What is left of the rest?", "A"]


def test_order_and_batches_do_not_matter():
    model, tokenizer = tiny_model(), byte_tokenizer()
    prompts = [render(tokenizer, PROMPTS["plain"], text, chat=True) for text in TEXTS]
    together = generate(model, tokenizer, prompts, Decoding(8))
    alone = [generate(model, tokenizer, [prompt], Decoding(8), batch_size=1)[0] for prompt in prompts]
    assert together == alone
    assert [c.prompt_ids for c in together] == prompts


def test_completions_end_with_their_end_token_or_are_truncated():
    model, tokenizer = tiny_model(), byte_tokenizer()
    prompts = [render(tokenizer, PROMPTS["plain"], text, chat=True) for text in TEXTS * 20]
    torch.manual_seed(0)
    completions = generate(model, tokenizer, prompts, Decoding(40, temperature=1.5))
    assert {c.truncated for c in completions} == {True, False}
    for completion in completions:
        assert (completion.completion_ids[-1] == tokenizer.eos_token_id) is not completion.truncated
        assert tokenizer.eos_token_id not in completion.completion_ids[:-1]


def test_greedy_is_greedy_whatever_the_models_generation_config_says():
    model, tokenizer = tiny_model(), byte_tokenizer()
    expected = generate(model, tokenizer, [[5, 6, 7]], Decoding(12))
    model.generation_config.update(repetition_penalty=1.5, do_sample=True, top_k=3, temperature=0.5)
    assert generate(model, tokenizer, [[5, 6, 7]], Decoding(12)) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"min_p": 0.9, "typical_p": 0.1, "epsilon_cutoff": 0.5},
        {"suppress_tokens": list(range(100, 261)), "begin_suppress_tokens": [7]},
        {"num_beams": 3, "num_return_sequences": 2, "min_new_tokens": 12},
        {"return_dict_in_generate": True, "output_scores": True, "use_cache": False},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_of_the_models_generation_config_counts_but_its_ends(settings, temperature):
    model, tokenizer = tiny_model(), byte_tokenizer()
    sampler, decoding = TransformersSampler(model, tokenizer), Decoding(12, temperature=temperature)
    model.generation_config.update(eos_token_id=[1, 40, 41])
    expected = sampler.sample([[5, 6, 7], [9]] * 4, decoding)
    model.generation_config.update(**settings)
    assert sampler.sample([[5, 6, 7], [9]] * 4, decoding) == expected
    assert model.generation_config.to_dict().items() >= settings.items()


def test_self_certainty_is_exact_where_decoding_is_not(caplog):
    """A window that the model's layers do not have makes transformers' cache forget what they read."""
    model = architecture("llama", sliding_window=8)
    found = TransformersSampler(model, byte_tokenizer()).sample([[5, 6, 7] * 6, [9]], Decoding(8, temperature=1.0))
    for each in found:
        expected = oracle.self_certainty(architecture("llama"), each.prompt_ids, each.completion_ids)
        assert each.self_certainty == pytest.approx(expected, abs=1e-4)
    (record,) = caplog.records
    assert "LlamaForCausalLM: while it decodes in batches" in record.getMessage()


@pytest.mark.parametrize("pad", ["<|pad|>", "<|end|>"])
def test_a_stop_string_ends_the_tokens_also_where_padding_is_the_end_of_sequence(pad):
    """The others of a batch go on, and what follows the stop string in its row is padding."""
    model, tokenizer = tiny_model(), byte_tokenizer()
    tokenizer.pad_token = pad
    model.generation_config.eos_token_id = None
    whole = generate(model, tokenizer, [[5, 6, 7], [9]], Decoding(12))[0]
    stop = tokenizer.decode(whole.completion_ids[3:5])
    found = TransformersSampler(model, tokenizer).sample([[5, 6, 7], [9]], Decoding(12, stop=(stop,)))
    assert found[0].completion_ids == whole.completion_ids[:5] and not found[0].truncated
    for each in found:
        expected = oracle.self_certainty(model, each.prompt_ids, each.completion_ids)
        assert each.self_certainty == pytest.approx(expected, abs=1e-4)


def test_greedy_decoding_leaves_the_random_state_alone():
    model, tokenizer = tiny_model().train(), byte_tokenizer()
    before = torch.random.get_rng_state()
    generate(model, tokenizer, [[5, 6]], Decoding(4))
    assert torch.equal(torch.random.get_rng_state(), before) and model.training


def test_plain_prompts_need_no_template():
    ids = render(byte_tokenizer(chat=False), PROMPTS["intuitor-3b"], "1+1?", chat=False)
    text = byte_tokenizer().decode(ids)
    assert text.endswith("1+1?\n") and text.startswith("You are a helpful assistant.")


def test_scores_of_an_evaluation_follow_its_records():
    task = rlif.TASKS["cups"]
    problems = task.load("test", limit=6)
    sampler = TransformersSampler(tiny_model(), byte_tokenizer(), batch_size=4)
    setup = setup_of(task, sampler.tokenizer, prompt=PROMPTS["plain"], decoding=Decoding(5))
    result = evaluate(sampler, task, problems, setup)
    assert [record["id"] for record in result.records] == [problem.id for problem in problems]
    assert result.accuracy == proportion(0, 6) and result.unanswered == 1.0
    assert result.completion_length == sum(record["tokens"] for record in result.records) / 6
    assert result.self_certainty > 0


@pytest.mark.parametrize("text", ["plain", "", "é中😀 and so on", "עברית", "\u0000\t\n"])
def test_token_chars_cover_the_text(text):
    """The byte tokenizer splits every character outside ASCII; the last of its bytes gets the character."""
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    chars = token_chars(tokenizer, [*ids, tokenizer.eos_token_id], text)
    expected = [
        int(byte == len(character.encode()) - 1) for character in text for byte in range(len(character.encode()))
    ]
    assert chars == [*expected, 0]


def test_token_chars_of_broken_bytes_and_of_another_text():
    tokenizer = byte_tokenizer()
    ids = tokenizer("a😀b")["input_ids"]
    torn = [*ids[:3], ids[-1], ids[1]]  # half a character in the middle, and at the end
    text = tokenizer.decode(torn, skip_special_tokens=True)
    chars = token_chars(tokenizer, torn, text)
    assert "\ufffd" in text and chars is not None and sum(chars) == len(text)
    assert token_chars(tokenizer, ids, "another text") is None
