"""Tests graders, the rewards that do not measure confidence."""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.chat_templates import SHAPES, entering_ids, tokenizer_of
from support.models import byte_tokenizer, classifier_folder, tiny_config, tiny_model
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    Qwen2ForSequenceClassification,
)

import rlif
from rlif.errors import ModelError, RecipeError, RewardError
from rlif.files import own
from rlif.files.own import MOVED
from rlif.graders import GRADERS, Batch
from rlif.graders.external import import_function, reward_function, reward_model
from rlif.graders.seed_grpo import agreement_factor
from rlif.rewards.terms import find_term
from rlif.tasks import TASKS
from rlif.tasks.chat_template import Chat
from rlif.tasks.prompts import PROMPTS
from rlif.types import Group, Problem

TEXTS = ["so \\boxed{4}", "so \\boxed{5}", "who knows", "so \\boxed{4.0}"]
PROBLEMS = [Problem("a", "2+2", "4"), Problem("a", "2+2", "4"), Problem("a", "2+2", "4"), Problem("b", "?", None)]


def batch(texts=TEXTS, problems=PROBLEMS, **options):
    return Batch(
        prompts=["?"] * len(texts),
        completions=texts,
        texts=texts,
        completion_ids=[list(range(len(text))) for text in texts],
        answers=[TASKS["math"].extract(text) for text in texts],
        task=TASKS["math"],
        problems=problems,
        **options,
    )


def test_accuracy_is_the_grade_of_the_task():
    assert GRADERS["accuracy"](batch()) == [1.0, 0.0, 0.0, None]
    assert GRADERS["seed_grpo"](batch()) == GRADERS["accuracy"](batch())
    with pytest.raises(ValueError, match="needs a task"):
        GRADERS["accuracy"](batch(problems=None))


def test_format_rewards_any_answer_and_needs_no_gold():
    assert GRADERS["format"](batch(problems=None)) == [1.0, 1.0, 0.0, 1.0]


def test_length_and_shortness_count_tokens():
    lengths = [float(len(text)) for text in TEXTS]
    assert GRADERS["length"](batch()) == lengths
    assert GRADERS["shortness"](batch()) == [-n for n in lengths]


def test_random_is_a_fair_coin_that_repeats_with_seed_and_step():
    many = ["x"] * 4000
    first = GRADERS["random"](batch(many, seed=1))
    assert set(first) == {0.0, 1.0} and sum(first) / 4000 == pytest.approx(0.5, abs=0.04)
    assert GRADERS["random"](batch(many, seed=1)) == first
    assert GRADERS["random"](batch(many[2000:], seed=1, first=2000)) == first[2000:]
    assert GRADERS["random"](batch(many, seed=2)) != first != GRADERS["random"](batch(many, seed=1, step=1))


def test_agreement_factor_of_seed_grpo_equals_arithmetic_by_hand():
    """First, four of six agree: K = 3 clusters of 4, 1, 1."""
    entropy = -(math.log(4 / 6) + 2 * math.log(1 / 6)) / 3
    assert agreement_factor(Group("?", [""] * 6, ["4", "4", "5", "4", "4", None])) == pytest.approx(
        1 - entropy / math.log(6)
    )
    assert agreement_factor(Group("?", [""] * 3, ["4", "4", "4"])) == 1.0
    assert agreement_factor(Group("?", [""] * 3, ["4", None, None])) == pytest.approx(0.0)
    assert agreement_factor(Group("?", [""], ["4"])) == 1.0
    assert agreement_factor(Group("?", [""] * 7, list("abcdefg"))) == 0.0, "rounding turned the advantages round"


def unlabelled(completions, **_):
    return [float(len(text)) for text in completions]


def labelled(prompts, completions, gold, solution, trainer_state, **others):
    assert trainer_state == "state" and "completion_ids" in others
    return [None if s is None else float(g in s) for g, s in zip(gold, solution, strict=True)]


def all_of_it(**columns):
    assert not {"gold", "solution"} & set(columns)
    return [1.0] * len(columns["prompts"])


def test_functions_written_for_trl_work_as_rewards():
    engine = {"engine": {"trainer_state": "state"}}
    assert reward_function("f", unlabelled)(batch(**engine)) == [float(len(text)) for text in TEXTS]
    assert reward_function("f", labelled)(batch(**engine)) == [1.0, 1.0, 1.0, None]
    assert reward_function("f", all_of_it)(batch(**engine)) == [1.0] * 4
    assert reward_function("f", lambda completion_ids: torch.ones(4))(batch(**engine)) == [1.0] * 4


def test_columns_of_the_data_that_the_task_does_not_read_stay_what_they_are():
    """A column `solution` is not replaced by the gold in a box, nor a column `gold` where the task has none."""
    problems = [
        Problem("a", "?", "4", row={"solution": "2 and 2", "gold": "four"}),
        Problem("b", "?", "5", row={"solution": None}),
        Problem("c", "?", None, row={"solution": "3", "gold": "three"}),
        Problem("d", "?", "6", solution="of the task", row={"solution": "of the row"}),
    ]
    seen = {}
    reward_function("f", lambda completions, gold, solution: seen.update(g=gold, s=solution) or [0.0] * 4)(
        batch(problems=problems)
    )
    assert seen == {"g": ["4", "5", "three", "6"], "s": ["2 and 2", "\\boxed{5}", "3", "of the task"]}


def test_async_functions_callables_arrays_and_tensors_work_as_in_trl():
    async def later(completions, **_):
        await asyncio.sleep(0)
        return [float(len(text)) for text in completions]

    class Asked:
        async def __call__(self, completions):
            return np.array([len(text) for text in completions], dtype=np.float32)

    lengths = [float(len(text)) for text in TEXTS]
    assert reward_function("later", later)(batch()) == reward_function("asked", Asked())(batch()) == lengths
    assert reward_function("f", lambda completion_ids: [torch.tensor(0.5)] * 4)(batch()) == [0.5] * 4


def test_trls_accuracy_reward_works():
    function = import_function("trl.rewards.accuracy_reward")
    chat = batch(["$\\boxed{4}$", "$\\boxed{5}$"], PROBLEMS[:2])
    chat = Batch(**{**chat.__dict__, "completions": [[{"role": "assistant", "content": text}] for text in chat.texts]})
    assert reward_function("trl", function)(chat) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "returned 1 rewards for 4 completions"),
        ([1.0, 2.0, math.nan, 0.0], "returned nan; rewards are finite numbers, or None"),
        ([1.0, 2.0, math.inf, 0.0], "returned inf"),
        (["a", 1, 1, 1], "returned 'a'"),
        (3.0, "returned a float; it must return a list"),
        ("abcd", "returned a str"),
        (None, "returned a NoneType"),
    ],
)
def test_invalid_return_values_of_a_function_are_refused(returned, message):
    with pytest.raises(RewardError, match=message):
        reward_function("mine", lambda completions: returned)(batch())


def test_a_function_that_raises_is_named():
    def broken(completions, **_):
        raise KeyError("solution")

    with pytest.raises(RewardError, match="mine raised KeyError: 'solution'"):
        reward_function("mine", broken)(batch())
    with pytest.raises(RewardError, match="mine raised SystemExit: 0"):
        reward_function("mine", lambda completions: sys.exit(0))(batch())
    assert own.checked("mine", [1, None, True], 3) == [1.0, None, 1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "cannot import the reward no_such_module:f: No module named"),
        ("rlif.gone:f", "rlif has no module rlif.gone; its modules are in folders now, see docs/architecture.md"),
        ("math:no_such", "the module math has no 'no_such'"),
        ("math.pi", "the reward math.pi is a float, not a function"),
        ("builtins:dict", "the reward builtins:dict does not tell its parameters; call it in a function of yours"),
        ("exploding:f", "importing the reward exploding:f raises ZeroDivisionError"),
        ("misspelt:f", "importing the reward misspelt:f raises AttributeError: module 'math' has no attribute 'tau_'"),
    ],
)
def test_functions_that_cannot_be_imported_are_explained(name, message, tmp_path, monkeypatch):
    (tmp_path / "exploding.py").write_text("1 / 0")
    (tmp_path / "misspelt.py").write_text("import math\nmath.tau_")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rlif.RlifError, match=message):
        import_function(name)


KEPT_THEIR_NAME = {
    "rlif.extraction": "rlif.answers.extraction",
    "rlif.records": "rlif.evaluation.records",
    "rlif.engines.trl.annotator": "rlif.engines.trl.measuring.annotator",
    "rlif.tasks.mbpp": "rlif.tasks.code.mbpp",
}


@pytest.mark.parametrize(("old", "new"), (MOVED | KEPT_THEIR_NAME).items())
def test_an_old_module_is_refused_with_its_new_name(old, new, tmp_path, monkeypatch):
    """The recipe names it, or the module that the recipe names imports it."""
    for place in new.split(" and "):
        importlib.import_module(place)
    (tmp_path / "mine.py").write_text(f"from {old} import of_the_flat_layout")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    for name in (f"{old}:of_the_flat_layout", f"{old}.of_the_flat_layout", "mine:reward"):
        with pytest.raises(RecipeError, match=re.escape(f"the reward {name}: {old} is now {new}.")):
            import_function(name)


def test_a_module_that_is_there_is_not_said_to_have_moved(tmp_path, monkeypatch):
    (tmp_path / "mine_too.py").write_text("from rlif.answers.extraction import not_there")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"mine_too:reward raises ImportError: .* at .*mine_too\.py"):
        import_function("mine_too:reward")


def test_functions_are_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "rewards_of_mine.py").write_text(
        "def short(completions, **_):\n    return [0.0 for _ in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert reward_function("x", import_function("rewards_of_mine:short"))(batch()) == [0.0] * 4
    assert import_function("rewards_of_mine.short") is import_function("rewards_of_mine:short")


def test_a_reward_model_reads_prompt_and_completion(tmp_path):
    """Each value equals that of the unpadded row in float64."""
    folder = classifier_folder(tmp_path / "rm")
    prompts = [[{"role": "user", "content": text}] for text in ("Hi", "What is two plus two?")]
    answers = [[{"role": "assistant", "content": text}] for text in ("a rather long answer", "4")]
    found = reward_model(folder)(Batch(prompts, answers, ["", ""], [[], []], [None, None]))
    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = byte_tokenizer()
    for value, prompt, answer in zip(found, prompts, answers, strict=True):
        ids = tokenizer(tokenizer.apply_chat_template([*prompt, *answer], tokenize=False), return_tensors="pt")
        assert value == pytest.approx(model(**ids).logits.item(), abs=1e-4)
    plain = reward_model(folder)(Batch(["Hi "], ["there"], [""], [[]], [None]))
    assert plain[0] == pytest.approx(model(**tokenizer("Hi there", return_tensors="pt")).logits.item(), abs=1e-4)


def reward_folder(folder, shape):
    tokenizer = tokenizer_of(shape)
    torch.manual_seed(0)
    config = tiny_config(num_labels=1, vocab_size=len(tokenizer))
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_reward_model_reads_conversations_by_its_own_template_and_the_recipes_arguments(tmp_path):
    """Arguments that its template does not read are left out; those of the policy's template need not be its own."""
    answer, shape = [{"role": "assistant", "content": "4"}], SHAPES["gemma"]
    folder, tokenizer = reward_folder(tmp_path / "rm", shape), tokenizer_of(shape)
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    merged = [{"role": "user", "content": "Be brief.\n\n2+2?"}, *answer]
    with entering_ids() as rows:
        grade = reward_model(folder, Chat(True, {"enable_thinking": False}, merge_system=True), prompt)
        grade(Batch([prompt], [answer], ["4"], [[]], [None]))
    assert rows == [
        tokenizer(tokenizer.apply_chat_template(merged, tokenize=False), add_special_tokens=False).input_ids
    ]


def test_a_reward_model_that_cannot_read_the_prompts_is_refused_when_it_is_loaded(tmp_path):
    prompt = PROMPTS["intuitor-3b"].messages("Go.")
    with pytest.raises(ModelError, match=r"the reward model .*rm': .*No system role here .*merge_system=true"):
        find_term(reward_folder(tmp_path / "rm", SHAPES["gemma"]), prompt=prompt)
    with pytest.raises(ModelError, match=r"has no chat template; train with chat=false, or choose another\.$"):
        find_term(classifier_folder(tmp_path / "bare", template=False), prompt=prompt)
    assert find_term(str(tmp_path / "bare"), prompt="Go.").kind == "model"


def test_a_reward_model_without_a_padding_token_reads_the_last_token_of_each_row(tmp_path):
    """Also where that is EOS, which must not stand for padding."""
    folder = Path(classifier_folder(tmp_path / "rm"))
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"pad_token_id": None})
    )
    texts = ["a<|end|>", "a rather long answer<|end|>"]
    found = reward_model(str(folder))(Batch(["", ""], texts, ["", ""], [[], []], [None, None]))
    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    for value, text in zip(found, texts, strict=True):
        assert value == pytest.approx(model(**tokenizer(text, return_tensors="pt")).logits.item(), abs=1e-4)


def test_a_reward_model_whose_template_leaves_out_the_answer_is_refused(tmp_path):
    shape = replace(SHAPES["chatml"], template=SHAPES["chatml"].template.replace("messages %", "messages[:-1] %", 1))
    with pytest.raises(ModelError, match="leaves out the assistant's turn"):
        reward_model(reward_folder(tmp_path / "rm", shape), prompt=[{"role": "user", "content": "2+2?"}])


def test_a_reward_model_with_learned_positions_reads_rows_of_all_lengths_within_them(tmp_path):
    """Its tokenizer pads on the left, which would shift positions."""
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=261, n_positions=24, n_embd=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0)
    )
    torch.nn.init.normal_(model.transformer.wpe.weight)
    model.save_pretrained(tmp_path), byte_tokenizer().save_pretrained(tmp_path)
    texts, tokenizer = ["a", "a rather long text"], byte_tokenizer()
    found = reward_model(str(tmp_path))(Batch(["", ""], texts, ["", ""], [[], []], [None, None]))
    model = model.double().eval()
    for value, text in zip(found, texts, strict=True):
        assert value == pytest.approx(model(**tokenizer(text, return_tensors="pt")).logits.item(), abs=1e-4)
    with pytest.raises(RewardError, match="reads 24 tokens, but a prompt with its completion has 30"):
        reward_model(str(tmp_path))(Batch([""], ["x" * 30], [""], [[]], [None]))


def test_a_language_model_is_not_a_reward_model(tmp_path):
    """The library would put a random head on it."""
    tiny_model(num_labels=1).save_pretrained(tmp_path), byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"the reward model .* lacks score\.weight, which would be random"):
        reward_model(str(tmp_path))


def test_models_that_cannot_be_reward_models_are_refused(tmp_path):
    with pytest.raises(rlif.RlifError, match="has 3 outputs; a reward model has one"):
        reward_model(classifier_folder(tmp_path / "three", labels=3))
    with pytest.raises(rlif.RlifError, match="cannot load the reward model"):
        reward_model(str(tmp_path / "nowhere/at-all"))
    bare = reward_model(classifier_folder(tmp_path / "bare", template=False))
    with pytest.raises(RewardError, match="has no chat template"):
        bare(
            Batch([[{"role": "user", "content": "Hi"}]], [[{"role": "assistant", "content": "x"}]], [""], [[]], [None])
        )
