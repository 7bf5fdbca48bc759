"""Tests recipes: those that ship, the paper's defaults, and one sentence for each mistake."""

from __future__ import annotations

import pytest

import rlif
from rlif.config.loading import check_recipe, load_recipe, shipped_recipes
from rlif.config.rounds import in_rounds
from rlif.engines.trl.setup import check_training
from rlif.training.prepare import check_names, check_settings


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_passes_the_checks(name):
    recipe = load_recipe(name)
    assert recipe.description
    check_names(recipe)
    if in_rounds(recipe):
        check_settings(recipe, 1)  # rounds run in one process
        return
    for processes in (1, 2):
        check_training(recipe, processes)


def test_a_recipe_with_only_a_reward_has_the_papers_settings():
    said = check_recipe({"reward": "self_certainty"})
    paper = load_recipe("intuitor-qwen2.5-3b-math")
    assert said.model == paper.model and said.task == paper.task
    assert said.resolved_training.items() <= paper.resolved_training.items()


def test_sections_without_values_are_accepted(tmp_path):
    (tmp_path / "r.yaml").write_text("training:\nlora:\nevaluate:\n")
    assert load_recipe(tmp_path / "r.yaml", ["training.learning_rate=1e-5"]).training == {"learning_rate": 1e-5}


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("# nothing yet\n")
    with pytest.raises(rlif.RlifError, match=r"r\.yaml is empty; a recipe is a mapping"):
        load_recipe(tmp_path / "r.yaml")


def test_overrides_set_keys_of_sections_and_are_read_as_yaml():
    recipe = load_recipe("demo", ["seed=3", "training.learning_rate=3e-6", "evaluate.tasks=[cups]", "name=x"])
    assert recipe.seed == 3 and recipe.training["learning_rate"] == 3e-6
    assert recipe.evaluate.tasks == ["cups"] and recipe.name == "x"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modl=x"], "unknown key 'modl' in the recipe; did you mean 'model'"),
        (["evaluate.task=clock"], r"unknown key 'evaluate.task'.*did you mean 'tasks'"),
        (["beta=0.1"], "unknown key 'beta' in the recipe; it is an option of TRL's: write training.beta"),
        (["output_dir=x"], "unknown key .output_dir.*; training.output_dir is set by rlif; use output and name"),
        (["seed=many"], "seed in the recipe: .*integer.*found 'many'"),
        (["confidence_window=0"], "confidence_window in the recipe: .*greater than or equal to 1, found 0"),
        (['columns={"\\n": null}'], r"columns\.'\\n' in the recipe: .*found None"),
        (["limit=0"], "limit in the recipe: .*greater than or equal to 1"),
        (["algorithm=ppoo"], "algorithm in the recipe: .*'grpo'.* or 'dpo'"),
        (["normalisation=zscore"], "normalisation in the recipe"),
        (["name=../outside"], "is not a folder name"),
        (["training.seed=1"], "training.seed is set by rlif; use seed instead"),
        (["training.scale_rewards=none"], "use normalisation instead"),
        (["training.save_strategy=epoch"], "training.save_strategy is 'epoch', .*; use steps, with .*, or no"),
        (["training.restore_callback_states_from_checkpoint=true"], "is set by rlif; leave it out: what the guard"),
        (["seed"], "overrides look like key=value"),
        (["seed.x=1"], "'seed' is a single value"),
        (["seed=[1"], "the value of seed is not YAML"),
        (["=1"], "overrides look like"),
        (["lora={r:8}"], "cannot read 'r:8' in 'lora=.*'; write a space after the colon"),
        (["columns={prompt:question}"], "cannot read 'prompt:question'"),
    ],
)
def test_mistakes_in_recipes_are_refused(overrides, message):
    with pytest.raises(rlif.RlifError, match=message):
        load_recipe("demo", [*([] if "seed.x=1" not in overrides else ["seed=1"]), *overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.num_generations=1"], "its advantage would always be zero; use 4 or more"),
        (
            ["problems_per_update=33", "training.num_generations=7"],
            "231 completions do not divide into batches of 64.*example training.per_device_train_batch_size=33",
        ),
        (["training.gradient_accumulation_steps=3"], "problems_per_update asks for 2"),
        (
            ["training.per_device_train_batch_size=12", "problems_per_update=3", "training.steps_per_generation=1"],
            "a generation batch of 12 completions does not divide into groups of 8",
        ),
    ],
)
def test_batches_that_do_not_divide_are_refused(overrides, message):
    with pytest.raises(rlif.RlifError, match=message):
        load_recipe("demo", overrides).accumulation(1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reward=self_certanty"], "unknown reward 'self_certanty'; did you mean 'self_certainty'"),
        (["task=clok"], "unknown task 'clok'; did you mean 'clock'"),
        (["prompt=boxd"], "unknown prompt 'boxd'; did you mean 'boxed'"),
        (["evaluate.tasks=[cup]"], "unknown task 'cup'; did you mean 'cups'"),
        (["prompt={user: Solve this}"], r"needs \{problem\}"),
        (["prompt={assistant: x}"], "the texts system, user and end"),
    ],
)
def test_unknown_names_are_refused(overrides, message):
    with pytest.raises(rlif.RlifError, match=message):
        check_names(load_recipe("demo", overrides))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "holds a list; a recipe is a mapping"),
        (b"model: [1\n", "is not YAML"),
        (b"a: 1\na: 2\n", "is not YAML"),
        (b"\xff\xfe", "cannot read"),
        (b"a: !!python/object:os.system {}\n", "is not YAML"),
        (b"training: 3\n", "training in the recipe"),
    ],
)
def test_unreadable_recipes_are_refused(tmp_path, content, message):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(rlif.RlifError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_unknown_recipes_are_refused():
    with pytest.raises(rlif.RlifError, match=r"no recipe file or shipped recipe is called 'dmo'; did you mean 'demo'"):
        load_recipe("dmo")


def test_the_default_normalisation_depends_on_the_algorithm():
    assert check_recipe({}).resolved_normalisation == "group_std"
    rloo = check_recipe({"algorithm": "rloo"})
    assert rloo.resolved_normalisation == "none" and "loss_type" not in rloo.resolved_training
    check_training(rloo, 1)


def test_a_pair_of_numbers_is_a_list_in_yaml():
    options = check_training(check_recipe({"algorithm": "rloo", "training": {"reward_clip_range": [0, 0.5]}}), 1)
    assert options["reward_clip_range"] == (0, 0.5)
    with pytest.raises(rlif.RlifError, match=r"training\.reward_clip_range in the recipe: "):
        check_training(check_recipe({"algorithm": "rloo", "training": {"reward_clip_range": [0, 1, 2]}}), 1)


def test_a_key_of_surrogate_characters_is_refused_in_one_sentence():
    with pytest.raises(rlif.RlifError, match="which is not text; write the characters themselves"):
        check_recipe({"reward": {"\ud800\udc00": None}})


@pytest.mark.parametrize("override", ["\n=\t", "a b=1", "=1", "seed"])
def test_an_override_without_a_key_is_refused_in_one_sentence(override):
    with pytest.raises(rlif.RlifError, match="overrides look like key=value") as refused:
        rlif.load_recipe("demo", [override])
    assert "\n" not in str(refused.value)


def test_derived_values_are_computed_once_and_again_for_a_changed_copy():
    recipe = check_recipe({"training": {"beta": 0.1}})
    plain = check_recipe({"training": {"beta": 0.1}})
    assert recipe.weights is recipe.weights and recipe.resolved_training is recipe.resolved_training
    assert recipe == plain and recipe.model_dump() == plain.model_dump()
    changed = recipe.model_copy(update={"reward": "accuracy", "algorithm": "rloo", "training": {"beta": 0.2}})
    assert list(changed.weights) == ["accuracy"] and changed.resolved_normalisation == "none"
    assert (changed.resolved_training["beta"], recipe.resolved_training["beta"]) == (0.2, 0.1)


def test_two_stages_are_not_shuffled_by_the_engine():
    assert "shuffle_dataset" not in load_recipe("demo").resolved_training
    assert load_recipe("demo-labelled-first").resolved_training["shuffle_dataset"] is False
    with pytest.raises(rlif.RlifError, match=r"order labelled_first is one of two stages, but training\.shuffle"):
        load_recipe("demo-labelled-first", ["training.shuffle_dataset=true"])
