"""Normalisation within groups."""

from __future__ import annotations

import math

import pytest
import torch
from support import oracle

from rlif.rewards.mixing import MIXINGS, NORMALISATIONS, Mixer, Normaliser

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


def test_a_rollout_without_spread_does_not_set_the_start():
    """Else a run that begins with equal rewards everywhere would have no floor for good."""
    normaliser = Normaliser("group_std_floor", floor=0.5)
    for equal in (0.0, 0.1, 0.7, -1.7, 12.34):  # most of which their mean rounds away from
        normaliser(torch.full((3, 7), equal, dtype=torch.float64))
        assert normaliser.start_spread is None and normaliser.spread == 0
    normaliser(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    assert normaliser.start_spread == pytest.approx(math.sqrt(2) / 2)


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


def ranks(group):
    """The known values' ranks of unit deviation, by counting: the mean of the ranks of equal values."""
    known = [value for value in group if not math.isnan(value)]
    n = len(known)
    places = {v: [1 + sorted(known).index(v) + i for i in range(known.count(v))] for v in known}
    return [
        math.nan if math.isnan(v) else (sum(places[v]) / len(places[v]) - (n + 1) / 2) / math.sqrt(n * (n + 1) / 12)
        for v in group
    ]


@pytest.mark.parametrize(
    "group",
    [
        [20.1, 19.8, 21.4, 20.0],
        [5.0, 5.000001, 7e9, -3.0],  # sizes of differences do not count
        [1.0, 0.0, 0.0, 1.0],
        [2.0, 2.0, 2.0, 2.0],
        [math.nan, 3.0, 1.0, 3.0],
        [math.nan, math.nan, 1.0, math.nan],
    ],
)
def test_group_rank_counts_ranks(group):
    found = Normaliser("group_rank")(torch.tensor([REWARDS[0], group], dtype=torch.float64))
    assert advantages(found)[4:] == pytest.approx(ranks(group), abs=1e-6, nan_ok=True)
    assert advantages(found)[:4] == pytest.approx(ranks(REWARDS[0]), abs=1e-12)


def test_group_rank_without_ties_has_unit_deviation():
    found = Normaliser("group_rank")(torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert found.std(1).tolist() == pytest.approx([1.0] * 5)


def test_group_rank_of_a_sum_is_refused():
    with pytest.raises(ValueError, match="mixing sum adds them first"):
        Mixer(["x"], "group_rank", mixing="sum")


def test_batch_deviation_leaves_differences_between_problems_out():
    """A problem of much surer completions changes the deviation of all rewards, but not that from the groups' means."""
    rewards = torch.tensor(REWARDS).double()
    apart = rewards - rewards.mean(1, keepdim=True)
    expected = (apart / (apart.flatten().std() + 1e-4)).flatten().tolist()
    moved = rewards + 100 * torch.arange(len(rewards)).unsqueeze(1)
    for each in (rewards, moved):
        assert advantages(Normaliser("batch_deviation")(each)) == pytest.approx(expected)
    assert advantages(Normaliser("batch_std")(moved)) != pytest.approx(expected)


def test_a_tied_group_has_no_advantage():
    assert advantages(Normaliser("group_std")(torch.tensor([[3.0, 3.0, 3.0]]))) == [0.0, 0.0, 0.0]


def test_unknown_kind():
    with pytest.raises(ValueError, match="group_std_floor"):
        Normaliser("zscore")


# Two rewards of very different size, over two groups of four.
CERTAINTY = torch.tensor([[20.1, 19.8, 21.4, 20.0], [5.0, 5.01, 5.02, 5.0]], dtype=torch.float64)
RIGHT = torch.tensor([[0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
PAIR = {"certainty": CERTAINTY, "right": RIGHT}


def mix(mixer, rewards, weights, factors=None):
    """The sum that the engine makes of the columns."""
    columns = mixer.columns(rewards, weights, factors)
    return sum(weights[name] * column for name, column in columns.items() if weights[name])


def mixed(kind="group_std", mixing="normalised", floor=0.4, factors=None, **weights):
    return advantages(mix(Mixer(list(PAIR), kind, floor, mixing), PAIR, weights, factors))


def z(rewards_PG, least=0.0):
    return torch.tensor(oracle.group_advantages(rewards_PG.flatten().tolist(), 4, least), dtype=torch.float64)


@pytest.mark.parametrize("kind", NORMALISATIONS)
@pytest.mark.parametrize("mixing", MIXINGS)
def test_one_reward_of_weight_one_is_that_reward_to_the_last_bit(kind, mixing):
    if (kind, mixing) == ("group_rank", "sum"):
        return  # refused
    rewards = torch.tensor([[1.0, math.nan, 3.0, 5.5], [math.nan, 2.0, math.nan, math.nan]])
    alone = Normaliser(kind)(rewards)
    found = mix(Mixer(["x"], kind, mixing=mixing), {"x": rewards}, {"x": 1.0})
    assert torch.equal(found.nan_to_num(-9), alone.nan_to_num(-9))


def test_normalised_weights_act_as_arithmetic_says():
    """A = w1 z(r1) + w2 z(r2): doubling a weight doubles that reward's part and leaves the other's alone."""
    for first, second in ((1.0, 1.0), (1.0, 2.0), (0.5, -3.0)):
        expected = (first * z(CERTAINTY) + second * z(RIGHT)).tolist()
        assert mixed(certainty=first, right=second) == pytest.approx(expected, abs=1e-9)
    both, doubled = (torch.tensor(mixed(certainty=1.0, right=weight), dtype=torch.float64) for weight in (1.0, 2.0))
    torch.testing.assert_close(doubled - both, z(RIGHT), atol=1e-9, rtol=0)


def test_sum_normalises_once():
    """A = z(w1 r1 + w2 r2): there one weight alone changes nothing but the part of the other."""
    for first, second in ((1.0, 1.0), (1.0, 20.0)):
        expected = z(first * CERTAINTY + second * RIGHT).tolist()
        assert mixed(mixing="sum", certainty=first, right=second) == pytest.approx(expected, abs=1e-9)
    assert mixed(mixing="sum", certainty=1.0, right=0.0) == pytest.approx(
        mixed(mixing="sum", certainty=2.0, right=0.0), abs=1e-2
    )
    assert mixed(certainty=2.0, right=0.0) == pytest.approx([2 * a for a in mixed(certainty=1.0, right=0.0)])


@pytest.mark.parametrize("mixing", MIXINGS)
def test_without_normalisation_both_are_the_plain_sum(mixing):
    raw = CERTAINTY + 2 * RIGHT
    assert mixed("none", mixing, certainty=1.0, right=2.0) == pytest.approx(advantages(raw))


def test_batch_std_of_each():
    expected = sum((r - r.mean(1, keepdim=True)) / (r.flatten().std() + 1e-4) for r in (CERTAINTY, RIGHT))
    assert mixed("batch_std", certainty=1.0, right=1.0) == pytest.approx(expected.flatten().tolist())


def test_each_reward_has_a_floor_of_its_own():
    """The second rollout is tight in one reward and not in the other; only the tight one feels its floor."""
    mixer, weights = Mixer(list(PAIR), "group_std_floor", 0.5), {"certainty": 1.0, "right": 1.0}
    mix(mixer, PAIR, weights)
    starts = {name: torch.tensor([group.std() for group in grid]).mean().item() for name, grid in PAIR.items()}
    assert {name: mixer.state()[name] for name in PAIR} == pytest.approx(starts)
    tight = {"certainty": CERTAINTY * 0.01, "right": RIGHT}
    expected = z(tight["certainty"], starts["certainty"] / 2) + z(RIGHT)
    assert advantages(mix(mixer, tight, weights)) == pytest.approx(expected.tolist(), abs=1e-9)
    again = Mixer(list(PAIR), "group_std_floor", 0.5)
    again.load(mixer.state())
    assert torch.equal(mix(again, tight, weights), mix(mixer, tight, weights))


def test_a_checkpoint_with_the_old_name_of_a_signal_is_loaded():
    mixer = Mixer(["tail_confidence"])
    mixer.load({"group_confidence_tail": 0.5, "": 0.25})
    assert mixer.state() == {"tail_confidence": 0.5, "": 0.25}


@pytest.mark.parametrize("mixing", MIXINGS)
def test_weight_zero_only_watches(mixing):
    """Whatever the watched reward is, even missing everywhere; its spread is measured all the same."""
    alone = mix(Mixer(["certainty"], mixing=mixing), {"certainty": CERTAINTY}, {"certainty": 1.0})
    for watched in (RIGHT, RIGHT * math.nan, RIGHT * 1e9):
        mixer = Mixer(list(PAIR), mixing=mixing)
        found = mix(mixer, {"certainty": CERTAINTY, "right": watched}, {"certainty": 1.0, "right": 0.0})
        assert torch.equal(found, alone)
    assert mixer.normalisers["right"].spread == pytest.approx(5e8)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_what_one_reward_cannot_score_has_no_advantage_from_it(mixing):
    gap = RIGHT.clone()
    gap[0, 1] = math.nan
    gap[1] = math.nan
    weights = {"certainty": 1.0, "right": 1.0}
    found = mix(Mixer(list(PAIR), mixing=mixing), {"certainty": CERTAINTY, "right": gap}, weights)
    filled = torch.stack([gap[0].nan_to_num(gap[0].nanmean().item()), torch.zeros(4).double()])
    certainty = z(CERTAINTY).view(2, 4)
    if mixing == "normalised":
        part = torch.tensor(oracle.group_advantages(gap[0][[0, 2, 3]].tolist(), 3), dtype=torch.float64)
        expected = certainty.clone()
        expected[0, [0, 2, 3]] += part
    else:
        expected = z(CERTAINTY + filled).view(2, 4)
    assert advantages(found) == pytest.approx(expected.flatten().tolist(), abs=1e-9)
    nothing = mix(Mixer(list(PAIR), mixing=mixing), {"certainty": gap, "right": gap}, weights)
    assert nothing.isnan().tolist() == gap.isnan().tolist()


def test_factors_scale_the_advantages_of_their_reward():
    factor = torch.tensor([[0.5], [0.0]], dtype=torch.float64)
    expected = z(CERTAINTY) + (factor * z(RIGHT).view(2, 4)).flatten()
    found = mixed(certainty=1.0, right=1.0, factors={"right": factor})
    assert found == pytest.approx(expected.tolist(), abs=1e-9)


def test_unknown_mixing():
    with pytest.raises(ValueError, match="normalised"):
        Mixer(["x"], mixing="product")
