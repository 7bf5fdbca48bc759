"""Tests every form of the loss with self-certainty: advantages and loss equal independent arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from support import oracle
from support.trainers import make_trainer

import rlif
from rlif.config.defaults import ALGORITHMS, LEAVE_ONE_OUT, ONLY_ON, ROUNDS
from rlif.config.loading import check_recipe
from rlif.engines.trl.setup import check_training, trainer_of
from rlif.rewards.mixing import NORMALISATIONS, Mixer

LIMIT = 24  # max_completion_length of these runs
TRLS = [name for name in ALGORITHMS if ONLY_ON.get(name, ("trl",))[0] == "trl" and name not in ROUNDS]


def batch_advantages(rewards, group):
    mean = [math.fsum(rewards[i - i % group : i - i % group + group]) / group for i in range(len(rewards))]
    std = torch.tensor(rewards, dtype=torch.float64).std().item()
    return [(r - m) / (std + 1e-4) for r, m in zip(rewards, mean, strict=True)]


def deviation_advantages(rewards, group):
    """Each group's mean is the baseline; all deviations are divided by their own deviation."""
    mean = [math.fsum(rewards[i - i % group : i - i % group + group]) / group for i in range(len(rewards))]
    apart = torch.tensor([r - m for r, m in zip(rewards, mean, strict=True)], dtype=torch.float64)
    return (apart / (apart.std() + 1e-4)).tolist()


def centred(rewards, group):
    return [a * (group - 1) / group for a in oracle.leave_one_out(rewards, group)]


def ranked(rewards, group):
    scale = math.sqrt(group * (group + 1) / 12)
    parts = [sorted(rewards[i - i % group : i - i % group + group]) for i in range(len(rewards))]
    return [(part.index(r) - (group - 1) / 2) / scale for r, part in zip(rewards, parts, strict=True)]


def expected_advantages(kind, rewards, floor):
    if kind == "group_std_floor":
        return oracle.group_advantages(rewards, 4, floor)
    forms = {"group_std": oracle.group_advantages, "batch_std": batch_advantages, "none": centred}
    return (forms | {"batch_deviation": deviation_advantages, "group_rank": ranked})[kind](rewards, 4)


@pytest.mark.daily(every=5)
@pytest.mark.parametrize("kind", NORMALISATIONS)
@pytest.mark.parametrize("algorithm", [name for name in TRLS if name not in LEAVE_ONE_OUT])
def test_advantages_and_loss_of_each_algorithm(algorithm, kind, model_folder):
    """On policy every ratio is 1, so the loss is minus the average advantage, averaged as this form averages tokens."""
    recipe = check_recipe({"algorithm": algorithm})
    options = {"loss_type": recipe.resolved_training["loss_type"], "max_completion_length": LIMIT, "max_steps": 2}
    options |= {key: value for key, value in ALGORITHMS[algorithm].items() if key != "loss_type"}
    mixer = Mixer(["self_certainty"], kind, floor=1.5)
    trainer = make_trainer(model_folder, "grpo", mixer=mixer, gradient_accumulation_steps=1, **options)
    trainer.train()
    told_apart = False
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    floor = 1.5 * (mixer.normalisers["self_certainty"].start_spread or 0)
    for rollout, loss in zip(trainer.rollouts, losses, strict=True):
        assert rollout["advantages"] == pytest.approx(expected_advantages(kind, rollout["expected"], floor), abs=2e-4)
        lengths = [len(row.completion_ids) for row in rollout["scored"]]
        pairs = list(zip(rollout["advantages"], lengths, strict=True))
        by_token = math.fsum(a * n for a, n in pairs)
        per_sample = math.fsum(a for a, _ in pairs) / len(pairs)
        told_apart |= abs(by_token / sum(lengths) - by_token / (LIMIT * len(pairs))) > 1e-3
        form = {"grpo": per_sample, "gspo": per_sample, "dr_grpo": by_token / (LIMIT * len(pairs))}
        assert loss == pytest.approx(-form.get(algorithm, by_token / sum(lengths)), abs=2e-4)
    assert told_apart or kind == "none", "all completions were of one length"


@pytest.mark.daily(every=3)
@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_rloo_leaves_one_out_of_the_scaled_rewards(kind, model_folder):
    """Subtracting the mean of the other three instead of all four gives 4/3 of the advantages of GRPO."""
    mixer = Mixer(["self_certainty"], kind, floor=1.5)
    trainer = make_trainer(model_folder, "rloo", mixer=mixer, max_steps=2)
    trainer.train()
    floor = 1.5 * (mixer.normalisers["self_certainty"].start_spread or 0)
    for rollout in trainer.rollouts:
        expected = [4 / 3 * a for a in expected_advantages(kind, rollout["expected"], floor)]
        assert rollout["advantages"] == pytest.approx(expected, abs=3e-4)


@pytest.mark.daily(every=3)
@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_reinforce_normalises_the_scaled_rewards_over_the_batch(kind, model_folder):
    """Rewards are scaled within groups first, so a floor changes only the relative weight of groups."""
    mixer = Mixer(["self_certainty"], kind, floor=1.5)
    trainer = make_trainer(model_folder, "reinforce", mixer=mixer, **ALGORITHMS["reinforce"])
    trainer.train()
    floor = 1.5 * (mixer.normalisers["self_certainty"].start_spread or 0)
    for rollout in trainer.rollouts:
        scaled = torch.tensor([4 / 3 * a for a in expected_advantages(kind, rollout["expected"], floor)])
        white = (scaled - scaled.mean()) / (scaled.std() + 1e-4)
        assert rollout["advantages"] == pytest.approx(white.tolist(), abs=2e-3)


@pytest.mark.parametrize("algorithm", TRLS)
def test_an_algorithm_in_a_recipe_sets_its_training_options(algorithm):
    recipe = check_recipe({"algorithm": algorithm})
    of = {"reinforce_plus_plus": "batch_deviation"} | dict.fromkeys(("dr_grpo", *LEAVE_ONE_OUT), "none")
    assert recipe.resolved_normalisation == of.get(algorithm, "group_std")
    options = check_training(recipe, 1)
    config = trainer_of(algorithm)[1]
    assert config.__name__ == ("RLOOConfig" if algorithm in LEAVE_ONE_OUT else "GRPOConfig")
    if algorithm not in LEAVE_ONE_OUT:
        assert options["loss_type"] == {"gspo": "grpo", "reinforce_plus_plus": "dapo"}.get(algorithm, algorithm)
        assert options.get("importance_sampling_level", "token") == ("sequence" if algorithm == "gspo" else "token")


def test_a_loss_type_that_contradicts_the_algorithm_is_refused():
    with pytest.raises(rlif.RlifError, match=r"training.loss_type is 'bnpo', but algorithm dapo means 'dapo'"):
        check_recipe({"algorithm": "dapo", "training": {"loss_type": "bnpo"}})
    assert check_recipe({"training": {"loss_type": "cispo"}}).resolved_training["loss_type"] == "cispo"
