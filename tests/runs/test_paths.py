"""Tests that paths in a recipe become absolute, so a run can be resumed from any folder."""

from __future__ import annotations

import pytest

import rlif
from rlif.config.loading import check_recipe
from rlif.runs.folder import Run
from rlif.runs.paths import with_absolute_paths


@pytest.fixture
def here(tmp_path, monkeypatch):
    for folder in ("models/policy", "judge", "meanings", "accuracy", "tiny-reasoner"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "problems.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_local_files_and_folders_become_absolute(here, monkeypatch):
    recipe = check_recipe(
        {
            "model": "models/policy",
            "source": "problems.jsonl",
            "reward": {"./judge": 1, "accuracy": 0, "some/hub-model": 1},
            "equivalence": {"entailment": "meanings"},
            "evaluate": {"tasks": ["math"], "sources": {"math": "problems.jsonl", "gsm8k": "openai/gsm8k:main"}},
        }
    )
    found = with_absolute_paths(recipe)
    assert (found.model, found.source) == (str(here / "models/policy"), str(here / "problems.jsonl"))
    assert found.reward == {str(here / "judge"): 1, "accuracy": 0, "some/hub-model": 1}
    assert found.equivalence and found.equivalence.entailment == str(here / "meanings")
    assert found.evaluate.sources == {"math": str(here / "problems.jsonl"), "gsm8k": "openai/gsm8k:main"}
    monkeypatch.chdir("/")
    assert with_absolute_paths(found) == found


def test_known_names_win_over_folders_of_the_same_name(here):
    """Shipped models, names of rewards and hub names keep their meaning in any folder."""
    recipe = check_recipe({"model": "tiny-reasoner", "reward": "accuracy", "source": "openai/gsm8k"})
    assert with_absolute_paths(recipe) == recipe
    assert with_absolute_paths(check_recipe({"reward": "judge"})).reward == str(here / "judge")


def test_one_model_named_twice_as_a_reward_is_refused(here):
    with pytest.raises(rlif.RlifError, match=r"the rewards judge, ./judge name one model twice"):
        with_absolute_paths(check_recipe({"reward": {"judge": 1, "./judge": 1}}))


def test_the_run_folder_holds_absolute_paths(here):
    run = Run.create(check_recipe({"reward": "judge", "source": "problems.jsonl", "output": "runs"}), "x")
    kept = Run.open(run.path).recipe()
    assert (kept.reward, kept.source) == (str(here / "judge"), str(here / "problems.jsonl"))
