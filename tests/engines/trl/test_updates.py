"""Tests that updates through TRL equal gradient descent in float64, with which verl's are compared as well."""

from __future__ import annotations

import pytest
from support.models import tiny_model
from support.trainers import make_trainer
from support.updates import Descent

RATE, BETA, HEAT = 0.01, 0.2, 0.9


def test_two_updates_of_grpo_equal_gradient_descent_in_float64(model_folder):
    options = {"optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant", "beta": BETA, "max_steps": 2}
    options |= {"temperature": HEAT, "max_grad_norm": 1e9, "gradient_accumulation_steps": 1, "bf16": False}
    trainer = make_trainer(model_folder, "grpo", warmup_steps=0, **options)
    descent = Descent(tiny_model(), RATE, BETA, HEAT)
    trainer.train()
    assert len(trainer.rollouts) == 2
    for number, rollout in enumerate(trainer.rollouts):
        assert descent.difference(trainer.history[number]) < 1e-4  # as it was sampled from
        descent.step(rollout["scored"], rollout["advantages"])
    after = dict(trainer.model.named_parameters())
    assert descent.difference(after) < 1e-4
    assert descent.moved() > 3e-3
    assert descent.difference(trainer.history[0]) > 3e-3, "the comparison cannot tell updates apart"
    assert rollout["advantages"] != pytest.approx([0.0] * len(rollout["advantages"]))
