"""Tests that everything which turns a prompt into token ids gives a model the same ones, over forms of templates."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support.chat_templates import SHAPES, entering_ids, model_with, tokenizer_of
from support.commands import main
from support.small_runs import train
from support.trainers import SEVERAL_ENDS
from typer.testing import CliRunner

import rlif
from rlif.cli.main import app
from rlif.config.loading import check_recipe
from rlif.runs.history import read_history
from rlif.sampling.loading import load_model
from rlif.sampling.protocol import setup_of
from rlif.sampling.sampler import Decoding, TransformersSampler
from rlif.tasks.chat_template import Chat
from rlif.tasks.prompts import Prompt
from rlif.tasks.rendering import ends_of, render, turn_end
from rlif.training.forecast import probe

SYSTEM = "Be brief."
EVERYDAY = ("chatml", "gemma", "qwen-3")
ALL = [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.sweep) for name in SHAPES]


def chat_of(shape) -> Chat:
    return Chat(True, shape.arguments, shape.merge_system)


@pytest.mark.parametrize("name", SHAPES)
def test_each_form_of_template_is_rendered_as_it_should_be(name):
    shape = SHAPES[name]
    tokenizer = tokenizer_of(shape)
    ids = render(tokenizer, Prompt(system=SYSTEM), "Go.", chat_of(shape))
    assert tokenizer.decode(ids) == shape.rendered
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer, chat_of(shape))) == shape.end
    ends = [tokenizer.convert_ids_to_tokens(end) for end in ends_of(tokenizer, chat_of(shape))]
    assert ends == ([shape.end] if shape.end != shape.eos else [])
    assert ends_of(tokenizer, False) == ()


def options_of(shape) -> tuple[list[str], list[str]]:
    """Gives the overrides of a recipe and the options of a command for a shape."""
    recipe, command = [f"prompt={{system: {SYSTEM}, user: '{{problem}}'}}"], []
    if shape.arguments:
        recipe.append(f"training.chat_template_kwargs={json.dumps(shape.arguments)}")
        command += ["--chat-template-kwargs", json.dumps(shape.arguments)]
    if shape.merge_system:
        recipe.append("merge_system=true")
        command.append("--merge-system")
    return recipe, command


def run(*arguments: Any) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def check(rows: list[list[int]], prompts: list[list[int]], *, all_of_them: bool = True) -> None:
    """Checks that every row starts with one of the prompts, and that every prompt is there."""
    found = [[number for number, ids in enumerate(prompts) if row[: len(ids)] == ids] for row in rows]
    assert rows and all(found)
    if all_of_them:
        assert {number for numbers in found for number in numbers} == set(range(len(prompts)))


@pytest.mark.daily(every=3)
@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("rloo", marks=pytest.mark.sweep)])
@pytest.mark.parametrize("name", ALL)
def test_the_same_token_ids_enter_the_model_everywhere(name, algorithm, tmp_path):
    shape, task = SHAPES[name], rlif.TASKS["clock"]
    folder, tokenizer = model_with(shape, tmp_path / "model"), tokenizer_of(shape)
    recipe, command = options_of(shape)

    def ids(problems) -> list[list[int]]:
        texts = [Prompt(system=SYSTEM).messages(problem.text) for problem in problems]
        if shape.merge_system:
            texts = [[{"role": "user", "content": f"{SYSTEM}\n\n{problem.text}"}] for problem in problems]
        options = {"add_generation_prompt": True, "return_dict": False}
        return [tokenizer.apply_chat_template(text, **options, **shape.arguments) for text in texts]

    learnt, held_out = ids(task.load("train", limit=8)), ids(task.load("test", limit=4))
    few = ["limit=8", "evaluate.every=null", "training.max_steps=1", "training.save_steps=1", "evaluate.tasks=[clock]"]
    recipe += [*few, f"algorithm={algorithm}"]
    with entering_ids() as rows:  # training, prompt check and held-out evaluation
        finished = train(tmp_path, folder, *recipe)
    check(rows, learnt + held_out)
    with entering_ids() as rows:
        probe(finished.recipe(), problems=8)
    check(rows, learnt)

    (tmp_path / "prompt.yaml").write_text(f"system: {SYSTEM}\nuser: '{{problem}}'\n")
    evaluation = ["--tasks", "clock", "--limit", 4, "--max-tokens", 4, "--prompt", tmp_path / "prompt.yaml"]
    rows_to_score = [
        {"prompt": Prompt(system=SYSTEM).messages(problem.text), "completion": "12"}
        for problem in task.load("test", limit=4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_to_score))
    samples = [{"id": str(n), **row, "answer": "12", "right": True} for n, row in enumerate(rows_to_score)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    for model, given in ((folder, command), (finished.model, [])):  # a run's model is rendered as in its run
        for arguments in (
            ["eval", model, *evaluation, "--output", tmp_path / "evals"],
            ["score", tmp_path / "rows.jsonl", "--model", model, "--out", tmp_path / f"{model.parent.name}.jsonl"],
            ["select", "--model", model, "--samples", tmp_path / "samples.jsonl"],
        ):
            with entering_ids() as rows:
                run(*arguments, *given)
            check(rows, held_out)
    with entering_ids() as rows:
        run("eval", finished.path, *evaluation, "--overwrite")
    check(rows, held_out)


@pytest.mark.parametrize("name", ["chatml", pytest.param("gemma", marks=pytest.mark.sweep)])
def test_selection_draws_from_the_same_token_ids(name, tmp_path):
    shape, task = SHAPES[name], rlif.TASKS["clock"]
    folder, tokenizer = model_with(shape, tmp_path / "model"), tokenizer_of(shape)
    with entering_ids() as rows:
        run(
            "select",
            "--model",
            folder,
            "--task",
            "clock",
            "--limit",
            2,
            "-n",
            2,
            "--max-tokens",
            4,
            "--rule",
            "plurality",
        )
    prompt = Prompt(user=rlif.tasks.prompts.PROMPTS[task.protocol.prompt].user)  # type: ignore[attr-defined]
    check(rows, [render(tokenizer, prompt, problem.text, True) for problem in task.load("test", limit=2)])


@pytest.mark.sweep
@SEVERAL_ENDS
def test_completions_end_where_the_turn_ends_in_training(tmp_path):
    """The template closes a turn with another token than the tokenizer's EOS, the only one that the model names."""
    shape = SHAPES["chatml"]
    folder, tokenizer = model_with(shape, tmp_path / "model"), tokenizer_of(shape)
    end, eos = tokenizer.convert_tokens_to_ids(shape.end), tokenizer.eos_token_id
    longer = ["training.max_completion_length=96", "training.temperature=3", "training.num_generations=8"]
    finished = train(tmp_path, folder, *longer, "training.max_steps=1", "training.save_steps=1", "limit=8")
    rows = list(read_history(finished.path).read_completions(1))
    assert any(row["completion_ids"][-1] == end for row in rows)
    for row in rows:
        *before, last = row["completion_ids"]
        assert not {end, eos} & set(before) and row["truncated"] == (last not in (end, eos))
        assert shape.end not in row["completion"]


def test_completions_end_where_the_turn_ends_in_evaluation(tmp_path):
    shape, task = SHAPES["chatml"], rlif.TASKS["clock"]
    folder, tokenizer = model_with(shape, tmp_path / "model"), tokenizer_of(shape)
    end, eos = tokenizer.convert_tokens_to_ids(shape.end), tokenizer.eos_token_id
    sampler = TransformersSampler(load_model(check_recipe({"model": str(folder)})), tokenizer)
    setup = setup_of(task, tokenizer, decoding=Decoding(96, temperature=3.0, n=16))
    assert setup.decoding.ends == (end,)
    ids = [render(tokenizer, setup.prompt, problem.text, setup.chat) for problem in task.load("test", limit=2)]
    found = sampler.sample(ids, setup.decoding)
    assert any(completion.completion_ids[-1] == end for completion in found)
    for completion in found:
        *before, last = completion.completion_ids
        assert not {end, eos} & set(before) and completion.truncated == (last not in (end, eos))


def test_a_run_on_plain_prompts_is_evaluated_and_scored_on_plain_prompts(tmp_path):
    """The tokenizer puts BOS in front and appends EOS, which TRL would leave at the end of every prompt."""
    shape, task = SHAPES["gemma"], rlif.TASKS["clock"]
    folder = model_with(shape, tmp_path / "model", appends_eos=True)
    bos = tokenizer_of(shape).bos_token_id

    def ids(problems, end: str) -> list[list[int]]:
        return [
            [bos, *tokenizer_of(shape)(problem.text + end, add_special_tokens=False).input_ids] for problem in problems
        ]

    learnt, held_out = task.load("train", limit=8), task.load("test", limit=4)
    with entering_ids() as rows:
        finished = train(tmp_path, folder, "chat=false", "limit=8", "training.max_steps=1", "evaluate.tasks=[clock]")
    check(rows, ids([*learnt, *held_out], "\n"))
    with entering_ids() as rows:
        run("eval", finished.path, "--tasks", "clock", "--limit", 4, "--max-tokens", 4, "--overwrite")
    check(rows, ids(held_out, "\n"))
    lines = [json.dumps({"prompt": problem.text, "completion": "12"}) for problem in held_out]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    with entering_ids() as rows:
        run("score", tmp_path / "rows.jsonl", "--model", finished.model, "--out", tmp_path / "scores.jsonl")
    check(rows, ids(held_out, ""))
    assert "no chat" in (tmp_path / "scores.jsonl").read_text()


@pytest.mark.parametrize("given", ["[1]", "{1: 2}", "{a: "])
def test_arguments_for_the_template_that_are_no_mapping_are_refused(given, monkeypatch, capsys, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    options = ["--model", "tiny-reasoner", "--chat-template-kwargs", given]
    code, _, error = main(monkeypatch, capsys, "score", str(tmp_path / "rows.jsonl"), *options)
    assert code == 2 and "--chat-template-kwargs" in error and error.count("\n") == 1


@pytest.mark.parametrize("command", ["eval", "score", "select", "train", "probe"])
def test_a_broken_template_is_refused_before_a_model_is_loaded(command, tmp_path, monkeypatch, capsys):
    folder = model_with(replace(SHAPES["chatml"], template="{% for m in messages %}"), tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"cannot be loaded")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    recipe = ["demo", f"model={folder}", f"output={tmp_path}"]
    arguments = {
        "eval": [str(folder), "--tasks", "clock", "--limit", "2", "--output", str(tmp_path)],
        "score": [str(tmp_path / "rows.jsonl"), "--model", str(folder)],
        "select": ["--model", str(folder), "--task", "clock"],
    }
    code, _, error = main(monkeypatch, capsys, command, *arguments.get(command, recipe))
    assert code == 2 and "the chat template cannot be read" in error and error.count("\n") == 1
