"""Tests that all private names of TRL that the engine uses are in one list, checked before a trainer is built."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from trl import DPOTrainer, GRPOTrainer

import rlif
from rlif.engines.rounds.losses import CalibratedTrainer
from rlif.engines.rounds.trainers import PairTrainer
from rlif.engines.rounds.trainers import check_training as check_training_in_rounds
from rlif.engines.trl import contract, setup
from rlif.engines.trl.contract import USED, check_trl, compared_with, raised_by_library
from rlif.engines.trl.setup import build_trainer, check_training
from rlif.engines.trl.trainer import InternalGRPOTrainer, InternalRLOOTrainer
from rlif.errors import RecipeError

FOLDER = Path(contract.__file__).parents[1]
TREES = {
    str(path.relative_to(FOLDER)): ast.parse(path.read_text(encoding="utf-8"))
    for engine in ("trl", "rounds")
    for path in sorted((FOLDER / engine).rglob("*.py"))
}
NAMES = {used.name for used in USED}


def is_super(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


@pytest.mark.parametrize("file", TREES)
def test_private_names_of_libraries_are_in_the_list(file):
    """Counts names after `super()` and names that nothing in the folder defines."""
    ours = {
        name
        for tree in TREES.values()
        for node in ast.walk(tree)
        for name in (
            [node.name]
            if isinstance(node, ast.FunctionDef)
            else [node.attr]
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            else []
        )
    }
    used = {
        node.attr
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.Attribute)
        and re.match(r"_[a-z]", node.attr)
        and (is_super(node.value) or node.attr not in ours)
    }
    assert used - NAMES == set()


def test_names_imported_from_trls_modules_are_in_the_list():
    imported = {
        f"{node.module}.{alias.name}"
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trl.")
        for alias in node.names
    }
    listed = {f"{used.owner}.{used.name}" for used in USED}
    assert imported
    assert {name for name in imported if not any(entry.startswith(name) for entry in listed)} == set()


def test_the_installed_trl_has_all_names_of_the_list():
    check_trl(InternalGRPOTrainer)
    check_trl(InternalRLOOTrainer)
    check_trl(PairTrainer)
    check_trl(CalibratedTrainer)


MISSING = {
    "another signature": (lambda patch: patch.setattr(GRPOTrainer, "_calculate_rewards", lambda self, batch: None)),
    "no such method": lambda patch: patch.setattr(GRPOTrainer, "_generate_and_score_completions", None),
    "an attribute nobody sets": lambda patch: patch.setattr(
        contract, "USED", (contract.Used("trainer", "vllm_generator", "is not there"),)
    ),
    "no such class": lambda patch: patch.setattr(
        contract, "USED", (contract.Used("trl.trainer.utils.Repeater", "seed", "is not there"),)
    ),
}
SAID = {
    "another signature": r"GRPOTrainer._calculate_rewards\(inputs, prompts, completions, completion_ids_list, ...\)",
    "no such method": r"GRPOTrainer._generate_and_score_completions\(inputs, ...\)",
    "an attribute nobody sets": r"GRPOTrainer.vllm_generator",
    "no such class": r"trl.trainer.utils.Repeater.seed",
}


@pytest.mark.parametrize("what", MISSING)
def test_a_trl_without_these_names_is_refused(what, monkeypatch):
    MISSING[what](monkeypatch)
    with pytest.raises(rlif.RlifError, match=rf"has no {SAID[what]}, which rlif builds on; install TRL 1.10 to"):
        check_trl(InternalGRPOTrainer)


def test_a_trainer_of_pairs_without_these_names_is_refused(monkeypatch):
    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", lambda self, rows: rows)
    with pytest.raises(rlif.RlifError, match=r"has no DPOTrainer._prepare_dataset\(dataset, "):
        check_training_in_rounds(rlif.load_recipe("dpo-rlif"))


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["rlif.engines", "trl.trainer", "transformers"], True),
        (["rlif.engines", "trl.trainer", "rlif.engines", "vllm"], True),
        (["rlif.engines", "trl.trainer", "rlif.engines", "torch"], False),
        (["rlif.engines", "torch"], False),
        (["rlif.engines"], False),
    ],
)
def test_errors_are_attributed_to_the_library_or_to_rlif(modules, expected):
    """The modules of the traceback decide; they are listed from the outermost frame."""
    code, scope = "raise OSError('no such file')", {"__name__": modules[-1]}
    for module in reversed(modules[:-1]):
        code, scope = "exec(code, scope)", {"__name__": module, "code": code, "scope": scope}
    with pytest.raises(OSError, match="no such file") as caught:
        exec(code, scope)
    assert raised_by_library(caught.value) is expected


def test_options_that_trl_refuses_are_the_recipes_and_our_own_mistakes_are_not(tmp_path, monkeypatch):
    recipe = rlif.load_recipe("demo", ["training.fp16=true", "training.bf16=true"])
    with pytest.raises(RecipeError, match=r"TRL refuses these training options: .*fp16"):
        build_trainer(recipe, check_training(recipe, 1), [], None, str(tmp_path / "out"))
    monkeypatch.setattr(setup, "load_kwargs", lambda: {})
    with pytest.raises(TypeError, match="positional argument"):
        build_trainer(recipe, check_training(recipe, 1), [], None, str(tmp_path / "out"))


def test_choices_are_those_of_the_installed_trl():
    assert compared_with("importance_sampling_level") == ["sequence", "token"]
    assert {"grpo", "dapo", "dr_grpo"} <= set(compared_with("loss_type"))
    assert compared_with("no_such_option") == []
