"""Tests the keys `rounds` and `online` of a recipe."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

import rlif
from rlif.config.about import method
from rlif.config.loading import check_recipe
from rlif.config.rounds import check_option_names, feedback_of, in_rounds, online_recipe, options_of
from rlif.config.steps import Most, plan_rounds
from rlif.errors import DataError, RecipeError
from rlif.exporting.card import _labels


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"algorithm": "sft"}, "algorithm sft trains in rounds; say how they choose"),
        ({"rounds": {}}, "rounds is for algorithm sft or dpo, not grpo; leave it out."),
        ({"online": {}}, "online is for algorithm sft or dpo, not grpo; leave it out."),
        ({"algorithm": "dpo", "rounds": {}}, "set rounds.reference to base, the model of the start, or last"),
        ({"algorithm": "sft", "rounds": {"reference": "base"}}, "rounds.reference is for algorithm dpo, not sft"),
        ({"algorithm": "sft", "rounds": {"against": "random"}}, "rounds.against is for algorithm dpo, not sft"),
        ({"algorithm": "dpo", "rounds": {"reference": "base", "keep": 2}}, "rounds.keep is for algorithm sft, not dpo"),
        ({"algorithm": "sft", "rounds": {"rationalise": True}}, "adds right answers for choose: gold, not for choose"),
        ({"algorithm": "sft", "rounds": {"choice": "gold"}}, "unknown key 'rounds.choice' in the recipe"),
        ({"algorithm": "sft", "rounds": {}, "order": "labelled_first"}, "order is for online training"),
        ({"algorithm": "sft", "rounds": {}, "annotator": "ema"}, "annotator is for online training"),
        ({"algorithm": "sft", "rounds": {}, "guard": {"policy": "rollback"}}, "guard.policy rollback is for online"),
        (
            {"algorithm": "sft", "rounds": {}, "training": {"use_vllm": True}},
            "training.use_vllm is for online training",
        ),
        (
            {"algorithm": "sft", "rounds": {"samples": 4}, "training": {"num_generations": 8}},
            "rounds.samples is 4 and training.num_generations 8, which mean the same",
        ),
        (
            {"algorithm": "sft", "rounds": {}, "reward": {"length": {"linear": [[0, 1.0], [9, 0.5]]}}},
            "a reward has a schedule, which counts steps of online training",
        ),
        (
            {"algorithm": "dpo", "rounds": {"reference": "base"}, "training": {"loss_type": ["ipo"]}},
            "training.loss_type is set by rounds.loss",
        ),
    ],
)
def test_contradictions_are_one_sentence(values, sentence):
    with pytest.raises(RecipeError) as error:
        check_recipe(values)
    assert sentence in str(error.value) and str(error.value).count(". ") == 0


@pytest.mark.parametrize(
    ("recipe", "learns_from"),
    [
        ("best-of-n-sft", ["self_certainty"]),
        ("dpo-rlif", ["self_certainty"]),
        ("star", ["gold answers"]),
        ("star-plurality", ["plurality vote"]),
        ("spin", ["given answers"]),
        ("self-rewarding", ["its own judgements"]),
        ("genius", ["foresight"]),
        ("absolute-zero-deduction", ["outputs of programs"]),
        ("hybrid", ["self_certainty"]),
        ("demo", ["self_certainty"]),
    ],
)
def test_what_a_run_learns_from_is_named(recipe, learns_from):
    assert feedback_of(rlif.load_recipe(recipe)) == learns_from
    assert method(rlif.load_recipe(recipe)) == learns_from[0]


@pytest.mark.parametrize(
    ("recipe", "overrides", "learns_from", "labels"),
    [
        ("hybrid", ["rounds.choose=gold"], ["gold answers", "self_certainty"], "chosen"),
        ("hybrid", ["online.reward=accuracy"], ["self_certainty", "accuracy"], "rewarded"),
        ("best-of-n-sft", ["reward=accuracy"], ["accuracy"], "rewarded"),
        ("best-of-n-sft", ["rounds.choose=borda", "reward=length"], ["Borda vote by self-certainty"], "none"),
        ("star-plurality", ["reward=accuracy"], ["plurality vote"], "logged"),
    ],
)
def test_rewards_of_all_phases_count_where_they_choose_or_train(recipe, overrides, learns_from, labels):
    settings = rlif.load_recipe(recipe, overrides)
    assert feedback_of(settings) == learns_from
    assert _labels(SimpleNamespace(recipe=lambda: settings, fingerprint=dict)) == labels


def test_a_card_says_that_gold_or_given_answers_chose():
    names = ("star", "spin", "star-plurality", "best-of-n-sft")
    runs = {name: SimpleNamespace(recipe=partial(rlif.load_recipe, name), fingerprint=dict) for name in names}
    found = {name: _labels(run) for name, run in runs.items()}
    assert found == {"star": "chosen", "spin": "chosen", "star-plurality": "none", "best-of-n-sft": "none"}


def test_a_written_recipe_is_read_again():
    recipe = check_recipe({"algorithm": "dpo", "rounds": {"samples": 4, "reference": "last"}})
    again = check_recipe(recipe.written_out())
    assert again.written_out() == recipe.written_out() and in_rounds(again)
    assert again.resolved_training["num_generations"] == 4 and again.resolved_training["beta"] == 0.1


def test_sections_of_a_base_are_merged(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: best-of-n-sft\nrounds: {choose: borda}\n")
    recipe = rlif.load_recipe(path)
    assert recipe.rounds is not None and recipe.rounds.choose == "borda" and recipe.rounds.samples == 8


def test_rows_of_an_update_set_the_accumulation():
    recipe = check_recipe({"algorithm": "sft", "rounds": {}, "problems_per_update": 24})
    assert recipe.accumulation(1) == 3
    with pytest.raises(RecipeError, match="run in one process, not 2"):
        recipe.accumulation(2)
    with pytest.raises(RecipeError, match="does not divide into batches"):
        check_recipe({"algorithm": "sft", "rounds": {}, "problems_per_update": 12}).accumulation(1)


def test_the_plan_counts_the_most_steps():
    values = {"algorithm": "sft", "rounds": {"number": 3, "problems": 50, "samples": 4, "keep": 2}}
    recipe = check_recipe({**values, "problems_per_update": 16, "training": {"num_train_epochs": 2}})
    plan = plan_rounds(recipe, 200, Most(2, 4, 12))
    assert (plan.steps, plan.completions, plan.tokens) == (3 * 2 * 7, 600, 1800)  # 100 rows: 13 batches of 8, 7 updates
    mixed = check_recipe({**values, "rounds": values["rounds"] | {"mix": True}, "problems_per_update": 16})
    assert plan_rounds(mixed, 200, Most(2, 4, 12)).steps == 7 + 2 * 13  # 200 rows from the second round on
    with pytest.raises(DataError, match=r"rounds.problems is 50, and there are 49"):
        plan_rounds(recipe, 49, Most(2, 4, 12))


def test_online_training_takes_over_how_completions_are_sampled():
    recipe = check_recipe(
        {
            "algorithm": "sft",
            "reward": "likelihood",
            "rounds": {"samples": 5},
            "online": {"problems_per_update": 4, "training": {"max_steps": 3, "learning_rate": 1e-6}},
            "training": {"temperature": 0.7, "max_completion_length": 9, "learning_rate": 1.0, "use_cpu": True},
        }
    )
    online = online_recipe(recipe)
    assert online is not None and online.rounds is None and online.algorithm == "grpo" and online.reward == "likelihood"
    training = online.resolved_training
    assert training["num_generations"] == 5 and training["temperature"] == 0.7 and training["use_cpu"]
    assert training["learning_rate"] == 1e-6 and training["beta"] == 0.005 and training["max_completion_length"] == 9
    assert online_recipe(check_recipe({"algorithm": "sft", "rounds": {}})) is None


def test_numbers_of_a_method_are_checked():
    recipe = check_recipe({"algorithm": "sft", "rounds": {"options": {"beams": 3, "alpha": 2}}})
    found = options_of(recipe, {"beams": 2, "alpha": 1.0, "hint": ""})
    assert found == {"beams": 3, "alpha": 2.0, "hint": ""} and isinstance(found["alpha"], float)
    assert options_of(recipe, {"alpha": 1.0}) == {"alpha": 2.0}  # those of another part are left to it
    check_option_names(recipe, {"alpha": 1.0, "beams": 2})
    with pytest.raises(RecipeError, match=r"unknown key 'rounds.options.beams'; there are alpha"):
        check_option_names(recipe, {"alpha": 1.0})
    with pytest.raises(RecipeError, match=r"rounds.options.beams is 3; expected str"):
        options_of(recipe, {"beams": "", "alpha": 1.0})
