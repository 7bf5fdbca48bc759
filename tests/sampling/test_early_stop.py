"""Tests early stopping: it stops traces where the rule, applied to whole traces afterwards, would cut them.

Sampling is at temperature 1.3 and the pass afterwards at 1, so this also holds the tap to the raw logits.
"""

from __future__ import annotations

import math

import pytest
import torch
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.sampling.early_stop import EarlyStop, threshold
from rlif.sampling.sampler import Decoding, generate
from rlif.signals.token_confidence import windows

PROMPTS = [[5, 6, 7], [8], [9, 10]] * 8


def sample(early=None, pad_is_end=False, batch_size=64):
    model, tokenizer = tiny_model(), byte_tokenizer()
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(3)
    completions = generate(model, tokenizer, PROMPTS, Decoding(40, temperature=1.3), batch_size=batch_size, early=early)
    return completions, model


def confidences(model, completions):
    """Computes the top-k confidence of each completion's tokens, by a separate pass over the whole trace."""
    stats = rlif.score_completions(model, PROMPTS, [c.completion_ids for c in completions], top_k=20)
    return [row_T[mask_T].double() for row_T, mask_T in zip(stats.topk_confidence_BT, stats.mask_BT, strict=True)]


@pytest.mark.parametrize("pad_is_end", [False, True])
@pytest.mark.parametrize("window", [1, 4, 16])
def test_stopped_traces_are_full_traces_cut_by_the_rule(window, pad_is_end):
    full, model = sample(pad_is_end=pad_is_end)
    traces = confidences(model, full)
    bar = threshold([windows(trace, window).min().item() for trace in traces], 50)
    early, _ = sample(EarlyStop([bar] * len(PROMPTS), window), pad_is_end)
    kinds = set()
    for whole, cut, trace in zip(full, early, traces, strict=True):
        means = [trace[i - window : i].mean().item() for i in range(window, len(trace) + 1)]
        end = next((window + i for i, mean in enumerate(means) if mean < bar), None)
        assert cut.stopped is (end is not None)
        assert cut.completion_ids == whole.completion_ids[:end]
        assert cut.truncated is (whole.truncated and end is None)
        kinds.add((cut.stopped, len(cut.completion_ids) < len(whole.completion_ids)))
    assert (True, True) in kinds and (False, False) in kinds


def test_each_prompt_has_its_own_threshold():
    bars = [math.inf if i % 3 == 0 else -math.inf for i in range(len(PROMPTS))]
    completions, _ = sample(EarlyStop(bars, window=2))
    full, _ = sample()
    for i, (cut, whole) in enumerate(zip(completions, full, strict=True)):
        assert cut.completion_ids == (whole.completion_ids[:2] if i % 3 == 0 else whole.completion_ids)


def test_a_threshold_of_minus_infinity_stops_nothing_and_leaves_no_hook():
    completions, model = sample(EarlyStop([-math.inf] * len(PROMPTS), window=2))
    assert completions == sample()[0]
    assert not model.lm_head._forward_hooks


def test_the_threshold_is_a_percentile_of_scorable_windows():
    assert threshold([10.0, None, 11.0, 12.0]) == pytest.approx(10.2)
    assert threshold([10.0, 11.0, 12.0], 90) == pytest.approx(11.8)
    assert threshold([None, None]) == -math.inf and threshold([]) == -math.inf
