"""Tests statistics of completions against independent float64 arithmetic on every supported architecture."""

from __future__ import annotations

import math

import pytest
import torch
from support import oracle
from support.architectures import architecture
from support.models import byte_tokenizer, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Olmo2Config, PhiConfig, Qwen3Config
from transformers.models.cohere import CohereConfig
from transformers.models.llama4 import Llama4TextConfig

import rlif
from rlif.sampling.sampler import Decoding, TransformersSampler
from rlif.scoring import statistics as scoring
from rlif.scoring.head import head_of, verify_head
from rlif.scoring.taps import BackboneTap, DecodeTap, entropy

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
CONFIGS = {
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "llama": LlamaConfig(**SMALL),
    "gemma2": Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0, sliding_window=64),
    "olmo2": Olmo2Config(**SMALL),
    "cohere": CohereConfig(**SMALL, logit_scale=0.25),
    "phi": PhiConfig(**SMALL),
}
PROMPTS = [[5, 6, 7], [9], [8, 30, 40, 50, 60]]
COMPLETIONS = [[10, 11, 1], [12, 13, 14, 15, 16, 17, 1], [20]]


def build(name: str) -> nn.Module:
    if name == "qwen2":
        return tiny_model(vocab_size=97)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    if name == "phi":
        nn.init.normal_(model.lm_head.bias, std=2.0)
    return model


@pytest.mark.parametrize("name", ["qwen2", *CONFIGS])
@pytest.mark.parametrize(("temperature", "batch_size", "chunk_tokens"), [(1.0, 8, None), (0.7, 2, 1), (1.3, 1, 4)])
def test_every_statistic_equals_float64_arithmetic(name, temperature, batch_size, chunk_tokens):
    model = build(name)
    stats = rlif.score_completions(
        model, PROMPTS, COMPLETIONS, temperature=temperature, top_k=5, batch_size=batch_size, chunk_tokens=chunk_tokens
    )
    assert stats.mask_BT.sum(1).tolist() == [3, 7, 1]
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        logp_TV = oracle.logprobs_TV(model, prompt, completion, temperature)
        mask_T = stats.mask_BT[row]
        expected = {
            "logprob_BT": logp_TV[range(len(completion)), completion],
            "mean_logprob_BT": logp_TV.mean(1),
            "entropy_BT": -(logp_TV.exp() * logp_TV).sum(1),
            "topk_confidence_BT": -logp_TV.topk(5).values.mean(1),
        }
        for field, values_T in expected.items():
            found_T = getattr(stats, field)[row][mask_T]
            assert found_T.dtype == torch.float32
            torch.testing.assert_close(found_T.double(), values_T, atol=1e-4, rtol=0)
        certainty = rlif.SIGNALS["self_certainty"](stats)[row]
        assert certainty == pytest.approx(oracle.self_certainty(model, prompt, completion, temperature), abs=1e-4)


def test_a_model_whose_backbone_has_an_unusual_place_is_exact():
    """Llama-4's `base_model` is the whole model, and BART's head reads a decoder within a wrapper."""
    for model in (AutoModelForCausalLM.from_config(Llama4TextConfig(**SMALL)).eval(), architecture("bart")):
        stats = rlif.score_completions(model, PROMPTS, COMPLETIONS)
        for row, pair in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            found_T = stats.mean_logprob_BT[row][stats.mask_BT[row]].double()
            torch.testing.assert_close(found_T, oracle.logprobs_TV(model, *pair).mean(1), atol=1e-4, rtol=0)


def test_uniform_logits_give_zero_self_certainty():
    model = tiny_model()
    nn.init.zeros_(model.lm_head.weight)
    stats = rlif.score_completions(model, PROMPTS, COMPLETIONS)
    assert rlif.SIGNALS["self_certainty"](stats) == pytest.approx([0.0] * 3, abs=1e-6)
    assert stats.entropy_BT[0, 0].item() == pytest.approx(math.log(261), abs=1e-5)


def test_the_number_of_tokens_computed_at_once_changes_nothing(monkeypatch):
    model = build("gemma2")
    whole = rlif.score_completions(model, PROMPTS, COMPLETIONS, temperature=0.7, top_k=5)
    monkeypatch.setattr(scoring, "LOGITS_CACHED", 2 * 97)
    parts = rlif.score_completions(model, PROMPTS, COMPLETIONS, temperature=0.7, top_k=5)
    for field in ("logprob_BT", "mean_logprob_BT", "entropy_BT", "topk_confidence_BT"):
        torch.testing.assert_close(getattr(parts, field), getattr(whole, field), atol=1e-6, rtol=0)


def test_impossible_tokens_add_no_entropy_and_nan_logits_give_nan():
    logits_NV = torch.tensor([[0.0, 0.0, -math.inf], [0.0, math.nan, 0.0]])
    found_N = entropy(logits_NV.log_softmax(-1), torch.empty_like(logits_NV))
    assert found_N[0].item() == pytest.approx(math.log(2)) and found_N[1].isnan()


def test_adding_a_constant_to_the_logits_changes_nothing():
    model = build("phi")
    before = rlif.SIGNALS["self_certainty"](rlif.score_completions(model, PROMPTS, COMPLETIONS))
    with torch.no_grad():
        model.lm_head.bias += 7.0
    after = rlif.SIGNALS["self_certainty"](rlif.score_completions(model, PROMPTS, COMPLETIONS))
    assert after == pytest.approx(before, abs=1e-4)


def test_rows_do_not_influence_each_other():
    model = tiny_model()
    together = rlif.SIGNALS["self_certainty"](rlif.score_completions(model, PROMPTS, COMPLETIONS))
    alone = [
        rlif.SIGNALS["self_certainty"](rlif.score_completions(model, [p], [c]))[0]
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-5)


def test_dropout_is_off_while_scoring_and_the_mode_is_restored():
    model = tiny_model(attention_dropout=0.5)
    expected = rlif.SIGNALS["self_certainty"](rlif.score_completions(model, PROMPTS, COMPLETIONS))
    model.train()
    model.model.layers[0].eval()
    assert rlif.SIGNALS["self_certainty"](rlif.score_completions(model, PROMPTS, COMPLETIONS)) == expected
    assert model.training and not model.model.layers[0].training


def test_empty_completions_have_no_value():
    stats = rlif.score_completions(tiny_model(), PROMPTS, [[10, 1], [], [11]])
    assert rlif.SIGNALS["self_certainty"](stats)[1] is None
    assert rlif.score_completions(tiny_model(), [], []).mask_BT.shape == (0, 0)


def test_full_logits_are_never_held(monkeypatch):
    """Scoring computes at most chunk_tokens rows of logits at once, whatever the batch."""
    model, held = tiny_model(vocab_size=5000), []
    head = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: held.append(head(hidden)) or held[-1])
    verify_head(model)
    held.clear()
    rlif.score_completions(model, [[5] * 9] * 16, [[7] * 40] * 16, chunk_tokens=32)
    assert held and max(logits.numel() for logits in held) == 32 * 5000


@pytest.mark.parametrize(
    ("prompts", "completions", "options", "message"),
    [
        ([[5]], [], {}, "1 prompts and 0 completions"),
        ([[]], [[5]], {}, "prompt 0 has no tokens"),
        ([[5]], [[261]], {}, "token id 261, outside"),
        ([[5]], [[-1]], {}, "token id -1, outside"),
        ([[5]], [[6]], {"temperature": 0.0}, "temperature must be above 0"),
        ([[5]], [[6]], {"temperature": math.nan}, "temperature must be above 0, got nan"),
        ([[5]], [[6]], {"top_k": 262}, "top_k must be from 1 to the 261"),
    ],
)
def test_bad_rows_are_refused(prompts, completions, options, message):
    with pytest.raises(rlif.RlifError, match=message):
        rlif.score_completions(tiny_model(), prompts, completions, **options)


def test_a_head_that_is_not_linear_is_refused():
    model = tiny_model()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(rlif.RlifError, match="plain linear output head"):
        head_of(model)


def test_a_model_that_changes_the_heads_logits_is_refused(monkeypatch):
    model = tiny_model()
    forward = model.forward

    def doubled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(model, "forward", doubled)
    with pytest.raises(rlif.RlifError, match="cannot be scored exactly"):
        rlif.score_completions(model, PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_soft_cap_that_hardly_shows_in_small_logits_is_refused(dtype, monkeypatch):
    """A trained model has logits of 20 and more, which such a cap changes by nats."""
    model = tiny_model(initializer_range=0.02).to(dtype)
    forward = model.forward

    def capped(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = 30 * torch.tanh(output.logits / 30)
        return output

    monkeypatch.setattr(model, "forward", capped)
    with pytest.raises(rlif.RlifError, match="cannot be scored exactly"):
        verify_head(model)


def test_a_model_that_reads_later_tokens_is_refused_everywhere():
    """Gemma's embedding models are loaded as causal language models, and are none."""
    model = architecture("gemma3_text", use_bidirectional_attention=True)
    message = "Gemma3ForCausalLM reads the tokens that come after.*use a causal language model"
    with pytest.raises(rlif.RlifError, match=message):
        rlif.score_completions(model, PROMPTS, COMPLETIONS)
    with pytest.raises(rlif.RlifError, match=message):
        TransformersSampler(model, byte_tokenizer()).sample(PROMPTS, Decoding(4))


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "cohere", "phi"])
def test_backbone_tap_reads_a_padded_pass(name):
    """Left-padded prompts, right-padded completions, two micro-batches; the pass gives the log-probabilities."""
    model, T, temperature = build(name), 7, 0.8
    ids_BL = torch.tensor(
        [[0] * (5 - len(p)) + p + c + [0] * (T - len(c)) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    )
    mask_BL = torch.tensor(
        [[0] * (5 - len(p)) + [1] * len(p + c) + [0] * (T - len(c)) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    )
    with torch.no_grad(), BackboneTap(model, ids_BL, T, temperature, EVERY, top_k=20) as tap:
        parts = [
            model(input_ids=i, attention_mask=m).logits for i, m in zip(ids_BL.split(2), mask_BL.split(2), strict=True)
        ]
    logp_BTV = torch.log_softmax(torch.cat(parts)[:, -T - 1 : -1] / temperature, -1)
    fields = tap.fields(logp_BTV.gather(-1, ids_BL[:, -T:, None]).squeeze(-1))
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        logp_TV = oracle.logprobs_TV(model, prompt, completion, temperature)
        check_fields(fields, row, logp_TV)
        chosen_T = logp_TV.gather(1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(fields["logprob"][row, : len(completion)].double(), chosen_T, atol=1e-4, rtol=0)


EVERY = ("mean_logprob", "entropy", "topk_confidence")


def check_fields(fields, row: int, logp_TV: torch.Tensor):
    """Checks one row of a tap's statistics against float64; k is 20."""
    expected = {
        "mean_logprob": logp_TV.mean(1),
        "entropy": -(logp_TV.exp() * logp_TV).sum(1),
        "topk_confidence": -logp_TV.sort(1, descending=True).values[:, :20].mean(1),
    }
    for name, expected_T in expected.items():
        found_T = fields[name][row, : len(expected_T)].double()
        torch.testing.assert_close(found_T, expected_T, atol=2e-4, rtol=0)


def test_a_tap_computes_only_the_statistics_it_is_asked_for():
    """The mean log-probability has the same bits, whatever else is computed."""
    model, ids_BL = tiny_model(), torch.arange(2, 26).view(2, 12)
    found = []
    for wanted in (("mean_logprob",), EVERY):
        with torch.no_grad(), BackboneTap(model, ids_BL, 5, 1.0, wanted, top_k=20) as tap:
            model(input_ids=ids_BL)
        found.append(tap.fields(torch.zeros(2, 5)))
    assert set(found[0]) == {"logprob", "mean_logprob"} and set(found[1]) == {"logprob", *EVERY}
    assert torch.equal(found[0]["mean_logprob"], found[1]["mean_logprob"])


def test_a_tap_that_read_a_pass_of_another_batch_gives_nothing():
    model = tiny_model()
    with BackboneTap(model, torch.ones(4, 6, dtype=torch.long), 3, 1.0) as tap, torch.no_grad():
        model(input_ids=torch.ones(2, 6, dtype=torch.long))
    assert tap.fields(torch.zeros(4, 3)) is None


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_decode_tap_reads_the_distribution_that_was_sampled_from(name):
    model, temperature = build(name), 0.7
    prompts = torch.tensor([[0, 0, 5], [5, 6, 7]])
    torch.manual_seed(1)
    with DecodeTap(model, temperature, EVERY, top_k=20) as tap:
        output = model.generate(
            input_ids=prompts,
            attention_mask=(prompts != 0).long(),
            max_new_tokens=6,
            do_sample=True,
            temperature=temperature,
            top_k=10,
            eos_token_id=96,
        )
    completions = output[:, 3:].tolist()
    fields = tap.fields([len(c) for c in completions])
    for row, prompt in enumerate(([5], [5, 6, 7])):
        check_fields(fields, row, oracle.logprobs_TV(model, prompt, completions[row], temperature))
    assert tap.fields([3, 2]) is None


def test_bfloat16_error_is_small():
    """The mean over 21 tokens is within 0.05 nats of float64 with the same weights."""
    model = tiny_model().bfloat16()
    prompts, completions = [[5, 6, 7, 8]], [list(range(10, 31))]
    found = rlif.SIGNALS["self_certainty"](rlif.score_completions(model, prompts, completions))[0]
    assert found == pytest.approx(oracle.self_certainty(model, prompts[0], completions[0]), abs=0.05)
