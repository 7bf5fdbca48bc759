"""Tests what a recipe inherits from its base, and mistakes in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rlif
from rlif.config.about import About, read_about
from rlif.config.inheritance import keys_of, merged
from rlif.config.loading import load_recipe, shipped_recipes
from rlif.runs.folder import Run

PAGE = (Path(__file__).parents[2] / "docs/recipes.md").read_text()


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_recipe_inherits_all_values_it_does_not_give(tmp_path):
    write(tmp_path, mine="base: intuitor-qwen2.5-7b-math\nreward: plurality_vote\ntraining: {beta: 0.02}\n")
    base, mine = load_recipe("intuitor-qwen2.5-7b-math"), load_recipe(tmp_path / "mine.yaml")
    assert (mine.reward, mine.training["beta"], mine.description) == ("plurality_vote", 0.02, "")
    changed = {"reward": mine.reward, "training": base.training | {"beta": 0.02}, "description": ""}
    assert mine == base.model_copy(update=changed)


def test_overrides_win_over_recipe_and_base(tmp_path):
    write(tmp_path, mine="base: demo\ntraining: {beta: 0.02}\n")
    assert load_recipe(tmp_path / "mine.yaml", ["training.beta=0.5"]).training["beta"] == 0.5


def test_sections_are_merged_one_level_deep_and_the_rest_is_replaced():
    base = {"evaluate": {"tasks": ["clock"], "sources": {"clock": "a"}}, "reward": {"random": 1}, "lora": {"r": 4}}
    over = {"evaluate": {"sources": {"cups": "b"}}, "reward": {"format": 1}, "lora": None}
    assert merged([base, over]) == {
        "evaluate": {"tasks": ["clock"], "sources": {"cups": "b"}},
        "reward": {"format": 1},
        "lora": None,
    }
    assert base["evaluate"]["sources"] == {"clock": "a"}, "a base is not changed by what is built on it"


def test_description_name_and_about_are_not_inherited():
    base = {"description": "the base", "name": "base", "about": {"reproduces": "Table 1"}, "seed": 3}
    assert merged([base, {"base": "base"}]) == {"seed": 3}
    assert merged([base]) == {"description": "the base", "name": "base", "seed": 3}


def test_bases_can_have_bases_in_files_beside_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    write(tmp_path, a="seed: 1\nlimit: 100\n")
    write(tmp_path / "inner", b="base: ../a.yaml\nseed: 2\n", c="base: b.yaml\ntask: cups\n")
    monkeypatch.chdir(tmp_path.parent)
    found = load_recipe(tmp_path / "inner/c.yaml")
    assert (found.seed, found.limit, found.task) == (2, 100, "cups")


def test_a_shipped_recipe_wins_over_a_file_of_the_same_name(tmp_path, monkeypatch):
    (tmp_path / "demo").write_text("seed: 99\n")
    write(tmp_path, mine="base: demo\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.yaml").seed == 0 and load_recipe("mine.yaml").task == "clock"


def test_the_run_folder_keeps_the_merged_recipe(tmp_path):
    write(tmp_path, a="base: demo\nseed: 1\nabout: {reproduces: nothing}\n", b="base: a.yaml\ndescription: b\n")
    started = load_recipe(tmp_path / "b.yaml", [f"output={tmp_path}"])
    run = Run.create(started, "b")
    written = (run.path / "recipe.yaml").read_text()
    assert "base:" not in written and "about:" not in written
    (tmp_path / "a.yaml").write_text("seed: 5\n")
    assert run.recipe().seed == 1 and run.recipe().description == "b"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "base: b.yaml\n", "b": "base: a.yaml\n"}, r"cannot be their own base: a -> b -> a\.$"),
        ({"a": "base: a.yaml\n"}, r"cannot be their own base: a -> a\.$"),
        (
            {"a": "base: dmo\n"},
            r"'dmo', which does not ship; did you mean 'demo' or .*'demo-long'\? `rlif recipes` lists all \d+\.$",
        ),
        ({"a": "base: nowhere.yaml\n"}, r"names nowhere.yaml, and there is no such file beside it\.$"),
        ({"a": "base: [demo, other]\n"}, r"is \['demo', 'other'\]; it is the name of one recipe\.$"),
        ({"a": "base: b.yaml\n", "b": "- 1\n"}, r"b.yaml holds a list; a recipe is a mapping"),
        ({"a": "base: b.yaml\n", "b": "modl: x\n"}, r"unknown key 'modl' in the recipe; did you mean 'model'\?$"),
    ],
)
def test_mistakes_in_a_base_are_one_sentence(files, message, tmp_path):
    write(tmp_path, **files)
    with pytest.raises(rlif.RlifError, match=message) as error:
        load_recipe(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_a_changed_value_does_not_inherit_its_source(tmp_path):
    """Published results of the base are not inherited either."""
    write(
        tmp_path,
        a="about: {reproduces: T, published: {gsm8k: [0, 1]}, gpus: 8, sources: {seed: here, training.beta: there}}\n",
        b="base: a.yaml\nabout: {reported: x, sources: {limit: mine}}\ntraining: {beta: 1}\nlimit: 5\n",
    )
    about = read_about(tmp_path / "b.yaml")
    assert about.sources == {"seed": "here", "limit": "mine"}
    assert (about.reproduces, about.published, about.reported, about.gpus) == ("", {}, "x", 8)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("3", "about in a recipe is a mapping"),
        ("{sources: 3}", "about in a recipe is a mapping, and so are its sources and conflicts"),
        ("{gpus: 0}", r"about.gpus in the recipe .*: input should be greater than or equal to 1\.$"),
        ("{gpu: 1}", r"about.gpu in the recipe .*: extra inputs are not permitted\.$"),
        ("{published: {gsm8k: 1}}", r"about.published.gsm8k in the recipe"),
    ],
)
def test_mistakes_in_about(about, message, tmp_path):
    write(tmp_path, a=f"about: {about}\n")
    with pytest.raises(rlif.RlifError, match=message) as error:
        read_about(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)
    assert load_recipe(tmp_path / "a.yaml") == load_recipe(tmp_path / "a.yaml", []), "and training does not mind"


def test_keys_of_names_options_of_sections_one_level_deep():
    values = {"model": "m", "training": {"beta": 1}, "lora": None, "reward": {"random": 1}}
    assert keys_of(values) == ["model", "training.beta", "lora", "reward"]


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_recipes_of_the_page_load(block, tmp_path):
    write(tmp_path, page=block)
    page, about = load_recipe(tmp_path / "page.yaml"), read_about(tmp_path / "page.yaml")
    assert page.model == "Qwen/Qwen2.5-3B" and page != load_recipe("intuitor-qwen2.5-3b-math")
    if about.reproduces:
        shipped = read_about("intuitor-qwen2.5-3b-math-kl0.01")
        assert about.reproduces == shipped.reproduces and about.sources == shipped.sources
        assert about.published.items() <= shipped.published.items()


def test_the_page_names_every_key_of_about():
    named = {key for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert named == set(About.model_fields)
    assert all(name in shipped_recipes() for name in re.findall(r"`((?:intuitor|grpo)-[^`]+)`", PAGE))
