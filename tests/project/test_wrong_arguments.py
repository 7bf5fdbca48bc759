"""Tests that public functions answer arguments of another kind in one sentence."""

from __future__ import annotations

import re

import pytest

import rlif


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("train", "demo", "takes a Recipe, not 'demo'; read one by rlif.load_recipe(NAME)."),
        ("train", None, "takes a Recipe, not None"),
        ("load_recipe", None, "the recipe is None; give the name of one that ships"),
        ("report", 3, "runs is 3; give a run folder, or a list of them."),
        ("report", [3], "runs is [3]; give a run folder"),
        ("compare", 3, "what to compare is 3; give a list of recipes"),
        ("compare", "demoo", "'demoo'; did you mean 'demo'"),
        ("compare", [], "there are no runs to compare"),
    ],
)
def test_wrong_arguments_get_a_sentence(name, given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rlif.RlifError, match=re.escape(message)):
        getattr(rlif, name)(given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overrides", ["name=3", {"name": "x"}])
def test_overrides_are_a_list(overrides):
    with pytest.raises(rlif.RlifError, match=r"give a list such as \['seed=1'\]"):
        rlif.load_recipe("demo", overrides)
