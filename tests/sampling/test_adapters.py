"""Tests which revision of its base an adapter is loaded over."""

from __future__ import annotations

import json

from sampling.test_limits import adapter_folder
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import rlif
from rlif.config.loading import check_recipe
from rlif.engines.trl.setup import read_lora
from rlif.sampling.loading import load_config, load_model, load_tokenizer


def test_the_revision_of_an_adapter_is_not_that_of_its_base(tmp_path, monkeypatch):
    recipe, asked = check_recipe({"model": str(adapter_folder(tmp_path)), "revision": "v2"}), []
    known = AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer,
        "from_pretrained",
        lambda path, revision, **options: asked.append(revision) or known(path, **options),
    )
    load_tokenizer(recipe)
    assert asked == [None]


def test_an_adapter_is_loaded_over_the_revision_that_it_was_trained_on(tmp_path, monkeypatch):
    folder = adapter_folder(tmp_path)
    settings = json.loads((folder / "adapter_config.json").read_text())
    trained = read_lora(rlif.load_recipe("demo", ["revision=v7", "lora={r: 4}"]))
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"revision": trained.revision}))
    recipe = check_recipe({"model": str(folder), "revision": "v2"})
    loaders = {AutoTokenizer: load_tokenizer, AutoConfig: load_config, AutoModelForCausalLM: load_model}
    for kind, load in loaders.items():
        asked: list[str | None] = []
        known = kind.from_pretrained
        with monkeypatch.context() as patched:
            patched.setattr(
                kind,
                "from_pretrained",
                lambda path, known=known, asked=asked, revision=None, **options: (
                    asked.append(revision) or known(path, **options)
                ),
            )
            load(recipe)
        assert asked[0] == "v7"
