"""Tests that a recipe becomes verl's options, and that what verl cannot do is refused. Needs no verl."""

from __future__ import annotations

from pathlib import Path

import pytest

import rlif
from rlif.config.defaults import ALGORITHMS, ONLY_ON
from rlif.config.loading import check_recipe
from rlif.engines.verl.options import (
    FIXED,
    KEYS,
    NAMED,
    READ,
    Machines,
    check_recipe_for_verl,
    command,
    flat,
    translate,
    updates_per_rollout,
)

RUN = Path("/runs/x")
VERL = [name for name in ALGORITHMS if ONLY_ON.get(name, ("verl",))[0] == "verl"]


def options(gpus: int = 1, nodes: int = 1, **keys):
    keys = {"engine": "verl", "model": "some/model"} | keys
    return translate(check_recipe(keys), Machines(gpus, nodes), RUN)


def test_the_papers_setting_means_the_same_to_verl():
    """Every number of Table 7, under verl's name; what verl would do otherwise by default is switched off."""
    found = options(gpus=8)
    expected = {
        "actor_rollout_ref.actor.optim.lr": 3e-6,
        "actor_rollout_ref.actor.optim.lr_scheduler_type": "cosine",
        "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": 0.1,
        "actor_rollout_ref.actor.optim.weight_decay": 0.0,
        "actor_rollout_ref.actor.clip_ratio_low": 0.2,
        "actor_rollout_ref.actor.clip_ratio_high": 0.2,
        "actor_rollout_ref.actor.clip_ratio_c": 1e9,
        "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-mean",
        "actor_rollout_ref.actor.use_kl_loss": True,
        "actor_rollout_ref.actor.kl_loss_coef": 0.005,
        "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
        "actor_rollout_ref.rollout.n": 7,
        "actor_rollout_ref.rollout.temperature": 0.9,
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": False,
        "algorithm.use_kl_in_reward": False,
        "data.train_batch_size": 128,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 128,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 7,
        "data.max_prompt_length": 512,
        "data.max_response_length": 3072,
        "trainer.v1.trainer_mode": "rlif_sync",
        "trainer.n_gpus_per_node": 8,
        "trainer.save_freq": 10,
        "+rlif.run": "/runs/x",
    }
    assert {key: found[key] for key in expected} == expected


def test_null_means_what_it_means_to_trl():
    """No bound on the ratio, every checkpoint kept, and no other option than without it."""
    nulls = ("delta", "epsilon_high", "top_k", "save_total_limit", "vllm_max_model_length", "chat_template_kwargs")
    found, usual = options(training=dict.fromkeys(nulls)), options()
    assert found["actor_rollout_ref.actor.clip_ratio_c"] == 1e9
    kept = {key for key in usual if key.endswith("ckpt_to_keep")}
    assert {key: value for key, value in usual.items() if key not in kept} == found
    assert options(training={"use_cpu": None, "use_vllm": None}) == usual


@pytest.mark.parametrize(
    ("algorithm", "estimator", "average"),
    [
        ("grpo", "grpo", "seq-mean-token-mean"),
        ("dr_grpo", "grpo", "seq-mean-token-sum-norm"),
        ("dapo", "grpo", "token-mean"),
        ("gspo", "grpo", "seq-mean-token-mean"),
        ("rloo", "rloo", "seq-mean-token-sum"),
        ("reinforce_plus_plus", "reinforce_plus_plus_baseline", "token-mean"),
        ("ppo", "gae", "token-mean"),
    ],
)
def test_each_algorithm_has_its_estimator_and_its_average(algorithm, estimator, average):
    found = options(algorithm=algorithm)
    assert found["algorithm.adv_estimator"] == estimator
    assert found["actor_rollout_ref.actor.loss_agg_mode"] == average
    in_reward = algorithm in ("rloo", "ppo")
    assert found["algorithm.use_kl_in_reward"] == in_reward
    assert found["actor_rollout_ref.actor.use_kl_loss"] == (not in_reward)
    assert found.get("algorithm.kl_ctrl.kl_coef") == (0.005 if in_reward else None)
    assert ("critic.model.path" in found) == (algorithm == "ppo")
    assert ("actor_rollout_ref.actor.policy_loss.loss_mode" in found) == (algorithm == "gspo")
    assert found.get("actor_rollout_ref.actor.loss_scale_factor") == (3072 if algorithm == "dr_grpo" else None)


def test_every_algorithm_of_verls_is_in_the_table_above():
    assert {*VERL} == {"grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce_plus_plus", "ppo"}


def test_ppo_has_the_fields_defaults_which_the_recipe_may_change():
    found = options(algorithm="ppo")
    assert (found["algorithm.gamma"], found["algorithm.lam"]) == (1.0, 1.0)
    assert (found["critic.optim.lr"], found["critic.cliprange_value"]) == (1e-5, 0.5)
    changed = options(algorithm="ppo", verl={"algorithm": {"lam": 0.95}, "critic.optim.lr": 2e-5})
    assert (changed["algorithm.lam"], changed["critic.optim.lr"]) == (0.95, 2e-5)


def test_without_kl_there_is_no_reference_model():
    found = options(training={"beta": 0.0})
    assert not found["actor_rollout_ref.actor.use_kl_loss"] and not found["algorithm.use_kl_in_reward"]


def test_a_rollout_of_several_updates_is_one_step_of_verls():
    training = {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    training |= {"num_generations": 4, "save_steps": 4, "max_steps": 8, "num_iterations": 2}
    recipe = check_recipe({"engine": "verl", "model": "a/b", "problems_per_update": 2, "training": training})
    found = translate(recipe, Machines(1), RUN)
    assert updates_per_rollout(recipe, 1) == 4
    assert (found["data.train_batch_size"], found["actor_rollout_ref.actor.ppo_mini_batch_size"]) == (4, 2)
    assert (found["trainer.total_training_steps"], found["trainer.save_freq"]) == (2, 1)
    assert found["actor_rollout_ref.actor.ppo_epochs"] == 2


def test_without_bf16_the_model_computes_in_float32():
    """Verl's engine reads `mixed_precision`. Without that key it computes in bfloat16, whatever `dtype` says."""
    key = "+actor_rollout_ref.actor.fsdp_config.mixed_precision"
    assert key not in options() and options(training={"bf16": False})[key]["param_dtype"] == "fp32"
    assert "+critic.fsdp.mixed_precision" in options(algorithm="ppo", training={"bf16": False})


def test_warm_up_is_counted_in_rollouts_as_verl_changes_the_rate():
    optim = "actor_rollout_ref.actor.optim.lr_warmup_steps"
    assert options(training={"warmup_steps": 5})[optim] == 5
    two = {"warmup_steps": 5, "num_iterations": 2}
    assert options(training=two)[optim] == 3 and optim + "_ratio" not in options(training=two)


def test_without_checkpoints_the_trained_model_is_still_saved():
    """Where the frequency is above 0, verl saves after the last step."""
    assert options(training={"save_strategy": "no"})["trainer.save_freq"] == 10**9


def test_verls_options_may_not_contradict_a_part_of_a_nested_one():
    own = {"+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "bf16"}
    with pytest.raises(rlif.RlifError, match="is 'bf16', but the rest of the recipe says 'fp32'"):
        options(training={"bf16": False}, verl=own)


def test_two_stages_of_problems_are_not_shuffled():
    assert options(order="labelled_first", reward={"accuracy": 1})["data.shuffle"] is False
    assert options()["data.shuffle"] is True


REFUSED = [
    ({"revision": "main"}, "revision of the recipe does not work with engine verl"),
    ({"dtype": "float16"}, "dtype of the recipe does not work"),
    ({"chat": False}, "chat of the recipe does not work"),
    ({"merge_system": True}, "merge_system of the recipe does not work"),
    ({"allow_pickle": True}, "allow_pickle of the recipe does not work"),
    ({"annotator": "ema"}, "annotator of the recipe does not work"),
    ({"annotator_copy": True}, "annotator_copy of the recipe does not work"),
    ({"vllm_capture": True}, "vllm_capture of the recipe does not work"),
    ({"token_update": "kl_cov", "training": {"num_iterations": 2}}, "token_update of the recipe does not work"),
    ({"mask_answer": True}, "mask_answer of the recipe does not work"),
    ({"evaluate": {"tasks": ["math500"]}}, "evaluate.tasks of the recipe does not work"),
    ({"guard": {"policy": "rollback"}}, "guard.policy of the recipe does not work"),
    ({"annotator": "offline", "training": {"beta": 0.0}}, "annotator offline reads verl's reference pass"),
    ({"lora": {"r": 8, "use_dora": True}}, "lora.use_dora is an option of peft's"),
    ({"lora": {"r": 8}}, "lora.target_modules is missing, and verl adapts other modules"),
    ({"algorithm": "ppo", "training": {"loss_type": "dr_grpo"}}, "training.loss_type has no effect with engine verl"),
    ({"algorithm": "rloo", "training": {"loss_type": "dapo"}}, "training.loss_type has no effect with engine verl"),
    (
        {"algorithm": "ppo", "training": {"importance_sampling_level": "sequence"}},
        "training.importance_sampling_level has no effect with engine verl",
    ),
    ({"algorithm": "gspo", "training": {"delta": 2.0}}, "training.delta has no effect with engine verl"),
    ({"training": {"use_liger_kernel": True}}, "training.use_liger_kernel is an option of TRL's"),
    ({"training": {"use_vllm": False}}, "training.use_vllm is False, but engine verl always has True; set it to null"),
    ({"training": {"vllm_mode": "server"}}, "training.vllm_mode is 'server'"),
    ({"training": {"mask_truncated_completions": True}}, "mask_truncated_completions is True"),
    ({"training": {"logging_steps": 5}}, "training.logging_steps is 5"),
    ({"training": {"use_cpu": True}}, "engine verl does not have; set it to null"),
    ({"training": {"max_steps": None}}, "training.max_steps is null, which engine verl does not read; give a value."),
    ({"training": {"bf16": None}}, "training.bf16 is null"),
    ({"training": {"loss_type": "cispo"}}, "training.loss_type is 'cispo'; engine verl has grpo, dr_grpo, dapo"),
    ({"training": {"lr_scheduler_type": "linear"}}, "training.lr_scheduler_type is 'linear'"),
    ({"training": {"num_train_epochs": 0.5}}, "num_train_epochs is 0.5; engine verl takes whole epochs"),
    ({"training": {"num_iterations": 3}}, "training.save_steps is 10; 3 updates share a rollout"),
    ({"verl": {"algorithm.adv_estimator": "gae"}}, "verl.algorithm.adv_estimator is 'gae', but the rest"),
]


@pytest.mark.parametrize(("keys", "sentence"), REFUSED, ids=[sentence[:40] for _, sentence in REFUSED])
def test_what_verl_cannot_do_is_refused_in_a_sentence(keys, sentence):
    with pytest.raises(rlif.RlifError) as error:
        options(**keys)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_every_refusal_of_a_key_is_tested():
    assert {*KEYS} <= {sentence.split()[0] for _, sentence in REFUSED}


def test_a_part_of_an_update_cannot_wait_for_the_next_rollout():
    training = {"num_generations": 4, "per_device_train_batch_size": 4, "steps_per_generation": 1}
    with pytest.raises(rlif.RlifError, match=r"a rollout of 1 problems .* does not divide into updates of 2"):
        options(problems_per_update=2, training=training)


def test_options_of_training_are_named_once():
    assert not READ & NAMED.keys() and not READ & FIXED.keys() and not NAMED.keys() & FIXED.keys()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"algorithm": "ppo"}, "algorithm ppo needs a critic, which TRL's trainers do not have; set engine verl"),
        ({"algorithm": "bnpo", "engine": "verl"}, "algorithm bnpo averages over a micro-batch.*set engine trl"),
        ({"algorithm": "reinforce", "engine": "verl"}, "reinforce_plus_plus is the nearest; set engine trl"),
        ({"verl": {"a": 1}}, "verl gives options of the engine verl, and engine is trl"),
        ({"algorithm": "ppo", "engine": "verl", "token_reward": "sum"}, "would pay for length"),
        ({"token_reward": "spread"}, "token_reward spread is for ppo"),
        (
            {"algorithm": "ppo", "engine": "verl", "token_reward": "spread", "reward": "likelihood_sum"},
            "takes one reward that is a mean over tokens",
        ),
        (
            {"algorithm": "ppo", "engine": "verl", "token_reward": "spread", "normalisation": "group_std"},
            "normalisation group_std scales it",
        ),
    ],
)
def test_a_recipe_that_no_engine_can_run_is_refused(keys, sentence):
    with pytest.raises(rlif.RlifError, match=sentence):
        check_recipe(keys)


def test_ppo_needs_no_group():
    training = {"num_generations": 1, "per_device_train_batch_size": 2}
    keys = {"engine": "verl", "model": "a/b", "problems_per_update": 4, "training": training}
    assert check_recipe_for_verl(check_recipe(keys | {"algorithm": "ppo"}), 2)["gradient_accumulation_steps"] == 1
    with pytest.raises(rlif.RlifError, match="its advantage would always be zero"):
        check_recipe_for_verl(check_recipe(keys), 2)


def test_adapters_take_pefts_defaults():
    found = options(lora={"r": 16, "target_modules": ["q_proj"]})
    names = {name: found[f"actor_rollout_ref.model.{name}"] for name in ("lora_rank", "lora_alpha", "target_modules")}
    assert names == {"lora_rank": 16, "lora_alpha": 8, "target_modules": ["q_proj"]}
    contents = "actor_rollout_ref.actor.checkpoint.save_contents"
    assert "hf_model" not in found[contents] and "hf_model" in options()[contents]


def test_an_adapter_is_refused_as_the_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(rlif.RlifError, match="is an adapter, which engine verl does not train on"):
        options(model=str(tmp_path))


def test_words_of_the_command_line():
    values = {"a": None, "b": True, "c": [1, "x y"], "d": {"k": 0.5}, "e": "it's", "f": 1e-5, "g": "plain-word_1"}
    values |= {"h": "12", "i": "true", "j": "1e5"}
    assert command(values) == [
        "a=null",
        "b=True",
        "c=[1,'x y']",
        "d={k:0.5}",
        r"e='it\'s'",
        "f=1e-05",
        "g=plain-word_1",
        "h='12'",
        "i='true'",
        "j='1e5'",
    ]
    assert flat({"a": {"b": {"c": 1}}, "d.e": 2, "f": {}}) == {"a.b.c": 1, "d.e": 2, "f": {}}
