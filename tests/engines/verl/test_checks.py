"""Tests that a configuration of verl's in which nothing would be measured is refused. Needs no verl."""

from __future__ import annotations

from typing import Any

import pytest

import rlif
from rlif.config.loading import check_recipe
from rlif.engines.verl import checks
from rlif.engines.verl.settings import ESTIMATORS, Settings, algorithm_of


class Section(dict):
    """Options that are read as attributes and as keys, as verl's are."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def config(**changes: Any) -> Section:
    """Verl's defaults, as far as they are checked, with changes by dotted name."""
    found = Section(
        algorithm=Section(
            adv_estimator="grpo",
            norm_adv_by_std_in_grpo=False,
            use_kl_in_reward=False,
            rollout_correction=Section(bypass_mode=False),
            filter_groups=Section(enable=False),
        ),
        actor_rollout_ref=Section(
            actor=Section(strategy="fsdp2", use_fused_kernels=False, use_prefix_grouper=False, use_kl_loss=True),
            model=Section(use_fused_kernels=False),
            rollout=Section(n=7),
        ),
        reward=Section(reward_model=Section(enable=False)),
    )
    for name, value in changes.items():
        *parents, last = name.split("__")
        target: Any = found
        for parent in parents:
            target = target[parent]
        target[last] = value
    return found


def recipe(**keys: Any):
    return check_recipe({"engine": "verl", "model": "a/b"} | keys)


def test_verls_defaults_with_fsdp2_are_taken():
    checks.check_config(config(), recipe())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"algorithm__rollout_correction": Section(bypass_mode=True)}, "bypass_mode skips the pass"),
        ({"actor_rollout_ref__model__use_fused_kernels": True}, "use_fused_kernels never forms the logits"),
        ({"actor_rollout_ref__actor__use_fused_kernels": True}, "use_fused_kernels never forms the logits"),
        ({"actor_rollout_ref__actor__strategy": "megatron"}, "strategy=megatron is an engine that rlif does not read"),
        ({"actor_rollout_ref__actor__use_prefix_grouper": True}, "use_prefix_grouper"),
        ({"actor_rollout_ref__rollout__full_determinism": True}, "samples all completions of a problem by one seed"),
        ({"actor_rollout_ref__rollout__n": 1}, "rollout.n is 1, .* its advantage would always be zero"),
        ({"algorithm__filter_groups": Section(enable=True)}, "filter_groups drops groups"),
        ({"reward__reward_model": Section(enable=True)}, "reward.reward_model gives scores"),
        ({"algorithm__norm_adv_by_std_in_grpo": True}, "both scale rewards"),
        ({"algorithm__adv_estimator": "reinforce_plus_plus"}, "use reinforce_plus_plus_baseline"),
        ({"algorithm__adv_estimator": "remax"}, "is not one that rlif was tested with"),
    ],
)
def test_a_configuration_without_rewards_is_refused(changes, sentence):
    with pytest.raises(rlif.RlifError, match=sentence) as error:
        checks.check_config(config(**changes), recipe())
    assert "\n" not in str(error.value)


def test_the_annotator_must_have_a_pass():
    without = {"actor_rollout_ref__actor__use_kl_loss": False}
    with pytest.raises(rlif.RlifError, match="annotator offline reads verl's reference pass, and there is none"):
        checks.check_config(config(**without), recipe(annotator="offline"))
    checks.check_config(config(**without, algorithm__use_kl_in_reward=True), recipe(annotator="offline"))
    with pytest.raises(rlif.RlifError, match="annotator ema keeps a copy"):
        checks.check_config(config(), recipe(annotator="ema"))


def test_rewards_for_tokens_need_a_critic():
    spread = recipe(algorithm="ppo", token_reward="spread")
    with pytest.raises(rlif.RlifError, match="token_reward=spread needs a critic"):
        checks.check_config(config(), spread)
    checks.check_config(config(algorithm__adv_estimator="gae", actor_rollout_ref__rollout__n=1), spread)


def test_every_estimator_has_its_algorithm():
    found = {name: algorithm_of(config(algorithm__adv_estimator=name)) for name in ESTIMATORS}
    assert found == {
        "grpo": "grpo",
        "rloo": "rloo",
        "gae": "ppo",
        "reinforce_plus_plus_baseline": "reinforce_plus_plus",
    }


def test_another_verl_is_refused(monkeypatch):
    monkeypatch.setattr(checks, "is_installed", lambda: False)
    with pytest.raises(rlif.RlifError, match=r"needs verl 0\.9\.\*, which is not installed here"):
        checks.check_version()
    monkeypatch.setattr(checks, "is_installed", lambda: True)
    monkeypatch.setattr(checks, "version", lambda name: "0.10.2")
    with pytest.raises(rlif.RlifError, match=r"private names of verl 0\.9\.\*, found 0\.10\.2"):
        checks.check_version()
    monkeypatch.setattr(checks, "version", lambda name: "0.9.1")
    checks.check_version()


def test_a_worker_without_the_engine_is_named():
    assert "did not load rlif's engine" in str(checks.no_field("rlif_mean_logprob"))


def test_a_plain_row_of_verls_has_its_truth_as_gold():
    prompt = [{"role": "user", "content": "2 + 2?"}]
    assert Settings.problem(3, prompt, {"ground_truth": 4}).golds == ("4",)
    assert Settings.problem(3, prompt, {"ground_truth": ""}).gold is None
    assert Settings.problem(3, prompt, None).text == "2 + 2?"
