"""Tests the renderer: its token ids equal TRL's, and errors of chat templates become one sentence."""

from __future__ import annotations

import shutil

import pytest
from support.models import byte_tokenizer

from rlif.config.loading import load_recipe
from rlif.errors import ModelError, RecipeError
from rlif.evaluation.grid import candidates
from rlif.runs.folder import Run
from rlif.sampling.protocol import setup_of
from rlif.tasks import TASKS
from rlif.tasks.chat_template import Chat
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import conversation_text, encode, render
from rlif.training.prepare import prepare

THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '' if thinking else '<quick>' }}{% endif %}"
)
RAISING = [
    ("{{ raise_exception('no system\nrole') }}", "no system"),
    ("{{ messages[0].content + 1 }}", "can only concatenate"),
    ("{% for m in messages %}", "end of template|endfor"),
    ("{{ 1 // 0 }}", "zero"),
]


def thinking_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = THINKING
    return tokenizer


@pytest.mark.parametrize("name", ["plain", "intuitor-3b"])
def test_token_ids_equal_those_of_trls_batched_call(name):
    tokenizer, prompt, texts = byte_tokenizer(), PROMPTS[name], ["Go.", "1 + 1 = ?\n", "猫"]
    trl = tokenizer.apply_chat_template(
        conversation=[prompt.messages(text) for text in texts],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    assert [render(tokenizer, prompt, text, True) for text in texts] == trl["input_ids"]
    plain = tokenizer(text=[prompt.text(text) for text in texts])["input_ids"]
    assert [render(tokenizer, prompt, text, False) for text in texts] == plain


def test_chat_template_arguments_reach_the_template():
    tokenizer = thinking_tokenizer()
    quick = tokenizer.decode(render(tokenizer, PROMPTS["plain"], "Go.", True))
    slow = tokenizer.decode(render(tokenizer, PROMPTS["plain"], "Go.", Chat(True, {"thinking": True})))
    assert quick == slow + "<quick>"


def test_a_recipes_chat_template_arguments_are_read_from_its_training_section():
    assert load_recipe("demo").chat_template.described() is True
    assert load_recipe("demo", ["chat=false"]).chat_template.described() is False
    recipe = load_recipe("demo", ["training.chat_template_kwargs={thinking: true}"])
    assert recipe.chat_template.described() == {"thinking": True}
    copied = recipe.model_copy(update={"training": {}})
    assert copied.chat_template.described() is True


@pytest.mark.parametrize(("template", "message"), RAISING)
def test_an_error_of_a_template_becomes_one_sentence(template, message):
    tokenizer, conversation = byte_tokenizer(), PROMPTS["intuitor-3b"].messages("Go.")
    tokenizer.chat_template = template
    for render_it in (encode, conversation_text):
        with pytest.raises(
            ModelError, match=rf"the chat template (refuses its prompt|cannot be read): .*({message})"
        ) as error:
            render_it(tokenizer, conversation)
        assert "\n" not in str(error.value) and "plain prompts" in str(error.value)


def test_template_arguments_that_rlif_sets_itself_are_refused():
    with pytest.raises(RecipeError, match="gives tokenize, which rlif sets"):
        render(byte_tokenizer(), PROMPTS["plain"], "Go.", Chat(True, {"tokenize": False}))


def test_prompt_lengths_and_evaluations_of_a_run_use_the_recipes_template_arguments(model_folder, tmp_path):
    """Training omits prompts that are too long with these arguments; evaluating the run uses the same arguments."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    thinking_tokenizer().save_pretrained(folder)
    changes = [f"model={folder}", "limit=64", "max_prompt_tokens=95"]
    thinking = "training.chat_template_kwargs={thinking: true}"
    quick, slow = (prepare(load_recipe("demo", [*changes, *more])) for more in ([], [thinking]))
    assert quick.too_long > slow.too_long
    run = Run.create(slow.recipe.model_copy(update={"output": str(tmp_path)}), "run")
    (candidate,) = candidates(str(run.path), tmp_path / "evals")
    setup = setup_of(TASKS["clock"], slow.tokenizer, trained_with=candidate.trained_with)
    assert setup.chat.described() == {"thinking": True}
