"""Tests the number of steps that is computed before a run starts."""

from __future__ import annotations

import inspect

import pytest
from support.models import byte_tokenizer

import rlif
from rlif.config.loading import check_recipe
from rlif.config.steps import plan_steps
from rlif.engines.trl.setup import build_trainer, check_training


def test_the_papers_run_has_58_steps():
    plan = plan_steps(check_recipe({}), problems=7500, processes=8)
    assert plan.steps == 58 and plan.completions == 58 * 896 and plan.tokens == 58 * 896 * 3072


def test_iterations_multiply_steps_but_not_completions():
    recipe = check_recipe({"training": {"num_iterations": 2}})
    plan = plan_steps(recipe, problems=7500, processes=1)
    assert plan.steps == 116 and plan.completions == 58 * 896


@pytest.mark.daily(every=4)
@pytest.mark.parametrize("epochs", [0.4, 1, 1.5, 2])
@pytest.mark.parametrize("options", [{}, {"steps_per_generation": 1}, {"num_iterations": 2}, {"max_steps": 5}])
def test_the_engine_counts_the_same_steps(epochs, options, model_folder, tmp_path):
    settings = {"num_generations": 2, "per_device_train_batch_size": 2, "num_train_epochs": epochs, "use_cpu": True}
    recipe = check_recipe(
        {"model": str(model_folder), "problems_per_update": 2, "training": settings | options | {"save_steps": 2}}
    )
    for problems in (2, 3, 7):
        trainer = build_trainer(recipe, check_training(recipe, 1), ["?"] * problems, byte_tokenizer(), str(tmp_path))
        values = trainer.set_initial_training_values
        more = [8] * (len(inspect.signature(values).parameters) - 2)  # the rows of a step, in older transformers
        loop = values(trainer.args, trainer.get_train_dataloader(), *more)
        assert plan_steps(recipe, problems, processes=1).steps == loop[-1]


def test_completions_of_partial_epochs_are_counted():
    def completions(problems, **training):
        options = {"num_generations": 2, "per_device_train_batch_size": 2} | training
        return plan_steps(check_recipe({"problems_per_update": 2, "training": options}), problems, 1).completions

    assert completions(6, num_train_epochs=1.5) == 5 * 4
    assert completions(3, num_train_epochs=2, steps_per_generation=1) == 6 * 2
    assert completions(3, max_steps=3, steps_per_generation=1) == 5 * 2


def test_updates_that_end_within_a_rollout_are_refused():
    options = {"num_generations": 2, "per_device_train_batch_size": 2, "steps_per_generation": 3}
    with pytest.raises(rlif.RlifError, match=r"used for 3 batches .* an update takes 2, so no checkpoint could lie"):
        plan_steps(check_recipe({"problems_per_update": 2, "training": options}), problems=6, processes=1)


def test_too_few_problems_for_a_rollout_are_refused():
    with pytest.raises(rlif.RlifError, match="100 problems are too few for one rollout of 128"):
        plan_steps(check_recipe({}), problems=100, processes=1)


@pytest.mark.parametrize("options", [{"max_steps": 0}, {"num_train_epochs": 0}])
def test_a_run_without_steps_is_refused(options):
    with pytest.raises(rlif.RlifError, match="there is no step to take; give max_steps from 1"):
        plan_steps(check_recipe({"training": options}), problems=7500, processes=8)


def test_steps_without_a_reward_are_refused():
    ends = check_recipe({"reward": {"self_certainty": {"linear": [[0, 1], [50, 0]]}}})
    with pytest.raises(rlif.RlifError, match="from step 50 on every reward weighs 0"):
        plan_steps(ends, problems=7500, processes=1)
    assert plan_steps(ends, problems=128 * 50, processes=1).steps == 50
