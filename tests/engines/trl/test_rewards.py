"""Tests several rewards in TRL: advantages, rewards of weight 0, schedules, errors."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from support import oracle
from support.trainers import LORA, Lengths, make_trainer, planned_path

import rlif
from rlif.errors import RewardError
from rlif.rewards.mixing import Mixer
from rlif.scoring.taps import COSTLY

FIELDS = {
    "self_certainty": lambda logp_TV, chosen_T: -math.log(logp_TV.shape[1]) - logp_TV.mean(1),
    "negative_entropy": lambda logp_TV, chosen_T: (logp_TV.exp() * logp_TV).sum(1),
    "likelihood": lambda logp_TV, chosen_T: chosen_T,
    "mean_token_confidence": lambda logp_TV, chosen_T: -logp_TV.sort(1, descending=True).values[:, :20].mean(1),
}


def expected(name, model, row, temperature=1.0):
    """Computes a token signal of one completion in float64."""
    logp_TV = oracle.logprobs_TV(model, row.prompt_ids, row.completion_ids, temperature)
    chosen_T = logp_TV.gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0]
    return FIELDS[name](logp_TV, chosen_T).mean().item()


def column(rollout, name):
    return [row.rewards[name] for row in rollout["scored"]]


def trained(model_folder, **changes):
    """Makes and trains a trainer. TRL seeds it when it is made, so the next one is made only after training."""
    trainer = make_trainer(model_folder, **changes)
    trainer.train()
    return trainer


def weights_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


# case: reward, changes, path, no-grad policy rows and reference rows per completion
PATHS = {
    "entropy": ("negative_entropy", {}, "decode", 0, 0),
    "top-k": ("mean_token_confidence", {}, "decode", 0, 0),
    "likelihood": ("likelihood", {}, "pass", 1, 0),
    "entropy, two iterations": ("negative_entropy", {"num_iterations": 2}, "policy", 1, 0),
    "entropy, hot": ("negative_entropy", {"num_iterations": 2, "temperature": 1.4}, "policy", 1, 0),
    "entropy, offline": ("negative_entropy", {"beta": 0.04, "annotator": "offline"}, "reference", 0, 1),
    "entropy, adapters off": (
        "negative_entropy",
        {"beta": 0.04, "annotator": "offline", "peft_config": LORA},
        "reference",
        1,
        0,
    ),
    "likelihood, two iterations": ("likelihood", {"num_iterations": 2}, "policy", 1, 0),
    "likelihood, rloo": ("likelihood", {"algorithm": "rloo"}, "policy", 1, 0),
    "top-k, offline": ("mean_token_confidence", {"beta": 0.04, "annotator": "offline"}, "reference", 0, 1),
    "likelihood, offline": ("likelihood", {"beta": 0.04, "annotator": "offline"}, "reference", 0, 1),
    "no token signal": ("length", {}, "decode", 0, 0),
    "no token signal, dropout": ("length", {"annotator": "offline", "beta": 0.04}, "reference", 0, 1),
}


@pytest.mark.daily(every=4)
@pytest.mark.parametrize("case", PATHS)
def test_each_path_gives_the_rewards_statistics(case, model_folder):
    name, changes, path, policy_rows, reference_rows = PATHS[case]
    assert planned_path(reward={name: 1.0}, **changes) == path
    trainer = make_trainer(model_folder, reward={name: 1.0}, max_steps=2, **changes)
    trainer.train()
    offline = changes.get("annotator") == "offline"
    for rollout, parameters in zip(trainer.rollouts, trainer.history, strict=True):
        assert rollout["path"] == path
        if name not in FIELDS:
            continue
        model = trainer.start
        if not offline:
            model.load_state_dict(parameters, strict=False)
        found = [expected(name, model, row, trainer.args.temperature) for row in rollout["scored"]]
        assert column(rollout, name) == pytest.approx(found, abs=2e-4)
    completions = sum(len(rollout["scored"]) for rollout in trainer.rollouts)
    assert trainer.rows["policy"] == policy_rows * completions
    assert trainer.rows["reference"] == reference_rows * completions


MIX = {"self_certainty": 1.0, "length": 0.5, "negative_entropy": -2.0}


def test_normalised_mixing_in_training(model_folder):
    trainer = make_trainer(model_folder, reward=MIX, mixer=Mixer(list(MIX), "group_std"))
    trainer.train()
    for rollout in trainer.rollouts:
        parts = [oracle.group_advantages(column(rollout, name), 4) for name in MIX]
        mixed = [math.fsum(w * a for w, a in zip(MIX.values(), row, strict=True)) for row in zip(*parts, strict=True)]
        assert rollout["advantages"] == pytest.approx(mixed, abs=1e-4)
        assert [row.reward for row in rollout["scored"]] == pytest.approx(
            [math.fsum(MIX[name] * row.rewards[name] for name in MIX) for row in rollout["scored"]]
        )


def test_sum_mixing_in_training(model_folder):
    trainer = make_trainer(model_folder, reward=MIX, mixer=Mixer(list(MIX), "group_std", mixing="sum"))
    trainer.train()
    for rollout in trainer.rollouts:
        expected = oracle.group_advantages([row.reward for row in rollout["scored"]], 4)
        assert rollout["advantages"] == pytest.approx(expected, abs=1e-4)


def test_doubling_a_weight_adds_that_rewards_share_of_the_advantages(model_folder):
    """The first rollout does not depend on the rewards, so two runs can be compared."""
    first, second = (
        trained(model_folder, reward={"self_certainty": 1.0, "negative_entropy": weight}, max_steps=1).rollouts[0]
        for weight in (1.0, 2.0)
    )
    assert column(first, "negative_entropy") == column(second, "negative_entropy")
    part = oracle.group_advantages(column(first, "negative_entropy"), 4)
    difference = [b - a for a, b in zip(first["advantages"], second["advantages"], strict=True)]
    assert difference == pytest.approx(part, abs=1e-4) and max(map(abs, part)) > 0.5


def test_all_token_signals_can_be_trained_on_together(model_folder):
    """Each equals that of a fresh pass of the sampling model, and each has its share of the advantages."""
    trainer = trained(model_folder, reward=dict.fromkeys(rlif.SIGNALS, 1.0), max_steps=1)
    (rollout,) = trainer.rollouts
    ids = [[getattr(row, key) for row in rollout["scored"]] for key in ("prompt_ids", "completion_ids")]
    fresh = rlif.score_completions(trainer.start, *ids, top_k=20)
    for name, signal in rlif.SIGNALS.items():
        assert column(rollout, name) == pytest.approx(signal(fresh), abs=1e-4), name
    parts = [oracle.group_advantages(column(rollout, name), 4) for name in rlif.SIGNALS]
    assert rollout["advantages"] == pytest.approx([math.fsum(row) for row in zip(*parts, strict=True)], abs=1e-3)


MONITORS = [*sorted(rlif.SIGNALS.keys() - {"self_certainty"}), "plurality_vote", "random", "length", "accuracy"]


@pytest.mark.daily(every=3)
@pytest.mark.parametrize(
    "changes", [{}, {"num_iterations": 2}, {"algorithm": "rloo"}], ids=["decode", "policy", "rloo"]
)
def test_rewards_of_weight_zero_do_not_change_the_training(changes, model_folder):
    """The weights are equal to the last bit, even if such a reward needs a pass of its own."""
    task, problems = Lengths(), Lengths().load("train")
    watched = {"self_certainty": 1.0} | dict.fromkeys(MONITORS, 0.0)
    plain = trained(model_folder, **changes)
    monitored = trained(model_folder, reward=watched, task=task, problems=problems, **changes)
    assert same(weights_of(plain), weights_of(monitored))
    last = monitored.state.log_history[-2]
    for name in MONITORS:
        assert math.isfinite(last[name]) and f"{name}_spread" in last and last[f"{name}_unscorable"] == 0
    assert last["length"] == last["completions/mean_length"]


@pytest.mark.sweep
def test_schedules_in_training_and_after_a_resume(tmp_path, model_folder):
    """Confidence first, length later: the advantages of each step use its weights, also after a resume."""
    reward = {"self_certainty": {"stages": [[0, 1.0], [2, 0.0]]}, "length": {"linear": [[1, 0.0], [3, 1.0]]}}
    options = {"reward": reward, "max_steps": 4, "output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(model_folder, **options)
    trainer.train()
    scheduled = [(1.0, 0.0), (1.0, 0.0), (0.0, 0.5), (0.0, 1.0)]
    for rollout, weights in zip(trainer.rollouts, scheduled, strict=True):
        parts = [oracle.group_advantages(column(rollout, name), 4) for name in reward]
        mixed = [sum(w * a for w, a in zip(weights, row, strict=True)) for row in zip(*parts, strict=True)]
        assert rollout["advantages"] == pytest.approx(mixed, abs=1e-4)
    logged = [(log["self_certainty_weight"], log["length_weight"]) for log in trainer.state.log_history[:4]]
    assert logged == scheduled
    again = make_trainer(model_folder, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [r["advantages"] for r in again.rollouts] == [r["advantages"] for r in trainer.rollouts[2:]]
    assert same(weights_of(trainer), weights_of(again))


@pytest.mark.daily(every=3)
@pytest.mark.parametrize("name", ["plurality_vote", "self_consistency", "seed_grpo", "accuracy", "format"])
def test_rewards_from_answers_of_a_group_equal_arithmetic_by_hand(name, model_folder):
    task = Lengths()
    trainer = make_trainer(model_folder, reward={name: 1.0}, task=task, problems=task.load("train"), max_steps=2)
    trainer.train()
    gold = {problem.text: problem.gold for problem in task.load("train")[:4]}
    for rollout in trainer.rollouts:
        for start in range(0, len(rollout["scored"]), 4):
            rows = rollout["scored"][start : start + 4]
            answers = [task.extract(row.completion) for row in rows]
            counts = [answers.count(answer) if answer else 0 for answer in answers]
            values = {
                "plurality_vote": [float(n == max(counts)) for n in counts],
                "self_consistency": [n / 4 for n in counts],
                "accuracy": [float(answer == gold[rows[0].prompt]) for answer in answers],
                "format": [float(answer is not None) for answer in answers],
            }
            values["seed_grpo"] = values["accuracy"]
            assert [row.rewards[name] for row in rows] == values[name]
            factor = 1.0
            if name == "seed_grpo":
                different = [answers.count(answer) for answer in set(answers) - {None}] + [1] * answers.count(None)
                factor = 1 + sum(math.log(n / 4) for n in different) / len(different) / math.log(4)
            advantages = [factor * a for a in oracle.group_advantages(values[name], 4)]
            assert rollout["advantages"][start : start + 4] == pytest.approx(advantages, abs=1e-4)


def test_completions_that_are_not_rewarded_still_vote(model_folder):
    """All four vote; only two are rewarded, and these two are normalised together."""
    trainer = make_trainer(model_folder, reward={"self_consistency": 1.0}, task=Lengths(), rewarded=2, max_steps=2)
    trainer.train()
    spread = 0
    for rollout in trainer.rollouts:
        for start in range(0, len(rollout["scored"]), 4):
            rows, found = rollout["scored"][start : start + 4], rollout["advantages"][start : start + 4]
            answers = [row.answer for row in rows]
            shares = [answers.count(a) / 4 if a else 0.0 for a in answers]
            assert [row.rewards["self_consistency"] for row in rows] == [*shares[:2], None, None]
            assert found == pytest.approx([*oracle.group_advantages(shares[:2], 2), 0, 0], abs=1e-4)
            spread += shares[0] != shares[1]
    assert spread and trainer.state.log_history[0]["unscorable"] == 0


def saw(completions, **columns):
    """A reward function that records its arguments."""
    SEEN.update(columns)
    return [float(len(text)) for text in completions]


def saw_gold(completions, gold, **columns):
    SEEN.update(columns, gold=gold)
    return [float(len(text)) for text in completions]


SEEN = {}


def test_only_reward_functions_that_name_gold_get_it(model_folder):
    """Without rewards from gold answers the data set has prompts only."""
    SEEN.clear()
    trainer = trained(model_folder, reward={"self_certainty": 1.0, f"{__name__}:saw": 0}, task=Lengths(), max_steps=1)
    assert trainer.train_dataset.column_names == ["prompt"] and trainer.reward.problems is None
    assert set(SEEN) == {"prompts", "completion_ids", "trainer_state", "log_metric", "log_extra"}
    problems = Lengths().load("train")
    reward = {"self_certainty": 1.0, f"{__name__}:saw": 0, f"{__name__}:saw_gold": 0}
    SEEN.clear()
    trained(model_folder, reward=reward, task=Lengths(), problems=problems, max_steps=1)
    gold = {problem.text: problem.gold for problem in problems}
    assert SEEN["gold"] == [gold[prompt] for prompt in SEEN["prompts"]] and "problem" not in SEEN


@pytest.mark.daily(every=3)
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nan", "returned nan"),
        ("too_few", "returned 1 rewards for 8 completions"),
        ("raising", "raised ValueError: no idea"),
    ],
)
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_failing_reward_functions_are_explained(function, message, weight, model_folder):
    reward = {"self_certainty": 1 - weight, f"{__name__}:{function}": weight}
    with pytest.raises(RewardError, match=message):
        make_trainer(model_folder, reward=reward).train()


def none(completions, **_):
    return [None] * len(completions)


def nan(completions, **_):
    return [math.nan] * len(completions)


def too_few(completions, **_):
    return [1.0]


def raising(completions, **_):
    raise ValueError("no idea")


def test_a_reward_that_scores_nothing_ends_the_run_after_some_rollouts(model_folder, monkeypatch):
    monkeypatch.setattr("rlif.engines.trl.rewards.UNSCORED_ROLLOUTS", 2)
    alone = {f"{__name__}:none": 1.0, "self_certainty": 0}
    make_trainer(model_folder, reward=alone, max_steps=1).train()
    with pytest.raises(RewardError, match="none of the 8 completions of each of 2 rollouts in a row: it gave None for"):
        make_trainer(model_folder, reward=alone, max_steps=2).train()


def test_a_reward_that_scores_nothing_is_no_error_where_another_does(model_folder, monkeypatch):
    """As with mixed data, of which a reward knows some rows. Its share is logged."""
    monkeypatch.setattr("rlif.engines.trl.rewards.UNSCORED_ROLLOUTS", 1)
    reward = {f"{__name__}:none": 0.5, "self_certainty": 1.0}
    trainer = make_trainer(model_folder, reward=reward, max_steps=2)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged[f"{__name__}:none_unscorable"] == 1 and logged["unscorable"] == 0


def test_columns_reach_reward_functions_that_take_them(model_folder):
    """By name as in TRL, also through the mixing of several rewards; gold only where a parameter is called that."""
    SEEN.clear()
    rows = [{"level": number, "answer": "x", "prompt": "not passed on"} for number in range(4)]
    problems = [replace(p, row=row) for p, row in zip(Lengths().load("train"), itertools.cycle(rows), strict=False)]
    reward = {"self_certainty": 1.0, f"{__name__}:saw": 0, f"{__name__}:by_level": 0.5}
    trainer = trained(model_folder, reward=reward, task=Lengths(), problems=problems, max_steps=1)
    level = {problem.text: problem.row["level"] for problem in problems}
    assert SEEN["level"] == [level[prompt] for prompt in SEEN["prompts"]] and set(SEEN["answer"]) == {"x"}
    assert not {"gold", "prompt", "problem"} & set(SEEN)
    by_level = [row.rewards[f"{__name__}:by_level"] for row in trainer.reward.scored]
    assert by_level == [level[row.prompt] for row in trainer.reward.scored]


def by_level(completions, level):
    return [float(value) for value in level]


def test_a_reward_of_weight_zero_may_score_nothing(model_folder):
    trainer = make_trainer(model_folder, reward={"self_certainty": 1.0, f"{__name__}:none": 0}, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0][f"{__name__}:none_unscorable"] == 1


class Mute(Lengths):
    name = "mute"

    def extract(self, completion):
        return None


def test_a_vote_without_any_answer_is_an_error(model_folder, monkeypatch):
    monkeypatch.setattr("rlif.engines.trl.rewards.UNSCORED_ROLLOUTS", 2)
    with pytest.raises(
        RewardError, match=r"plurality_vote could score none of the 8 .* task mute finds an answer in none"
    ):
        make_trainer(model_folder, reward={"plurality_vote": 1.0}, task=Mute()).train()


def test_three_fully_truncated_rollouts_in_a_row_are_an_error(model_folder):
    options = {"mask_truncated_completions": True, "max_completion_length": 2}
    make_trainer(model_folder, max_steps=2, **options).train()
    with pytest.raises(RewardError, match="all completions of 3 rollouts in a row were truncated"):
        make_trainer(model_folder, max_steps=3, **options).train()


def test_costly_statistics_are_not_computed_for_self_certainty(model_folder, monkeypatch):
    trainer = make_trainer(model_folder, max_steps=1)
    seen = []
    take = trainer.take_rollout
    monkeypatch.setattr(trainer, "take_rollout", lambda: seen.append(take()) or seen[-1])
    trainer.train()
    assert set(seen[0].fields) == {"mean_logprob"} and not set(COSTLY) & set(seen[0].fields)
    assert rlif.SIGNALS["self_certainty"]
