"""Tests the lower bound on self-certainty from top-k log-probabilities."""

from __future__ import annotations

import math

import pytest
import torch

import rlif
from rlif.errors import RlifError
from rlif.signals.self_certainty_topk import approximate_self_certainty


def distributions(tokens=6, vocab=40, spread=3.0, seed=0):
    torch.manual_seed(seed)
    return (spread * torch.randn(tokens, vocab, dtype=torch.float64)).log_softmax(-1)


def exact(logp_TV):
    return (-math.log(logp_TV.shape[1]) - logp_TV.mean(-1)).mean().item()


def top(logp_TV, k):
    return logp_TV.topk(k, dim=-1).values.tolist()


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_the_bound_grows_with_k_and_is_exact_for_the_whole_vocabulary(spread):
    logp_TV = distributions(spread=spread)
    bounds = [approximate_self_certainty(top(logp_TV, k), 40) for k in range(1, 41)]
    assert all(a <= b + 1e-9 for a, b in zip(bounds, [*bounds[1:], exact(logp_TV)], strict=True))
    assert bounds[-1] == pytest.approx(exact(logp_TV), abs=1e-12)
    assert bounds[0] >= -1e-9


def test_the_bound_is_exact_if_the_other_tokens_are_equally_likely():
    logits_TV = torch.zeros(3, 50, dtype=torch.float64)
    logits_TV[:, :2] = torch.tensor([4.0, 2.0])
    logp_TV = logits_TV.log_softmax(-1)
    for k in (2, 5, 20):
        assert approximate_self_certainty(top(logp_TV, k), 50) == pytest.approx(exact(logp_TV), abs=1e-12)
    uniform_TV = torch.zeros(2, 50, dtype=torch.float64).log_softmax(-1)
    assert approximate_self_certainty(top(uniform_TV, 1), 50) == pytest.approx(0, abs=1e-12)


def test_the_bound_equals_arithmetic_by_hand():
    expected = -math.log(4) - (math.log(0.5) + math.log(0.3) + 2 * math.log(0.1)) / 4
    assert approximate_self_certainty([[math.log(0.3), math.log(0.5)]], 4) == pytest.approx(expected)


def test_the_sampled_token_may_be_added_to_the_top_k():
    logp_TV = distributions()
    more = [[*row, logp_TV[i].min().item()] for i, row in enumerate(top(logp_TV, 5))]
    assert approximate_self_certainty(top(logp_TV, 5), 40) < approximate_self_certainty(more, 40) < exact(logp_TV)


@pytest.mark.parametrize("k", [1, 5, 20, 39])
def test_the_bound_holds_if_the_other_tokens_have_almost_no_probability(k):
    logp_TV = distributions(spread=12.0)
    assert approximate_self_certainty(top(logp_TV, k), 40) <= exact(logp_TV)


def test_rounding_never_makes_the_bound_infinite_or_too_large():
    logp_TV = distributions(spread=30.0)
    float32 = [[torch.tensor(lp, dtype=torch.float32).item() for lp in row] for row in top(logp_TV, 5)]
    bound = approximate_self_certainty(float32, 40)
    assert math.isfinite(bound) and bound <= exact(logp_TV)
    assert math.isfinite(approximate_self_certainty([[0.0]], 40))


def test_empty_and_infinite_inputs_have_no_value_and_impossible_ones_are_refused():
    assert approximate_self_certainty([], 40) is None
    assert approximate_self_certainty([[-1.0], [-math.inf]], 40) is None
    with pytest.raises(RlifError, match="add up to 2;"):
        approximate_self_certainty([[0.0, 0.0]], 40)
    with pytest.raises(RlifError, match="token 1 has 3 log-probabilities, more than the 2"):
        rlif.approximate_self_certainty([[-1.0], [-2.0] * 3], 2)
