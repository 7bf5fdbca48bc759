"""Tests `rlif.score`: numbers are those of `score_completions` and of `rlif score`; wrong arguments get a sentence."""

from __future__ import annotations

import json

import pandas
import pytest
import torch
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.errors import RlifError
from rlif.selection.score_file import score_file
from rlif.selection.scorer import Scorer
from rlif.signals import NEEDS

PAIRS = [("Where is the ball?", "Under B."), ("x", "A longer completion."), ("Again", "")]


def same(found, expected):
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == {name: value if value is None else pytest.approx(value) for name, value in theirs.items()}


def test_the_numbers_are_those_of_score_completions():
    model, tokenizer = tiny_model(), byte_tokenizer()
    found = rlif.score(model, tokenizer, PAIRS)
    prompts = [tokenizer.encode(f"<|user|>{prompt}<|end|><|assistant|>") for prompt, _ in PAIRS]
    completions = [[*tokenizer.encode(text), tokenizer.eos_token_id] for _, text in PAIRS]
    stats = rlif.score_completions(model, prompts, completions, top_k=20)
    columns = {name: signal(stats) for name, signal in rlif.SIGNALS.items()}
    same(found, [{name: values[i] for name, values in columns.items()} for i in range(3)])
    assert len({row["self_certainty"] for row in found}) == 3


def test_every_form_of_a_row_gives_the_same_numbers():
    model, tokenizer = tiny_model(), byte_tokenizer()
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]
    rows = [
        ("Where?", "There."),
        ["Where?", "There."],
        {"prompt": "Where?", "completion": "There.", "id": 4},
        {"prompt": turns[:1], "completion": turns[1:]},
        (turns[:1], "There."),
        {"messages": turns},
        turns,
        {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]},
    ]
    found = rlif.score(model, tokenizer, (row for row in rows), "likelihood_sum")
    assert [row.keys() for row in found] == [{"likelihood_sum"}] * len(rows)
    assert len({row["likelihood_sum"] for row in found}) == 1
    cut = rlif.score(model, tokenizer, [{"prompt": "Where?", "completion": "There.", "truncated": True}])
    assert cut[0]["likelihood_sum"] > found[0]["likelihood_sum"]  # one token less


def test_the_numbers_are_those_of_the_command(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": prompt, "completion": text} for prompt, text in PAIRS]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, tokenizer = tiny_model(), byte_tokenizer()
    score_file(Scorer(model, tokenizer, name="tiny"), source, out)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    found = rlif.score(model, tokenizer, rows)
    assert found == [{name: row[name] for name in rlif.SIGNALS} for row in written]


def test_a_name_is_loaded_and_gives_what_the_loaded_model_gives(tmp_path):
    model, tokenizer = tiny_model(), byte_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = rlif.score(model, tokenizer, PAIRS)
    same(rlif.score(tmp_path, None, PAIRS), loaded)
    same(rlif.score(str(tmp_path), tokenizer, PAIRS), loaded)
    same(rlif.score(model, str(tmp_path), PAIRS), loaded)


def test_what_cannot_be_scored_is_none():
    model, tokenizer = tiny_model(max_position_embeddings=32), byte_tokenizer(chat=False)
    rows = [("p", "b"), ("", "a"), ("p", "c" * 40), ("p", "")]
    found = rlif.score(model, tokenizer, rows, ["likelihood"], end=False)
    assert [row["likelihood"] is None for row in found] == [False, True, True, True]
    assert rlif.score(model, tokenizer, []) == []


def test_old_names_and_windows_are_understood():
    model, tokenizer = tiny_model(), byte_tokenizer()
    (old,) = rlif.score(model, tokenizer, PAIRS[1:2], "group_confidence_tail", window=2)
    (new,) = rlif.score(model, tokenizer, PAIRS[1:2], ["tail_confidence", "mean_token_confidence"], window=2)
    assert old == {"group_confidence_tail": new["tail_confidence"]}
    assert new["tail_confidence"] != new["mean_token_confidence"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rows": [PAIRS[0], {"prompt": "x"}]}, "^row 2 has no 'completion'; it has prompt"),
        ({"rows": [PAIRS[0], ("x", None)]}, "the completion in row 2 is null"),
        ({"rows": [("x", 5)]}, "the completion in row 1 is a int"),
        ({"rows": ["only text"]}, "row 1 is a str; expected .* a pair"),
        ({"rows": [[]]}, "row 1 is a list; expected"),
        ({"rows": [[{"role": "user", "content": "Where?"}]]}, "message of the user; expected the assistant's"),
        ({"rows": [([{"role": "user", "content": "Where?"}], "x")], "chat": False}, "^row 1: .* leave out chat=False"),
        ({"rows": "pairs.jsonl"}, "give a list of rows. `rlif score` reads files"),
        ({"rows": {"prompt": "a", "completion": "b"}}, "rows is a dict; give a list"),
        ({"rows": None}, "rows is a NoneType"),
        ({"rows": pandas.DataFrame([{"prompt": "x"}])}, r"rows is a DataFrame; give rows\.to_dict"),
        ({"signals": "self_certanty"}, "unknown signal 'self_certanty'; did you mean 'self_certainty'"),
        ({"signals": ["plurality_vote"]}, "plurality_vote compares the completions of one problem"),
        ({"signals": []}, "signals is .*; give a name"),
        ({"signals": 5}, "signals is 5; give a name"),
        ({"signals": ["likelihood", 5]}, "give a name of rlif.SIGNALS"),
        ({"chat": "no"}, "chat is 'no'; expected True, False"),
        ({"chat": True, "tokenizer": byte_tokenizer(chat=False)}, "has no chat template; leave out chat=True"),
        ({"window": 0}, "window is 0"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"model": {}}, "the model is a dict; expected a causal language model"),
        ({"model": torch.nn.Linear(2, 2)}, "the model is a Linear"),
        ({"model": "./nowhere"}, "no such model folder"),
        ({"tokenizer": None}, "there is no tokenizer"),
        ({"tokenizer": len}, "the tokenizer is a builtin_function"),
        ({"model": tiny_model(vocab_size=400)}, "the tokenizer has 261 tokens, but Qwen2ForCausalLM reads 400"),
        ({"model": tiny_model(vocab_size=120)}, "the tokenizer has 261 tokens, but Qwen2ForCausalLM reads 120"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_get_a_sentence(changes, message):
    given = {"model": tiny_model(), "tokenizer": byte_tokenizer(), "rows": PAIRS} | changes
    with pytest.raises(RlifError, match=message):
        rlif.score(**given)


@pytest.mark.parametrize(
    "model, prompts, completions, options, message",
    [
        ("tiny-reasoner", [[1]], [[2]], {}, "takes a loaded model, got the name 'tiny-reasoner'"),
        (None, [[1]], [[2]], {}, "takes a loaded model, got a NoneType"),
        (..., ["Where?"], [[2]], {}, "prompt 0 is text; score_completions takes token ids, rlif.score takes text"),
        (..., [[1]], [["a", "b"]], {}, "completion 0 is text"),
        (..., "Where?", "There.", {}, "the prompts are a str"),
        (..., torch.tensor([[1]]), [[2]], {}, "the prompts are a Tensor; give a list"),
        (..., [[1], torch.tensor([1])], [[2], [3]], {}, "prompt 1 is tensor.*expected a list of token ids"),
        (..., [1, 2], [[2]], {}, "prompt 0 is 1; expected a list"),
        (..., [[1.0]], [[2]], {}, "prompt 0 is .1.0.; expected a list"),
        (..., [[1]], [[2], [3]], {}, "got 1 prompts and 2 completions"),
        (..., [[1]], [[2]], {"batch_size": -1}, "batch_size must be from 1, got -1"),
        (..., [[1]], [[2]], {"chunk_tokens": 0}, "chunk_tokens must be from 1, got 0"),
    ],
    ids=str,
)
def test_wrong_arguments_of_score_completions_get_a_sentence(model, prompts, completions, options, message):
    with pytest.raises(RlifError, match=message):
        rlif.score_completions(tiny_model() if model is ... else model, prompts, completions, **options)


@pytest.mark.parametrize("name", sorted(rlif.SIGNALS))
def test_a_signal_says_what_it_reads(name):
    stats = rlif.TokenStats(torch.ones(1, 2, dtype=torch.bool), 10)
    with pytest.raises(RlifError, match=f"the signal {name} reads {NEEDS[name]}, which these statistics lack"):
        rlif.SIGNALS[name](stats)
    with pytest.raises(RlifError, match=f"the signal {name} reads what .* returns, not a list"):
        rlif.SIGNALS[name]([1.0])
