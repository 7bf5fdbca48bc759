"""Tests the rewards of verl's rollouts against float64 arithmetic of their own. Needs no verl."""

from __future__ import annotations

import math
import statistics as arithmetic
from dataclasses import replace

import pytest
import torch
from support.models import byte_tokenizer

import rlif
from rlif.config.loading import check_recipe
from rlif.engines.verl.rewards import Rollout, RolloutReward, padded, statistics
from rlif.tasks import find_task
from rlif.types import Problem

V, END = 11, 1
GROUPS = [3, 2]  # verl lost a completion of the second problem
LENGTHS = [4, 2, 3, 5, 1]
GOLDS = ["1", "1", "1", "2", "2"]
SAID = ["1", "2", "1", "2", None]


def reward_of(group: int = 3, **keys) -> RolloutReward:
    recipe = check_recipe({"engine": "verl", "model": "a/b"} | keys)
    return RolloutReward(recipe, find_task("math"), byte_tokenizer(), group, [END])


def rollout() -> Rollout:
    """Five completions with random distributions; the second token of the first was not written by the model."""
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    texts = ["" if said is None else f"\\boxed{{{said}}}" for said in SAID]
    ids = [[*tokenizer.encode(text), END] for text in texts]
    logp = [torch.log_softmax(torch.randn(len(row), V, dtype=torch.float64), -1) for row in ids]
    masks = [torch.ones(len(row), dtype=torch.int64) for row in ids]
    masks[0][1] = 0
    fields = {
        "mean_logprob": [row.mean(-1) for row in logp],
        "logprob": [row[:, 0] for row in logp],
        "entropy": [-(row.exp() * row).sum(-1) for row in logp],
    }
    return Rollout(
        prompts=[[{"role": "user", "content": f"problem {n}"}] for n in range(len(ids))],
        prompt_ids=[[5, 6]] * len(ids),
        completion_ids=ids,
        groups=GROUPS,
        stats=statistics(fields, masks, V, 1.0),
        problems=[Problem(str(n), "", gold) for n, gold in enumerate(GOLDS)],
        masks=[mask.bool() for mask in masks],
    )


def certainties(given: Rollout) -> list[float]:
    """Self-certainty of each completion, over the tokens that the model wrote."""
    found = []
    for values, mask in zip(given.stats.mean_logprob_BT.tolist(), given.stats.mask_BT.tolist(), strict=True):
        found.append(arithmetic.fmean(-v - math.log(V) for v, real in zip(values, mask, strict=True) if real))
    return found


def by_group(values: list[float]) -> list[list[float]]:
    return [values[:3], values[3:]]


def test_self_certainty_alone_is_given_at_the_last_token():
    given = rollout()
    rewards = reward_of(normalisation="none")(given, step=0)
    expected = certainties(given)
    assert rewards.scalars == pytest.approx(expected, abs=1e-6)
    for tokens, ids, value in zip(rewards.tokens, given.completion_ids, expected, strict=True):
        assert tokens.tolist() == pytest.approx([0.0] * (len(ids) - 1) + [value], abs=1e-6)
    assert rewards.metrics["self_certainty"] == pytest.approx(arithmetic.fmean(expected), abs=1e-6)
    assert rewards.metrics["unscorable"] == 0.0


def test_the_groups_deviation_scales_as_in_the_paper_also_where_a_completion_is_missing():
    given = rollout()
    rewards = reward_of()(given, step=0)
    expected = []
    for group in by_group(certainties(given)):
        mean, std = arithmetic.fmean(group), arithmetic.stdev(group)
        expected += [mean + (value - mean) / (std + 1e-4) for value in group]
    assert rewards.scalars == pytest.approx(expected, abs=1e-6)


def test_several_rewards_are_mixed_by_weight_and_graders_read_the_problems():
    given = rollout()
    rewards = reward_of(reward={"self_certainty": 1.0, "accuracy": 2.0})(given, step=0)
    right = [float(said == gold) for said, gold in zip(SAID, GOLDS, strict=True)]
    expected = [0.0] * 5
    for weight, values in ((1.0, certainties(given)), (2.0, right)):
        scaled = []
        for group in by_group(values):
            mean, std = arithmetic.fmean(group), arithmetic.stdev(group)
            scaled += [mean + (value - mean) / (std + 1e-4) for value in group]
        expected = [old + weight * new for old, new in zip(expected, scaled, strict=True)]
    assert rewards.scalars == pytest.approx(expected, abs=1e-6)
    assert [row.rewards["accuracy"] for row in rewards.rows] == right
    assert [row.answer for row in rewards.rows] == SAID


def test_a_group_signal_counts_the_votes_of_each_group():
    rewards = reward_of(reward="plurality_vote")(rollout(), step=0)
    votes = [1.0, 0.0, 1.0, 1.0, 0.0]
    assert [row.rewards["plurality_vote"] for row in rewards.rows] == votes
    expected = []
    for group in by_group(votes):
        mean, std = arithmetic.fmean(group), arithmetic.stdev(group)
        expected += [mean + (value - mean) / (std + 1e-4) for value in group]
    assert rewards.scalars == pytest.approx(expected)


def test_an_unscored_completion_gets_the_mean_of_its_group_or_of_all():
    """A reward for labelled problems scores nothing of the second group, whose problem has no gold answer."""
    given = rollout()
    given = replace(given, problems=[*given.problems[:3], *[Problem("4", "")] * 2])
    reward = reward_of(reward={"accuracy": {"weight": 1.0, "rows": "labelled"}}, normalisation="none")
    rewards = reward(given, step=0)
    assert [row.reward for row in rewards.rows] == [1.0, 0.0, 1.0, None, None]
    assert rewards.scalars == pytest.approx([1.0, 0.0, 1.0, 2 / 3, 2 / 3])
    assert rewards.metrics["unscorable"] == 0.4 and rewards.metrics["labelled"] == 0.6


def test_completions_that_only_vote_have_no_reward():
    rewards = reward_of(
        reward="plurality_vote",
        rewarded_per_group=2,
        normalisation="none",
        training={"num_generations": 3, "per_device_train_batch_size": 3},
    )(rollout(), step=0)
    assert [row.reward for row in rewards.rows][2] is None
    assert rewards.scalars[2] == pytest.approx(arithmetic.fmean(rewards.scalars[:2]))


@pytest.mark.parametrize("name", ["self_certainty", "likelihood", "negative_entropy"])
def test_spread_gives_each_token_its_own_part_and_the_same_sum(name):
    given = rollout()
    keys = {"algorithm": "ppo", "reward": name}
    spread, terminal = (reward_of(token_reward=kind, **keys)(given, 0) for kind in ("spread", "terminal"))
    field = {"self_certainty": "mean_logprob", "likelihood": "logprob", "negative_entropy": "entropy"}[name]
    values_BT, masks_BT = getattr(given.stats, f"{field}_BT").tolist(), given.stats.mask_BT.tolist()
    for number, tokens in enumerate(spread.tokens):
        real = [place for place, mask in enumerate(masks_BT[number]) if mask]
        of = {
            "self_certainty": lambda v: -v - math.log(V),
            "likelihood": lambda v: v,
            "negative_entropy": lambda v: -v,
        }[name]
        expected = [of(values_BT[number][t]) / len(real) if t in real else 0.0 for t in range(len(tokens))]
        assert tokens.tolist() == pytest.approx(expected, abs=1e-6)
        assert tokens.sum().item() == pytest.approx(terminal.tokens[number].sum().item(), abs=1e-6)


def test_longer_text_of_the_same_certainty_is_not_paid_more():
    """Repeating every token doubles a plain sum, and leaves both forms as they are."""
    values = torch.tensor([-3.0, -4.0], dtype=torch.float64)
    for times in (1, 2):
        row = values.repeat_interleave(times)
        stats = statistics({"mean_logprob": [row]}, [torch.ones(len(row))], V, 1.0)
        given = Rollout([[{"role": "user", "content": ""}]], [[5]], [[7] * len(row)], [1], stats, [Problem("0", "")])
        reward = reward_of(1, algorithm="ppo", token_reward="spread")
        assert reward(given, 0).tokens[0].sum().item() == pytest.approx(3.5 - math.log(V), abs=1e-6)


def test_a_reward_that_scores_nothing_ends_the_run():
    """A token signal at once, other rewards after ten rollouts in a row."""
    empty = statistics({"mean_logprob": [torch.full((2,), torch.nan)]}, [torch.ones(2)], V, 1.0)
    given = Rollout([[{"role": "user", "content": ""}]], [[5]], [[7, 1]], [1], empty, [Problem("0", "")])
    with pytest.raises(rlif.RlifError, match="self_certainty could score none of the 1 completions"):
        reward_of(1)(given, 0)
    reward = reward_of(1, reward="accuracy")
    reward.terms = [term_of_none(reward.terms[0])]
    for _ in range(9):
        assert reward(given, 0).scalars == [0.0]
    with pytest.raises(rlif.RlifError, match="accuracy could score none"):
        reward(given, 0)


def term_of_none(term):
    return replace(term, measure=lambda batch: [None] * len(batch.texts))


def test_a_grader_is_given_at_the_last_token_that_the_model_wrote():
    """Without statistics, too: verl's critic skips what a tool wrote, and would lose a reward there."""
    given = rollout()
    masks = [torch.tensor([*[True] * (len(ids) - 2), False, False]) for ids in given.completion_ids[:1]]
    masks += [torch.ones(len(ids), dtype=torch.bool) for ids in given.completion_ids[1:]]
    rewards = reward_of(reward="accuracy", algorithm="ppo")(replace(given, stats=None, masks=masks), 0)
    length = len(given.completion_ids[0])
    assert rewards.tokens[0].tolist() == [*[0.0] * (length - 3), 1.0, 0.0, 0.0]


def test_rows_are_padded_on_the_right():
    assert padded([torch.tensor([1.0]), torch.tensor([2.0, 3.0])]).tolist() == [[1.0, 0.0], [2.0, 3.0]]
