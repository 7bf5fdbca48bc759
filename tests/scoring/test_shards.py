"""Tests a sharded output head: gathered only while needed, and verified by the log-probabilities of a pass."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from support.models import tiny_model

from rlif.errors import RlifError
from rlif.scoring.head import head_of, verify_head
from rlif.scoring.statistics import score_completions
from rlif.scoring.taps import BackboneTap

IDS_BL = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


@pytest.fixture
def zero3(monkeypatch):
    """A model with an empty head as under ZeRO-3, and a pretended DeepSpeed that gathers it and counts how often."""
    model, at = tiny_model(), SimpleNamespace(gathered=False, times=0)
    weight = model.lm_head.weight
    whole = weight.data
    weight.ds_id, weight.ds_shape, weight.data = 0, whole.shape, torch.empty(0)

    @contextmanager
    def gather(parameters):
        assert [p is weight for p in parameters] == [True]
        at.times, at.gathered, weight.data = at.times + 1, True, whole
        yield
        at.gathered, weight.data = False, torch.empty(0)

    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=SimpleNamespace(GatheredParameters=gather)))
    return model, whole, at


def test_the_head_is_gathered_only_inside_the_block(zero3):
    model, whole, at = zero3
    head = head_of(model)
    assert head.vocab_size == len(whole)
    with head.whole() as (weight, bias):
        assert at.gathered and torch.equal(weight, whole) and bias is None
    assert not at.gathered and model.lm_head.weight.numel() == 0


def test_a_tap_gathers_once_for_each_micro_batch(zero3):
    """The statistics equal those of the whole model, including entropy and top-k."""
    model, whole, at = zero3
    hidden_BLH = tiny_model().model(IDS_BL).last_hidden_state
    logprobs_BLV = (hidden_BLH @ whole.T).log_softmax(-1)
    logprob_BT = logprobs_BLV[:, 1:-1].gather(-1, IDS_BL[:, 2:, None]).squeeze(-1)
    with torch.no_grad(), BackboneTap(model, IDS_BL, 3, 1.0, ("mean_logprob", "entropy", "topk_confidence"), 5) as tap:
        for row in IDS_BL:
            model.model(input_ids=row[None])
    assert at.times == 2
    found = tap.fields(logprob_BT)
    stats = score_completions(tiny_model(), IDS_BL[:, :2].tolist(), IDS_BL[:, 2:].tolist(), top_k=5)
    for name, values_BT in found.items():
        assert torch.allclose(values_BT, getattr(stats, f"{name}_BT"), atol=1e-5)


def test_a_sharded_head_is_verified_at_the_first_pass(zero3):
    """No pass is possible before training begins, so a head that does not match is refused at the first pass."""
    model, _, at = zero3
    verify_head(model)
    assert at.times == 0
    for row, refused in ((0, True), (1, False)):
        with torch.no_grad(), BackboneTap(model, IDS_BL, 3, 1.0) as tap:
            model.model(input_ids=IDS_BL)
        logprob_BT = torch.zeros(2, 3)  # zeros mark masked tokens, which are ignored
        logprob_BT[row] = -1.0
        if refused:
            with pytest.raises(RlifError, match="cannot be scored exactly"):
                tap.fields(logprob_BT)
        else:
            assert tap.fields(logprob_BT) is not None


def test_scoring_a_sharded_model_is_refused(zero3):
    with pytest.raises(RlifError, match="is in shards"):
        score_completions(zero3[0], [[5]], [[6]])
