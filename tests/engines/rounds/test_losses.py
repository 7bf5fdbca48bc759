"""Tests the advantage-calibrated loss against float64, alone and in TRL's trainer."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from support.models import byte_tokenizer, tiny_model
from trl import DPOConfig

from rlif.engines.rounds.losses import CalibratedTrainer, calibrated_loss, rejected_factor
from rlif.engines.rounds.trainers import PairTrainer
from rlif.errors import RecipeError

ROWS = [
    {"prompt": "2 + 2?", "chosen": "4", "rejected": "five, I think", "chosen_value": -0.2, "rejected_value": -0.9},
    {"prompt": "Where?", "chosen": "under cup B", "rejected": "A", "chosen_value": -0.8, "rejected_value": -0.1},
    {"prompt": "Why?", "chosen": "because", "rejected": "so", "chosen_value": 0.4, "rejected_value": -1.1},
]
BETA, ALPHA = 0.3, 0.7
TOKENIZER = byte_tokenizer(chat=False)


def expected_loss(chosen, rejected, advantage_chosen, advantage_rejected, beta, alpha):
    """The formula of xufangzhi/Genius, aco_utils.py, in Python's floats."""
    factor = max(1.0, math.exp(-(advantage_rejected - advantage_chosen) / alpha))
    return math.log1p(math.exp(-beta * (chosen - factor * rejected)))  # -log sigmoid


@pytest.mark.parametrize("alpha", [0.7, 1.0, 4.0])
def test_the_loss_is_the_formula(alpha):
    generator = torch.Generator().manual_seed(1)
    chosen, rejected, better, worse = torch.randn(4, 50, generator=generator, dtype=torch.float64)
    found = calibrated_loss(chosen, rejected, rejected_factor(better, worse, alpha), 0.1)
    values = zip(*(each.tolist() for each in (chosen, rejected, better, worse)), strict=True)
    assert found.tolist() == pytest.approx([expected_loss(*each, 0.1, alpha) for each in values], rel=1e-12)


def test_the_factor_is_never_below_one():
    advantages = torch.tensor([1.0, 0.0, -3.0]), torch.tensor([0.0, 0.0, 2.0])
    assert rejected_factor(*advantages, alpha=2.0).tolist() == pytest.approx([math.exp(0.5), 1.0, 1.0])


def trainer_of(kind, folder, rows=ROWS, **changes):
    settings = {"beta": BETA, "per_device_train_batch_size": len(rows), "max_steps": 1, "learning_rate": 1e-2}
    common = {"report_to": "none", "use_cpu": True, "bf16": False, "logging_steps": 1, "save_strategy": "no"}
    config = DPOConfig(str(folder), gradient_checkpointing=False, **settings | common | changes)
    policy, reference = tiny_model(seed=3), tiny_model(seed=4)
    data = {"train_dataset": Dataset.from_list([encoded(row) for row in rows]), "processing_class": TOKENIZER}
    trainer = kind(model=policy, ref_model=reference, args=config, **data)
    trainer.method_options = {"alpha": ALPHA}
    return trainer


def encoded(row):
    """Returns a row as the data set has it: token ids, completions with their end."""
    ids = {f"{name}_ids": TOKENIZER(row[name])["input_ids"] for name in ("prompt", "chosen", "rejected")}
    ends = {name: [*ids[name], TOKENIZER.eos_token_id] for name in ("chosen_ids", "rejected_ids")}
    return ids | ends | {name: row[name] for name in ("chosen_value", "rejected_value")}


def log_probability(model, prompt, completion):
    """Sums a completion's log-probabilities over an unpadded row, in float64."""
    before = TOKENIZER(prompt)["input_ids"]
    ids = [*before, *TOKENIZER(completion)["input_ids"], TOKENIZER.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    return sum(logits[i - 1].log_softmax(-1)[ids[i]].item() for i in range(len(before), len(ids)))


def test_a_step_of_the_trainer_takes_the_loss_of_unpadded_rows(tmp_path):
    wanted, margins = [], []
    policy, reference = tiny_model(seed=3), tiny_model(seed=4)
    for row in ROWS:
        ratios = [
            log_probability(policy, row["prompt"], row[name]) - log_probability(reference, row["prompt"], row[name])
            for name in ("chosen", "rejected")
        ]
        wanted.append(expected_loss(*ratios, row["chosen_value"], row["rejected_value"], BETA, ALPHA))
        margins.append(BETA * (ratios[0] - ratios[1]))
    trainer = trainer_of(CalibratedTrainer, tmp_path)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(sum(wanted) / 3, rel=1e-4)
    assert logged["rewards/margins"] == pytest.approx(sum(margins) / 3, rel=1e-4)
    assert logged["rejected_factor"] == pytest.approx((math.exp(1) + 1 + math.exp(1.5 / 0.7)) / 3, rel=1e-5)


def test_with_equal_advantages_it_trains_as_dpo_does(tmp_path):
    """The same weights after three steps as TRL's own trainer with loss_type sigmoid."""
    rows = [row | {"chosen_value": 0.5, "rejected_value": 0.5} for row in ROWS]
    ours, theirs = (trainer_of(kind, tmp_path, rows, max_steps=3) for kind in (CalibratedTrainer, PairTrainer))
    before = ours.model.lm_head.weight.detach().clone()
    for trainer in (ours, theirs):
        trainer.train()
    assert not torch.allclose(before, ours.model.lm_head.weight, atol=1e-3)
    for name, weight in ours.model.named_parameters():
        torch.testing.assert_close(weight, theirs.model.get_parameter(name), atol=2e-5, rtol=0)


def test_another_loss_of_pairs_is_refused_beside_it(tmp_path):
    with pytest.raises(RecipeError, match="is itself a loss of pairs"):
        trainer_of(CalibratedTrainer, tmp_path, loss_type=["ipo"])
