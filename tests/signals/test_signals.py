"""Tests signals as functions of token statistics."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from support import oracle
from support.models import tiny_model

import rlif
from rlif.errors import RlifError
from rlif.scoring.statistics import length_mask
from rlif.signals import NEEDS, RENAMED, WINDOWED, every_signal, renamed
from rlif.signals.token_confidence import bottom_window_confidence, lowest_window_confidence, tail_confidence


def stats(mean_logprob, lengths, vocab_size=10):
    mean_BT = torch.tensor(mean_logprob, dtype=torch.float32)
    return rlif.TokenStats(length_mask(lengths), vocab_size, mean_logprob_BT=mean_BT)


def test_self_certainty_is_the_mean_over_unpadded_tokens_minus_log_vocabulary():
    found = rlif.SIGNALS["self_certainty"](stats([[-4.0, -6.0, 99.0], [-3.0, -3.0, -3.0]], [2, 3]))
    assert found == pytest.approx([5 - math.log(10), 3 - math.log(10)], abs=1e-6)


def test_completions_with_non_finite_statistics_have_no_value():
    found = rlif.SIGNALS["self_certainty"](stats([[-4.0, math.nan], [-math.inf, -4.0], [-4.0, -4.0]], [2, 2, 2]))
    assert found[:2] == [None, None] and found[2] == pytest.approx(4 - math.log(10))


def test_a_negative_divergence_is_an_error():
    """Zeroed attention masks of truncated rows would give it: log p is 0 everywhere."""
    with pytest.raises(ArithmeticError, match="cannot be negative"):
        rlif.SIGNALS["self_certainty"](stats([[0.0, 0.0]], [2]))


def test_missing_statistics_are_named():
    with pytest.raises(RlifError, match="reads mean_logprob_BT, which these statistics lack"):
        rlif.SIGNALS["self_certainty"](rlif.TokenStats(length_mask([1]), 10))


def scored(seed=0, lengths=(5, 1, 9)):
    """Computes statistics of a tiny model and the same log-probabilities in float64."""
    model = tiny_model(seed)
    prompts = [[5, 6, 7], [8], [9, 10]]
    completions = [[20 + (7 * i + n) % 200 for i in range(length)] for n, length in enumerate(lengths)]
    stats = rlif.score_completions(model, prompts, completions, top_k=20)
    logprobs = [oracle.logprobs_TV(model, p, c) for p, c in zip(prompts, completions, strict=True)]
    return stats, logprobs, completions


def window_means(values, window):
    if len(values) < window:
        return [sum(values) / len(values)]
    return [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]


def test_signals_equal_float64_arithmetic():
    stats, logprobs, completions = scored()
    for row, (logp_TV, completion) in enumerate(zip(logprobs, completions, strict=True)):
        entropies = [math.fsum(-math.exp(lp) * lp for lp in lp_V) for lp_V in logp_TV.tolist()]
        chosen = [logp_TV[i, token].item() for i, token in enumerate(completion)]
        confidences = [-math.fsum(sorted(lp_V)[-20:]) / 20 for lp_V in logp_TV.tolist()]
        n = len(completion)
        expected = {
            "negative_entropy": -math.fsum(entropies) / n,
            "negative_entropy_sum": -math.fsum(entropies),
            "likelihood": math.fsum(chosen) / n,
            "likelihood_sum": math.fsum(chosen),
            "mean_token_confidence": math.fsum(confidences) / n,
        }
        for name, value in expected.items():
            assert rlif.SIGNALS[name](stats)[row] == pytest.approx(value, abs=1e-4), name
        for window in (1, 3, 9, 2048):
            means = window_means(confidences, window)
            assert lowest_window_confidence(stats, window)[row] == pytest.approx(min(means), abs=1e-4)
            tail = confidences[-window:]
            assert tail_confidence(stats, window)[row] == pytest.approx(sum(tail) / len(tail), abs=1e-4)


def test_bottom_window_confidence_is_the_mean_of_the_lowest_tenth_of_windows():
    confidence_BT = torch.tensor([[float((17 * i) % 23) for i in range(43)]])
    stats = rlif.TokenStats(length_mask([43]), 100, topk_confidence_BT=confidence_BT)
    means = sorted(window_means(confidence_BT[0].tolist(), 4))
    assert len(means) == 40
    assert bottom_window_confidence(stats, 4) == pytest.approx([sum(means[:4]) / 4])
    assert bottom_window_confidence(stats, 40) == pytest.approx(lowest_window_confidence(stats, 40))


def test_completions_shorter_than_the_window_have_their_plain_mean():
    stats, _, _ = scored()
    plain = rlif.SIGNALS["mean_token_confidence"](stats)
    for name in ("tail_confidence", "lowest_window_confidence", "bottom_window_confidence"):
        assert rlif.SIGNALS[name](stats) == pytest.approx(plain)


def test_old_names_give_the_signal_and_say_the_new_name(caplog):
    for old, new in RENAMED.items():
        assert rlif.SIGNALS[old] is rlif.SIGNALS[new]
        assert f"{old} is now called {new}" in caplog.text
    assert not RENAMED.keys() & rlif.SIGNALS.keys() and "group_confidence" not in list(rlif.SIGNALS)
    with pytest.raises(KeyError):
        rlif.SIGNALS["no_such_signal"]
    row = {"group_confidence": 1, "group_confidence_tail_spread": 2, "step": 3, "group_confidences": 4}
    assert renamed(row) == {"mean_token_confidence": 1, "tail_confidence_spread": 2, "step": 3, "group_confidences": 4}
    for about in ("_spread", "_unscorable", "_weight"):
        assert renamed({f"{old}{about}": 1 for old in RENAMED}) == {f"{new}{about}": 1 for new in RENAMED.values()}
    assert renamed({"mean_token_confidence": 4, "group_confidence": 1}) == {"mean_token_confidence": 4}


def flat_and_peaked():
    """Makes statistics of two completions of one token: uniform logits, and a peaked distribution."""
    logits_NV = torch.zeros(2, 50)
    logits_NV[1, 3] = 12.0
    logp_NV = logits_NV.log_softmax(-1)
    return rlif.TokenStats(
        length_mask([1, 1]),
        50,
        logprob_BT=logp_NV[:, 3:4],
        mean_logprob_BT=logp_NV.mean(-1, keepdim=True),
        entropy_BT=-(logp_NV.exp() * logp_NV).sum(-1, keepdim=True),
        topk_confidence_BT=-logp_NV.topk(20).values.mean(-1, keepdim=True),
    )


@pytest.mark.parametrize("name", sorted(rlif.SIGNALS))
def test_a_peaked_distribution_has_the_larger_signal(name):
    flat, peaked = rlif.SIGNALS[name](flat_and_peaked())
    assert peaked > flat


UNIFORM = {
    "self_certainty": 0.0,
    **dict.fromkeys(("negative_entropy", "negative_entropy_sum", "likelihood", "likelihood_sum"), -math.log(50)),
    "mean_token_confidence": math.log(50),
    **dict.fromkeys(("tail_confidence", "lowest_window_confidence", "bottom_window_confidence"), math.log(50)),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_distributions_give_the_known_values(name):
    assert rlif.SIGNALS[name](flat_and_peaked())[0] == pytest.approx(UNIFORM[name], abs=1e-5)


@pytest.mark.parametrize("name", sorted(rlif.SIGNALS))
def test_padding_is_ignored_and_empty_or_nan_completions_have_no_value(name):
    field = NEEDS[name]
    alone = rlif.TokenStats(length_mask([2]), 50, **{field: torch.tensor([[-7.0, -8.0]])})
    padded_BT = torch.tensor([[-7.0, -8.0, 3.0], [1.0, 2.0, 3.0], [math.nan, -5.0, -5.0]])
    padded = rlif.TokenStats(length_mask([2, 0, 3]), 50, **{field: padded_BT})
    assert rlif.SIGNALS[name](padded) == [*rlif.SIGNALS[name](alone), None, None]


@pytest.mark.parametrize("name", sorted(rlif.SIGNALS))
def test_the_table_of_needs_names_the_one_statistic_a_signal_reads(name):
    assert set(NEEDS) == set(rlif.SIGNALS)
    complete = flat_and_peaked()
    with pytest.raises(RlifError, match=NEEDS[name]):
        rlif.SIGNALS[name](dataclasses.replace(complete, **{NEEDS[name]: None}))
    others = dict.fromkeys(set(NEEDS.values()) - {NEEDS[name]})
    assert rlif.SIGNALS[name](dataclasses.replace(complete, **others)) == rlif.SIGNALS[name](complete)


def test_every_signal_gives_all_signals_with_the_given_window():
    stats, _, _ = scored()
    for row, values in enumerate(every_signal(stats)):
        assert values == {name: signal(stats)[row] for name, signal in rlif.SIGNALS.items()}
    short = every_signal(stats, 3)
    assert [row["lowest_window_confidence"] for row in short] == lowest_window_confidence(stats, 3)
    assert [row["tail_confidence"] for row in short] == tail_confidence(stats, 3)
    assert [row["bottom_window_confidence"] for row in short] == bottom_window_confidence(stats, 3)
    assert (
        short[2]["lowest_window_confidence"]
        < short[2]["mean_token_confidence"]
        == every_signal(stats)[2]["mean_token_confidence"]
    )


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_without_tokens_is_refused(window):
    """The last 0 tokens would be all of them."""
    stats, _, _ = scored()
    for name in WINDOWED:
        with pytest.raises(RlifError, match=f"a window has at least one token, got {window}"):
            rlif.SIGNALS[name](stats, window=window)
