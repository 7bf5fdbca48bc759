"""Normalisation within groups."""

from __future__ import annotations

import math

import oracle
import pytest
import torch

from rlif.rewards import NORMALISATIONS, Normaliser

REWARDS = [[20.1, 19.8, 21.4, 20.0], [5.0, 5.01, 5.02, 5.0]]


def advantages(rewards_PG):
    """What an engine makes of scaled rewards: minus the group's mean."""
    return (rewards_PG - rewards_PG.nanmean(1, keepdim=True)).flatten().tolist()


def test_group_std_is_the_papers():
    found = Normaliser("group_std")(torch.tensor(REWARDS))
    assert advantages(found) == pytest.approx(oracle.group_advantages([*REWARDS[0], *REWARDS[1]], 4), abs=1e-4)
    assert found.mean(1).tolist() == pytest.approx([sum(group) / 4 for group in REWARDS], abs=1e-4)


def test_floor_is_relative_to_the_first_rollout():
    normaliser = Normaliser("group_std_floor", floor=0.5)
    wide = torch.tensor([[0.0, 2.0], [0.0, 4.0]])
    assert advantages(normaliser(wide)) == pytest.approx(oracle.group_advantages([0, 2, 0, 4], 2, 0.0), abs=1e-3)
    start = (math.sqrt(2) + math.sqrt(8)) / 2
    assert normaliser.start_spread == pytest.approx(start)
    narrow = normaliser(torch.tensor([[0.0, 0.01], [0.0, 0.02]]))
    assert advantages(narrow) == pytest.approx(oracle.group_advantages([0, 0.01, 0, 0.02], 2, start / 2), abs=1e-6)
    assert normaliser.start_spread == pytest.approx(start)
    assert normaliser.spread == pytest.approx(0.015 / math.sqrt(2))


def test_evaluation_does_not_set_the_start():
    normaliser = Normaliser("group_std_floor")
    normaliser(torch.tensor(REWARDS), learn=False)
    assert normaliser.start_spread is None


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_unscorable_rows_stay_out(kind):
    """The others are scaled as if the row had never been; a group with one value left keeps it."""
    with_gap = Normaliser(kind)(torch.tensor([[1.0, math.nan, 3.0, 5.0]]))
    without = Normaliser(kind)(torch.tensor([[1.0, 3.0, 5.0]]))
    assert with_gap[0, 1].isnan()
    assert with_gap[0, [0, 2, 3]].tolist() == pytest.approx(without[0].tolist())
    lonely = Normaliser(kind)(torch.tensor([[math.nan, 2.0]]))
    assert lonely[0].isnan().tolist() == [True, False] and lonely[0, 1] == 2.0


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_permuting_a_group_permutes_its_rewards(kind):
    order = [2, 0, 3, 1]
    rewards = torch.tensor(REWARDS)
    torch.testing.assert_close(Normaliser(kind)(rewards[:, order]), Normaliser(kind)(rewards)[:, order])


def test_batch_std_and_none():
    rewards = torch.tensor(REWARDS).double()
    std = rewards.flatten().std().item()
    expected = ((rewards - rewards.mean(1, keepdim=True)) / (std + 1e-4)).flatten().tolist()
    assert advantages(Normaliser("batch_std")(rewards)) == pytest.approx(expected)
    torch.testing.assert_close(Normaliser("none")(rewards), rewards)


def test_a_tied_group_has_no_advantage():
    assert advantages(Normaliser("group_std")(torch.tensor([[3.0, 3.0, 3.0]]))) == [0.0, 0.0, 0.0]


def test_unknown_kind():
    with pytest.raises(ValueError, match="group_std_floor"):
        Normaliser("zscore")
