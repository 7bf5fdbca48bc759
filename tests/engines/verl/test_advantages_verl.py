"""Tests the trainer's advantages for each of verl's estimators against float64, with a stand-in for TransferQueue.

Six completions of two problems, of different lengths, with a synthetic row by which verl fills up a batch.
"""

from __future__ import annotations

import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from support.models import byte_tokenizer
from support.verl_environment import needs_verl

import rlif

pytestmark = needs_verl
V, GROUP, LENGTHS, PROMPT = 261, 3, [4, 2, 5, 3, 6, 2], 3
PLAIN = {"trainer.v1.trainer_mode": "rlif_sync", "actor_rollout_ref.rollout.name": "vllm"}
PLAIN |= {"actor_rollout_ref.rollout.n": GROUP, "actor_rollout_ref.actor.strategy": "fsdp2"}


class Batch(SimpleNamespace):
    """A batch as the trainer passes it on."""

    def __len__(self) -> int:
        return len(self.keys)


class Queue:
    """Keeps the columns of a batch by key, as TransferQueue does."""

    def __init__(self, rows: dict[str, dict]):
        self.rows = rows

    def kv_batch_get(self, keys, partition_id, select_fields=None):
        from verl.utils.tensordict_utils import list_of_dict_to_tensordict

        known = [name for name in select_fields if all(name in self.rows[key] for key in keys)]
        return list_of_dict_to_tensordict([{name: self.rows[key][name] for name in known} for key in keys])

    def kv_batch_put(self, keys, partition_id, fields):
        for name in fields.keys():  # noqa: SIM118  # a TensorDict
            for key, value in zip(keys, fields[name].unbind(), strict=True):
                self.rows[key][name] = value
        return Batch(keys=keys, partition_id=partition_id, tags=self.tags, extra_info={})


ORDER = (4, 0, 3, 1, 5, 2)  # as verl's balancing leaves completions


def made(monkeypatch, estimator: str, order=ORDER, step: int = 1, outputs: int = 1, recorder=None, **options):
    """Makes a trainer without workers over a batch in the queue; returns it, the batch and the log-probabilities."""
    from verl.trainer.ppo.v1 import trainer_base

    from rlif.engines.verl import trainer as ours
    from rlif.engines.verl.checks import check_config, compose
    from rlif.engines.verl.rewards import RolloutReward
    from rlif.engines.verl.settings import read_settings

    given = PLAIN | {"algorithm.adv_estimator": estimator, "+rlif.reward": "self_certainty"} | options
    config = compose(given)
    trainer = object.__new__(ours.InternalPPOTrainer)
    trainer.config, trainer.settings, trainer.recorder = config, read_settings(config), recorder
    check_config(config, trainer.settings.recipe)
    trainer.global_steps, trainer.vocabulary, trainer.use_critic = step, V, estimator == "gae"
    trainer.reward = RolloutReward(trainer.settings.recipe, trainer.settings.task, byte_tokenizer(), GROUP, [1])

    torch.manual_seed(5)
    rows, tags, logps = {}, [], []
    for number in [*order, None]:
        length = 1 if number is None else LENGTHS[number]
        logp = torch.log_softmax(torch.randn(PROMPT + length, V, dtype=torch.float64), -1)
        uid = "pad" if number is None else f"uid{number // GROUP}"
        rows[f"{uid}_{(number or 0) % GROUP}_{outputs - 1}"] = {
            "uid": uid,
            "prompts": torch.full((PROMPT,), 50),
            "responses": torch.tensor([60] * (length - 1) + [1]),
            "response_mask": torch.ones(length, dtype=torch.int64) * (number is not None),
            "raw_prompt": [{"role": "user", "content": f"problem {(number or 0) // GROUP}"}],
            "rm_scores": torch.zeros(length),
            "old_log_probs": torch.zeros(length),
            "rlif_mean_logprob": logp.mean(-1).float(),
            "values": torch.randn(length),
            "entropy": torch.rand(length),
            "ref_log_prob": torch.randn(length) / 10,
        }
        tags.append({"response_len": length, "is_padding": number is None})
        logps.append(logp)
    queue = Queue(rows)
    queue.tags = tags
    monkeypatch.setattr(trainer_base, "tq", queue)
    monkeypatch.setattr(ours, "tq", queue)
    batch = Batch(keys=list(rows), partition_id="train", tags=tags, extra_info={})
    metrics: dict[str, float] = {}
    trainer._compute_advantage(batch, metrics)
    return queue.rows, logps, metrics


def certainty(logp: torch.Tensor, length: int) -> list[float]:
    """Self-certainty of each completion token: that of the position before it."""
    return [-math.log(V) - row.mean().item() for row in logp[PROMPT - 1 : PROMPT - 1 + length]]


def scores(rows, logps) -> dict[str, float]:
    """The mean over tokens, by key, without the synthetic row."""
    pairs = zip(rows.items(), logps, strict=True)
    return {key: statistics.fmean(certainty(p, len(r["responses"]))) for (key, r), p in pairs if r["uid"] != "pad"}


def deviations(found: dict[str, float]) -> dict[str, float]:
    """What is left without the mean of the problem."""
    groups = {key[:4]: [v for other, v in found.items() if other[:4] == key[:4]] for key in found}
    return {key: value - statistics.fmean(groups[key[:4]]) for key, value in found.items()}


def scaled(found: dict[str, float]) -> dict[str, float]:
    """Deviations over the deviation of all, as `batch_deviation` does."""
    return {key: d / (statistics.stdev(found.values()) + 1e-4) for key, d in found.items()}


def whitened(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    """Numbers of all tokens with mean 0 and deviation 1."""
    every = [value for column in columns.values() for value in column]
    mean, variance = statistics.fmean(every), statistics.variance(every)
    return {key: [(v - mean) / math.sqrt(variance + 1e-8) for v in column] for key, column in columns.items()}


def check(rows, expected: dict[str, list[float]]) -> None:
    for key, column in expected.items():
        assert rows[key]["advantages"].tolist() == pytest.approx(column, abs=2e-5), key
    padding = next(row for row in rows.values() if row["uid"] == "pad")
    assert padding["rm_scores"].tolist() == [0.0]


def constant(rows, values: dict[str, float]) -> dict[str, list[float]]:
    return {key: [value] * len(rows[key]["responses"]) for key, value in values.items()}


def test_the_reward_is_the_mean_at_the_last_token(monkeypatch):
    rows, logps, metrics = made(monkeypatch, "grpo")
    expected = scores(rows, logps)
    for key, value in expected.items():
        assert rows[key]["rm_scores"].tolist() == pytest.approx([0.0] * (len(rows[key]["responses"]) - 1) + [value])
    assert metrics["self_certainty"] == pytest.approx(statistics.fmean(expected.values()))


def test_grpo_with_verls_own_deviation_and_with_ours(monkeypatch):
    ours = {"algorithm.norm_adv_by_std_in_grpo": False, "+rlif.normalisation": "group_std"}
    for options, epsilon in (({}, 1e-6), (ours, 1e-4)):
        rows, logps, _ = made(monkeypatch, "grpo", **options)
        found = scores(rows, logps)
        std = {uid: statistics.stdev([v for key, v in found.items() if key[:4] == uid]) for uid in ("uid0", "uid1")}
        check(rows, constant(rows, {key: d / (std[key[:4]] + epsilon) for key, d in deviations(found).items()}))


def test_dr_grpo_of_a_plain_command_line_divides_by_nothing(monkeypatch):
    rows, logps, _ = made(monkeypatch, "grpo", **{"algorithm.norm_adv_by_std_in_grpo": False})
    check(rows, constant(rows, deviations(scores(rows, logps))))


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_plus_plus_baseline"])
def test_a_completion_without_others_of_its_problem_has_no_advantage(monkeypatch, estimator):
    """Two of the second problem are lost. The third's whole reward would be its advantage."""
    rows, logps, _ = made(monkeypatch, estimator, order=(4, 0, 1, 2))
    found = deviations(scores(rows, logps))
    if estimator == "grpo":
        std = statistics.stdev([d for key, d in found.items() if key[:4] == "uid0"])
        found = {key: d / (std + 1e-6) for key, d in found.items()}
    elif estimator == "rloo":
        found = {key: d * GROUP / (GROUP - 1) for key, d in found.items()}
    else:
        found = scaled(found)
    expected = constant(rows, found)
    if estimator == "reinforce_plus_plus_baseline":
        expected = whitened(expected)
    expected["uid1_1_0"] = [0.0] * LENGTHS[4]
    check(rows, expected)


def test_weights_change_with_updates_as_with_trl(monkeypatch):
    """Three updates share a rollout, so the third rollout is sampled after six."""
    options = {"data.train_batch_size": 6, "actor_rollout_ref.actor.ppo_mini_batch_size": 2}
    options |= {"+rlif.reward": {"self_certainty": {"linear": [[0, 1.0], [12, 0.0]]}}}
    for step, expected in ((1, 1.0), (3, 0.5)):
        rows, logps, metrics = made(monkeypatch, "rloo", step=step, **options)
        found = {key: row["rm_scores"].sum().item() for key, row in rows.items() if row["uid"] != "pad"}
        plain = scores(rows, logps)
        assert found == pytest.approx({key: expected * value for key, value in plain.items()})
        assert metrics["self_certainty_weight"] == expected


def test_entropy_and_kl_are_means_over_the_tokens_of_a_rollout(monkeypatch):
    """Whatever the average of the loss: verl's own numbers are sums over a completion with rloo."""
    taken = []
    recorder = SimpleNamespace(take=lambda rows, step, **more: taken.append((rows, step, more)))
    options = {"actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum"}
    rows, _, _ = made(monkeypatch, "rloo", recorder=recorder, **options)
    real = [row for row in rows.values() if row["uid"] != "pad"]
    logs = [r for row in real for r in row["ref_log_prob"].tolist()]  # the policy's are 0
    (found, step, measured) = taken[0]
    assert step == 1 and len(found) == 6
    assert measured["entropy"] == pytest.approx(statistics.fmean(e for row in real for e in row["entropy"].tolist()))
    assert measured["kl"] == pytest.approx(statistics.fmean(math.exp(r) - 1 - r for r in logs), rel=1e-5)


def test_a_checkpoint_is_not_saved_twice_where_the_guard_stops(monkeypatch, tmp_path):
    """Both would count, and the older one, which is the same folder, be removed."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    from rlif.engines.verl.trainer import InternalPPOTrainer

    saved = []
    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", lambda self: saved.append(self.global_steps))
    trainer = object.__new__(InternalPPOTrainer)
    trainer.config = SimpleNamespace(trainer=SimpleNamespace(default_local_dir=str(tmp_path)))
    trainer.reward = SimpleNamespace(mixer=SimpleNamespace(state=dict))
    trainer.recorder, trainer.global_steps = None, 3
    trainer._save_checkpoint()
    trainer._stop()
    assert saved == [3] and trainer.total_training_steps == 3
    trainer.global_steps = 4
    trainer._stop()
    assert saved == [3, 4]


def test_an_agent_loop_of_several_outputs_is_refused(monkeypatch):
    with pytest.raises(rlif.RlifError, match="gave several outputs for one completion"):
        made(monkeypatch, "grpo", outputs=2)


def test_rloo_leaves_one_out(monkeypatch):
    rows, logps, _ = made(monkeypatch, "rloo")
    check(rows, constant(rows, {key: d * GROUP / (GROUP - 1) for key, d in deviations(scores(rows, logps)).items()}))


def test_reinforce_plus_plus_whitens_over_the_tokens_of_a_batch(monkeypatch):
    rows, logps, _ = made(monkeypatch, "reinforce_plus_plus_baseline")
    check(rows, whitened(constant(rows, scaled(deviations(scores(rows, logps))))))


@pytest.mark.parametrize(("token_reward", "lam"), [("terminal", 1.0), ("terminal", 0.9), ("spread", 0.9)])
def test_gae_with_rewards_at_the_end_or_at_each_token(monkeypatch, token_reward, lam):
    """delta_t = r_t + V_t+1 - V_t, A_t = delta_t + lambda A_t+1; whitened as verl does; returns are A + V."""
    options = {"algorithm.lam": lam, "+rlif.token_reward": token_reward}
    rows, logps, _ = made(monkeypatch, "gae", **options)
    plain = {}
    for (key, row), logp in zip(rows.items(), logps, strict=True):
        if row["uid"] == "pad":
            continue
        length, values = len(row["responses"]), row["values"].tolist()
        certainties = certainty(logp, length)
        given = [v / length for v in certainties]
        if token_reward == "terminal":
            given = [0.0] * (length - 1) + [statistics.fmean(certainties)]
        advantage, column = 0.0, []
        for t in reversed(range(length)):
            after = values[t + 1] if t + 1 < length else 0.0
            advantage = given[t] + after - values[t] + lam * advantage
            column.insert(0, advantage)
        plain[key] = column
        assert row["returns"].tolist() == pytest.approx([a + v for a, v in zip(column, values, strict=True)], abs=2e-5)
    check(rows, whitened(plain))


def test_an_unscored_completion_has_no_advantage_and_teaches_the_critic_nothing(monkeypatch):
    """A reward for problems with a gold answer, of which there are none, but for a signal of weight 1 beside it."""
    monkeypatch.setattr("rlif.engines.verl.rewards.UNSCORED_ROLLOUTS", 2)
    rows, _, metrics = made(monkeypatch, "gae", **{"+rlif.reward": "format"})
    assert metrics["unscorable"] == 0.0  # the format of every text is known
    rows, _, metrics = made(monkeypatch, "gae", **{"+rlif.reward": "accuracy"})
    assert metrics["unscorable"] == 1.0
    for row in rows.values():
        if row["uid"] != "pad":
            assert row["advantages"].tolist() == [0.0] * len(row["responses"])
            assert row["returns"].tolist() == row["values"].tolist()


def test_a_pass_without_statistics_is_named(monkeypatch):
    from rlif.engines.verl import trainer as ours

    monkeypatch.setattr(ours, "PREFIX", "other_")
    with pytest.raises(rlif.RlifError, match="gave no other_mean_logprob: its worker did not load rlif's engine"):
        made(monkeypatch, "grpo")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"+rlif.reward": None}, "needs a reward; add"),
        ({"+rlif.run": "runs/x"}, "rlif.run has a recipe, so rlif.reward has no effect"),
        ({"+rlif.rewards": "self_certainty"}, "unknown option rlif.rewards; did you mean 'reward'"),
        ({"algorithm.no_such_option": 1}, "verl refuses these options"),
        ({"algorithm.rollout_correction.bypass_mode": True}, "bypass_mode skips the pass"),
        ({"actor_rollout_ref.model.use_fused_kernels": True}, "use_fused_kernels never forms"),
        ({"+rlif.annotator": "offline"}, "annotator offline reads verl's reference pass"),
        ({"+rlif.normalisation": "group_std"}, "both scale rewards"),
    ],
)
def test_a_command_line_that_would_measure_nothing_is_refused(monkeypatch, options, sentence):
    with pytest.raises(rlif.RlifError, match=sentence):
        made(monkeypatch, "grpo", **options)


def test_shipped_recipes_become_options_that_verl_takes(tmp_path):
    from rlif.config.loading import load_recipe
    from rlif.engines.verl.checks import check_config, compose
    from rlif.engines.verl.options import Machines, flat, translate

    for variant in ("", "-ppo", "-reference"):
        recipe = load_recipe(f"intuitor-qwen2.5-3b-math-verl{variant}")
        options = translate(recipe, Machines(8), tmp_path)
        config = compose(options)
        check_config(config, recipe)
        for key, value in flat(options).items():
            target = config
            for part in key.lstrip("+").split("."):
                target = target[part]
            assert target == value or list(target) == value
