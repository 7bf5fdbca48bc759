"""Tests the trainer inside TRL: advantages against float64, the number of passes, and known pitfalls."""

from __future__ import annotations

import math
from contextlib import nullcontext

import datasets
import pytest
import torch
from peft import LoraConfig
from support import oracle
from support.models import byte_tokenizer, tiny_model
from support.trainers import LORA, OPTIONS, PROMPTS, SEVERAL_ENDS, make_trainer, planned_path
from transformers import ProcessorMixin
from trl import GRPOConfig
from trl.trainer import utils

import rlif
from rlif.engines.trl import trainer as engine
from rlif.engines.trl.setup import check_training
from rlif.errors import RlifError
from rlif.rewards.mixing import Mixer
from rlif.trl import GRPOTrainer

DROPPING = LoraConfig(r=4, target_modules=["q_proj"], lora_alpha=64, lora_dropout=0.5, task_type="CAUSAL_LM")

# case: changes, path, no-grad policy rows and reference rows per completion
CASES = {
    "on policy": ({}, "decode", 0, 0),
    "temperature": ({"temperature": 0.7}, "decode", 0, 0),
    "top-k sampling": ({"top_k": 5}, "decode", 0, 0),
    "two iterations": ({"num_iterations": 2}, "policy", 1, 0),
    "steps per generation": ({"steps_per_generation": 4}, "policy", 1, 0),
    "beta": ({"beta": 0.04}, "decode", 0, 1),
    "beta, offline": ({"beta": 0.04, "annotator": "offline"}, "reference", 0, 1),
    "lora": ({"peft_config": LORA}, "decode", 0, 0),
    "lora, beta, offline": ({"peft_config": LORA, "beta": 0.04, "annotator": "offline"}, "reference", 1, 0),
    "dropout": ({"model": lambda: tiny_model(attention_dropout=0.3)}, "pass", 1, 0),
    "lora dropout": ({"peft_config": DROPPING}, "pass", 1, 0),
    "lora dropout, two iterations": ({"peft_config": DROPPING, "num_iterations": 2}, "pass", 2, 0),
    "lora dropout, beta, offline": ({"peft_config": DROPPING, "beta": 0.04, "annotator": "offline"}, "reference", 1, 0),
    "rloo": ({"algorithm": "rloo"}, "policy", 1, 0),
    "rloo, temperature": ({"algorithm": "rloo", "temperature": 1.4}, "policy", 1, 0),
}


@pytest.mark.daily(every=4)
@pytest.mark.parametrize("case", CASES)
def test_advantages_and_number_of_passes(case, model_folder):
    changes, path, policy_rows, reference_rows = CASES[case]
    assert "model" in changes or planned_path(**changes) == path
    changes = {key: value() if key == "model" else value for key, value in changes.items()}
    trainer = make_trainer(model_folder, **changes)
    trainer.train()
    group = trainer.num_generations
    rloo = changes.get("algorithm") == "rloo"  # its advantages are in nats, a tenth of the others' size
    normalise, tolerance = (oracle.leave_one_out, 1e-5) if rloo else (oracle.group_advantages, 1e-4)
    for rollout in trainer.rollouts:
        assert rollout["path"] == path
        assert rollout["advantages"] == pytest.approx(normalise(rollout["expected"], group), abs=tolerance)
        assert max(map(abs, rollout["advantages"])) > 100 * tolerance
    completions = sum(len(rollout["scored"]) for rollout in trainer.rollouts)
    assert trainer.rows["policy"] == policy_rows * completions
    assert trainer.rows["reference"] == reference_rows * completions
    logged = [log["extra_passes"] for log in trainer.state.log_history if "extra_passes" in log]
    assert logged and set(logged) == {1.0 if path == "pass" else 0.0}


def test_the_policy_changes_in_these_runs(model_folder):
    """Otherwise the tests above could not tell online from offline."""
    trainer = make_trainer(model_folder)
    trainer.train()
    assert not torch.equal(trainer.model.lm_head.weight, trainer.start.lm_head.weight)


def test_the_floor_of_the_deviation_is_used_in_training(model_folder):
    """Twice the initial spread exceeds the deviation of every group, so the floor is always the divisor."""
    mixer = Mixer(["self_certainty"], "group_std_floor", floor=2.0)
    trainer = make_trainer(model_folder, mixer=mixer)
    trainer.train()
    start = mixer.normalisers["self_certainty"].start_spread
    assert start
    for rollout in trainer.rollouts:
        expected = oracle.group_advantages(rollout["expected"], 4, 2.0 * start)
        assert rollout["advantages"] == pytest.approx(expected, abs=1e-4)


def test_masked_truncated_rows_are_unscorable(model_folder):
    """TRL zeroes their attention mask, so a tap on TRL's own pass reads garbage there."""
    trainer = make_trainer(model_folder, num_iterations=2, mask_truncated_completions=True, max_completion_length=24)
    head = trainer.model.lm_head.weight
    with torch.no_grad():  # make the end token so likely that some rows end and some do not
        head[1] = head.mean(0) * 0 + 0.6 * trainer.model.model.norm.weight.sign()
    trainer.train()
    truncated = [row.truncated for rollout in trainer.rollouts for row in rollout["scored"]]
    assert any(truncated) and not all(truncated)
    for rollout in trainer.rollouts:
        for start in range(0, len(rollout["scored"]), 4):
            rows = rollout["scored"][start : start + 4]
            kept = [i for i, row in enumerate(rows) if not row.truncated]
            found = rollout["advantages"][start : start + 4]
            assert all(found[i] == 0 for i in range(4) if i not in kept)
            assert all((row.reward is None) == row.truncated for row in rows)
            if len(kept) > 1:
                values = [rollout["expected"][start + i] for i in kept]
                assert [found[i] for i in kept] == pytest.approx(oracle.group_advantages(values, len(values)), abs=1e-4)


@pytest.mark.skipif(
    not hasattr(utils, "add_fused_lm_head"), reason="TRL before 1.15 computes masked rows too; install a newer one"
)
def test_statistics_of_masked_rows_taken_as_real_are_an_error(model_folder):
    """They give a negative divergence, which the signal refuses."""
    trainer = make_trainer(model_folder, num_iterations=2, mask_truncated_completions=True, max_completion_length=3)
    trainer.reward._truncated = lambda ids: False
    with pytest.raises(ArithmeticError, match="cannot be negative"):
        trainer.train()


def test_trls_evaluation_loop_does_not_change_the_run(model_folder):
    """It neither sets the floor nor leaves a rollout open."""
    trainer = make_trainer(
        model_folder, mixer=Mixer(["self_certainty"], "group_std_floor"), per_device_eval_batch_size=8
    )
    metrics = trainer.evaluate(trainer.train_dataset.select(range(4)))
    assert math.isfinite(metrics["eval_self_certainty"])
    assert set(trainer.reward.mixer.state().values()) == {None} and trainer.rollout is None


@pytest.mark.sweep
def test_the_initial_spread_is_restored_on_resume(tmp_path, model_folder):
    trainer = make_trainer(model_folder, output_dir=str(tmp_path), save_strategy="steps", save_steps=2)
    trainer.train()
    again = make_trainer(model_folder, output_dir=str(tmp_path))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.reward.mixer.state() == trainer.reward.mixer.state() and all(trainer.reward.mixer.state().values())
    assert again.rollouts[-1]["advantages"] == trainer.rollouts[-1]["advantages"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"scale_rewards": "batch"}, "scale_rewards='batch'"), ({"annotator": "offline"}, "training.beta above 0")],
)
def test_contradictory_options_are_refused(changes, message, model_folder):
    with pytest.raises(rlif.RlifError, match=message):
        make_trainer(model_folder, **changes)


def test_training_options_are_checked_by_trls_own_fields():
    recipe = rlif.load_recipe("demo")
    assert check_training(recipe, 1)["gradient_accumulation_steps"] == 2
    with pytest.raises(rlif.RlifError, match=r"'training.learning_rat'.*did you mean 'learning_rate'"):
        check_training(rlif.load_recipe("demo", ["training.learning_rat=1"]), 1)
    with pytest.raises(rlif.RlifError, match=r"training.learning_rate in the recipe.*found 'fast'"):
        check_training(rlif.load_recipe("demo", ["training.learning_rate=fast"]), 1)
    with pytest.raises(rlif.RlifError, match=r"training.num_generations in the recipe.*found '7'"):
        check_training(rlif.load_recipe("demo", ["training.num_generations='7'"]), 1)


def test_vllm_capture_is_refused_with_sharded_weights(model_folder, monkeypatch):
    """A process that missed a token would run a pass alone and wait forever for the others."""
    monkeypatch.setattr(engine, "in_shards", lambda accelerator: True)
    monkeypatch.setattr(engine, "with_capture_processor", nullcontext)  # vLLM may be missing here
    with pytest.raises(RlifError, match="needs whole weights on every process"):
        make_trainer(model_folder, vllm_capture=True)


@SEVERAL_ENDS
def test_each_end_of_the_models_list_ends_completions(model_folder):
    """As generation_config.json of many models has it: the end of a turn, and of the text."""
    model, ends = tiny_model(), [1, 40, 41, 42]
    model.generation_config.eos_token_id = ends
    trainer = make_trainer(model_folder, model=model, max_completion_length=40, temperature=1.5, max_steps=2)
    trainer.train()
    rows = [row for rollout in trainer.rollouts for row in rollout["scored"]]
    assert {row.completion_ids[-1] for row in rows if not row.truncated} - {1}
    for row in rows:
        *before, last = row.completion_ids
        assert not {*ends} & {*before} and row.truncated == (last not in ends)


class TextProcessor(ProcessorMixin):
    """A processor as models of text and images have one; it has no end token of its own, its tokenizer has."""

    def __init__(self, tokenizer=None, chat_template=None, **_):
        super().__init__(tokenizer, chat_template=chat_template)


@pytest.mark.parametrize("name", ["self_certainty", "plurality_vote"])
def test_models_with_a_processor_are_trained_on_text(name, tmp_path):
    model = tiny_model()
    model.config.image_token_id = 2  # TRL lets models with a processor sample no image
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[name, lambda completions, **_: [float(len(text)) for text in completions]],
        args=GRPOConfig(**{**OPTIONS, "output_dir": str(tmp_path), "max_steps": 1}),
        train_dataset=datasets.Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=TextProcessor(byte_tokenizer()),
    )
    trainer.train()
    assert trainer.ends == [byte_tokenizer().eos_token_id]
    assert f"rewards/{name}/mean" in trainer.state.log_history[-2]
