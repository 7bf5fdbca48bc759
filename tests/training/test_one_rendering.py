"""Tests that everything which turns a prompt into token ids gives a model the same ones, over forms of templates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.chat_templates import SHAPES, entering_ids, model_with, tokenizer_of
from support.small_runs import train
from typer.testing import CliRunner

import rlif
from rlif.cli.main import app
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
        settings = rlif.load_recipe("demo", [f"model={folder}", *recipe, "training.max_completion_length=4"])
        probe(settings.model_copy(update={"max_prompt_tokens": 1024}), problems=8)
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
        run("select", "--model", folder, "--task", "clock", "--limit", 2, "-n", 2, "--max-tokens", 4, "--rule", "vote")
    prompt = Prompt(user=rlif.tasks.prompts.PROMPTS[task.protocol.prompt].user)  # type: ignore[attr-defined]
    check(rows, [render(tokenizer, prompt, problem.text, True) for problem in task.load("test", limit=2)])
