"""Tests `rlif.evaluate`: by name and loaded, its scores are those of `rlif eval`; wrong arguments get a sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.models import byte_tokenizer, tiny_model
from typer.testing import CliRunner

import rlif
from rlif.cli.main import app
from rlif.errors import RlifError
from rlif.tasks.prompts import Prompt

FEW = {"limit": 4, "max_tokens": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model().save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def test_by_name_loaded_and_by_the_command_the_scores_are_the_same(folder, tmp_path):
    named = rlif.evaluate(str(folder), "cups", **FEW)
    loaded = rlif.evaluate(tiny_model(), rlif.TASKS["cups"], tokenizer=byte_tokenizer(), **FEW)
    assert named.records == loaded.records and len(named.records) == 4
    assert replace(named, settings={}) == replace(loaded, settings={})
    args = ["eval", str(folder), "--tasks", "cups", "--limit", "4", "--max-tokens", "6", "--output", str(tmp_path)]
    assert CliRunner().invoke(app, args).exit_code == 0
    written = json.loads((tmp_path / "tiny/cups.json").read_text())
    assert written == json.loads(json.dumps(named.as_dict()))


def test_a_folder_keeps_the_scores_and_is_read_again(folder, tmp_path):
    first = rlif.evaluate(folder, "cups", output=tmp_path, **FEW)
    assert first.records == () and (tmp_path / "tiny/cups.jsonl").is_file()
    assert rlif.evaluate(folder, "cups", output=tmp_path, **FEW).as_dict() == json.loads(
        (tmp_path / "tiny/cups.json").read_text()
    )
    with pytest.raises(RlifError, match="has other settings"):
        rlif.evaluate(folder, "cups", output=tmp_path, limit=3, max_tokens=6)
    assert rlif.evaluate(folder, "cups", output=tmp_path, limit=3, max_tokens=6, overwrite=True).completions == 3


def test_what_may_be_changed_is_changed():
    model, tokenizer = tiny_model(), byte_tokenizer()
    tokenizer.pad_token = None
    scores = rlif.evaluate(model, "cups", tokenizer=tokenizer, n=2, seed=3, batch_size=2, **FEW)
    assert (scores.n, scores.completions, scores.settings["decoding"]["temperature"]) == (2, 8, 1.0)
    assert tokenizer.pad_token is None, "a caller's tokenizer is not changed"
    prompts = {"intuitor-1.5b": "{problem}", Prompt(user="{problem}!"): "{problem}!"}
    for prompt, user in [*prompts.items(), ({"user": "Q: {problem}"}, "Q: {problem}")]:
        given = {"prompt": prompt, "chat": False, "limit": 1, "max_tokens": 2}
        settings = rlif.evaluate(model, "cups", tokenizer=byte_tokenizer(), **given).settings
        assert (settings["chat"], settings["prompt"]["user"]) == (False, user)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tokenizer": None}, "there is no tokenizer"),
        ({"model": tiny_model(vocab_size=400)}, "the tokenizer has 261 tokens, but Qwen2ForCausalLM reads 400"),
        ({"model": 5}, "the model is a int; expected"),
        ({"model": "tiny-reasoner"}, "tiny-reasoner brings its own tokenizer"),
        ({"model": "./nowhere", "tokenizer": None}, "no such model folder"),
        ({"task": "cusp"}, "unknown task 'cusp'; did you mean 'cups'"),
        ({"task": ["cups"]}, "the task is a list"),
        ({"limitt": 2}, "evaluate takes no 'limitt'; did you mean 'limit'"),
        ({"limit": 0}, "limit is 0; it must be a whole number from 1"),
        ({"n": 2.0}, "n is 2.0"),
        ({"temperature": -1}, "temperature is -1; it must be a number from 0"),
        ({"top_p": 2}, "top_p is 2; it must be a number from 0 to 1"),
        ({"prompt": "qwen-4b"}, "unknown prompt 'qwen-4b'"),
        ({"prompt": 5}, "the prompt is a int; expected a template's name"),
        ({"chat": "no"}, "chat is 'no'; expected True, False"),
        ({"chat": True, "tokenizer": byte_tokenizer(chat=False)}, "has none; give chat=False"),
        ({"output": "evals"}, "output is for a model given by name"),
        ({"engine": "vllm"}, "engine is for a model given by name"),
        ({"n": 2, "temperature": 0}, "greedy completions of a prompt would be the same"),
        ({"columns": {"prompt": "frage"}}, "task cups has columns of its own"),
        ({"source": "x.csv"}, "source must be left out"),
        ({"model": "tiny-reasoner", "tokenizer": None, "dtype": "float7"}, "dtype"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_get_a_sentence(changes, message):
    given = {"model": tiny_model(), "task": "cups", "tokenizer": byte_tokenizer()} | changes
    with pytest.raises(RlifError, match=message):
        rlif.evaluate(**given)


def test_a_run_folder_is_many_models(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: tiny-reasoner\n")
    with pytest.raises(RlifError, match=r"is a run folder; name one model, .*/model"):
        rlif.evaluate(tmp_path, "cups")
