"""Signals as functions of token statistics."""

from __future__ import annotations

import math

import pytest
import torch

import rlif
from rlif.scoring import length_mask


def stats(mean_logprob, lengths, vocab_size=10):
    mean_BT = torch.tensor(mean_logprob, dtype=torch.float32)
    return rlif.TokenStats(length_mask(lengths), vocab_size, mean_logprob_BT=mean_BT)


def test_self_certainty_is_the_mean_over_real_tokens_with_the_constant():
    found = rlif.SIGNALS["self_certainty"](stats([[-4.0, -6.0, 99.0], [-3.0, -3.0, -3.0]], [2, 3]))
    assert found == pytest.approx([5 - math.log(10), 3 - math.log(10)], abs=1e-6)


def test_non_finite_statistics_have_no_value():
    found = rlif.SIGNALS["self_certainty"](stats([[-4.0, math.nan], [-math.inf, -4.0], [-4.0, -4.0]], [2, 2, 2]))
    assert found[:2] == [None, None] and found[2] == pytest.approx(4 - math.log(10))


def test_a_negative_divergence_is_an_error_not_a_number():
    """What zeroed attention masks of truncated rows would give: log p of 0 everywhere."""
    with pytest.raises(ArithmeticError, match="cannot be negative"):
        rlif.SIGNALS["self_certainty"](stats([[0.0, 0.0]], [2]))


def test_missing_statistics_are_named():
    with pytest.raises(ValueError, match="mean_logprob_BT"):
        rlif.SIGNALS["self_certainty"](rlif.TokenStats(length_mask([1]), 10))
