"""Tests rlif.reward, a signal for trainers that are not rlif's."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import datasets
import pytest
import trl
from support import oracle
from support.models import byte_tokenizer, tiny_model
from support.trainers import OPTIONS, PROMPTS

import rlif
from rlif.errors import DataError, RecipeError

CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


@pytest.mark.parametrize("rows", [PROMPTS, CHATS], ids=["text", "conversations"])
def test_a_plain_trainer_is_rewarded_by_its_current_policy(rows, tmp_path):
    model, tokenizer, seen = tiny_model(), byte_tokenizer(), []
    certainty = rlif.reward("self_certainty", model=model, tokenizer=tokenizer)

    def confident(prompts, completions, completion_ids, **_):
        found = certainty(prompts=prompts, completions=completions, completion_ids=completion_ids)
        rows = [
            tokenizer(p).input_ids
            if isinstance(p, str)
            else tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False)
            for p in prompts
        ]
        exact = [oracle.self_certainty(model, p, c, 1.0) for p, c in zip(rows, completion_ids, strict=True)]
        seen.append((found, exact))
        return found

    args = trl.GRPOConfig(output_dir=str(tmp_path), **{**OPTIONS, "max_steps": 2, "learning_rate": 0.01})
    data = datasets.Dataset.from_dict({"prompt": rows * 4})
    trl.GRPOTrainer(
        model=model, reward_funcs=confident, args=args, train_dataset=data, processing_class=tokenizer
    ).train()
    assert len(seen) == 2 and seen[0][0] != seen[1][0]
    for found, exact in seen:
        assert found == pytest.approx(exact, abs=1e-4)


def test_its_name_is_the_metric(tmp_path):
    model, tokenizer = tiny_model(), byte_tokenizer()
    args = trl.GRPOConfig(output_dir=str(tmp_path), **{**OPTIONS, "max_steps": 1})
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[rlif.reward("likelihood", model=model, tokenizer=tokenizer)],
        args=args,
        train_dataset=datasets.Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert any("rewards/likelihood/mean" in row for row in trainer.state.log_history)


def test_a_frozen_annotator_crosses_to_another_process(model_folder):
    frozen = rlif.reward("self_certainty", model=str(model_folder), temperature=0.7)
    again = pickle.loads(pickle.dumps(frozen))
    rows = {"prompts": ["Go."], "completion_ids": [[7, 8, 9]]}
    assert again(**rows) == frozen(**rows)
    exact = oracle.self_certainty(tiny_model(), byte_tokenizer()("Go.").input_ids, [7, 8, 9], 0.7)
    assert frozen(**rows) == pytest.approx([exact], abs=0.05)
    pickle.dumps(frozen)  # also after it was loaded


def test_bad_input_gets_one_sentence():
    model, tokenizer = tiny_model(), byte_tokenizer()
    with pytest.raises(RecipeError, match="holds a model of this process"):
        pickle.dumps(rlif.reward("self_certainty", model=model, tokenizer=tokenizer))
    with pytest.raises(RecipeError, match=r"needs tokenizer=\.\.\., the trainer's"):
        rlif.reward("self_certainty", model=model)
    with pytest.raises(RecipeError, match=r"did you mean 'self_certainty'"):
        rlif.reward("self_certanty", model=model, tokenizer=tokenizer)
    with pytest.raises(RecipeError, match=r"'plurality_vote' is none of them.*use the trainers of rlif\.trl"):
        rlif.reward("plurality_vote", model=model, tokenizer=tokenizer)
    with pytest.raises(RecipeError, match="temperature must be above 0"):
        rlif.reward("self_certainty", model=model, tokenizer=tokenizer, temperature=0)
    for given, message in (
        ({"name": 3}, "takes the name of a signal, not 3"),
        ({"model": None}, "the model is a NoneType; give the module"),
        ({"model": tokenizer, "tokenizer": model}, "the model is a .*; give the module"),
        ({"tokenizer": 5}, "the tokenizer is a int; give the trainer's"),
        ({"tokenizer": model}, "the tokenizer is a model"),
        ({"temperature": math.nan}, "temperature must be above 0, got nan"),
        ({"temperature": "1"}, "temperature must be above 0, got '1'"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs is 'x'; give a mapping"),
    ):
        with pytest.raises(RecipeError, match=message):
            rlif.reward(**{"name": "self_certainty", "model": model, "tokenizer": tokenizer, **given})
    assert rlif.reward("self_certainty", model=Path("folder")).model == "folder"
    seen = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    with pytest.raises(DataError, match="measured on text alone"):
        rlif.reward("self_certainty", model=model, tokenizer=tokenizer)(prompts=[seen], completion_ids=[[5]])


def test_a_row_without_tokens_has_no_number():
    confident = rlif.reward("self_certainty", model=tiny_model(), tokenizer=byte_tokenizer())
    assert confident(prompts=["Go.", "Go."], completion_ids=[[], [5, 6]])[0] is None
