"""Tests that old names of recipe keys and rewards still work, with one line that gives the new name."""

from __future__ import annotations

import logging

import pytest

from rlif.config import inheritance
from rlif.config.loading import check_recipe, load_recipe
from rlif.errors import RecipeError
from rlif.files.yaml import write_yaml

MODEL = {"embedding": "some/encoder"}


@pytest.fixture(autouse=True)
def nothing_logged_yet():
    inheritance._log.cache_clear()


@pytest.mark.parametrize(("old", "new"), inheritance.RENAMED_SIGNALS.items())
def test_an_old_name_of_a_reward_becomes_the_new_one(old, new, caplog):
    with caplog.at_level(logging.WARNING, logger="rlif"):
        assert check_recipe({"reward": old}).reward == new
        assert check_recipe({"reward": {"accuracy": 0.5, old: 1.0}}).reward == {"accuracy": 0.5, new: 1.0}
    assert caplog.messages == [f"the reward {old} is now called {new}; the old name goes on working."]


def test_an_old_key_becomes_the_new_one(caplog, tmp_path):
    """In plain values, in a file, in its base, and in an override."""
    assert check_recipe({"meaning": MODEL}) == check_recipe({"equivalence": MODEL})
    assert [line for line in caplog.messages if "meaning" in line] == [
        "the key meaning is now called equivalence; the old name goes on working."
    ]
    write_yaml({"meaning": MODEL}, tmp_path / "old.yaml")
    write_yaml({"base": "old.yaml", "equivalence": MODEL | {"threshold": 0.7}}, tmp_path / "new.yaml")
    for overrides in ([], ["meaning.threshold=0.8"], ["equivalence.threshold=0.9"]):
        found = load_recipe(tmp_path / "new.yaml", overrides).equivalence
        assert found and found.threshold == float(overrides[0].partition("=")[2] if overrides else 0.7)


def test_an_old_key_of_an_override_is_logged(caplog):
    assert load_recipe("demo", ["meaning=null"]).equivalence is None
    assert caplog.messages == ["the key meaning is now called equivalence; the old name goes on working."]


def test_an_old_and_a_new_name_together_are_refused():
    with pytest.raises(RecipeError, match="gives the key equivalence and its old name meaning; leave meaning out"):
        check_recipe({"meaning": MODEL, "equivalence": MODEL})


def test_new_names_are_not_logged(caplog):
    check_recipe({"reward": "tail_confidence", "equivalence": MODEL})
    assert caplog.messages == []
