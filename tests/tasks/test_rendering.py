"""Tests the renderer: its token ids equal TRL's, and errors of chat templates become one sentence."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from support.chat_templates import CHATML, SHAPES, tokenizer_of
from support.models import byte_tokenizer
from transformers import AutoTokenizer

from rlif.config.loading import load_recipe
from rlif.errors import ModelError, RecipeError
from rlif.evaluation.grid import candidates
from rlif.runs.folder import Run
from rlif.sampling.protocol import setup_of
from rlif.selection.scorer import Scorer
from rlif.tasks import TASKS, chat_template
from rlif.tasks.chat_template import Chat
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import conversation_text, encode, render, render_all
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


def test_a_template_that_refuses_the_system_message_says_what_to_do():
    tokenizer, prompt = tokenizer_of(SHAPES["gemma"]), PROMPTS["intuitor-3b"]
    with pytest.raises(ModelError, match=r"No system role here \(messages: system, user\); put the system text into"):
        render(tokenizer, prompt, "Go.", True)
    merged = tokenizer.decode(render(tokenizer, prompt, "Go.", Chat(True, merge_system=True)))
    assert merged == f"<bos><start_of_turn>user\n{prompt.system}\n\nGo.<end_of_turn>\n<start_of_turn>model\n"
    with pytest.raises(ModelError, match=r"take turns \(messages: user, user\); use a prompt of roles that it takes"):
        encode(tokenizer, PROMPTS["plain"].messages("Go.") * 2, Chat(True, merge_system=True))


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_template_that_leaves_out_a_message_is_refused(role):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        f"{{% for m in messages if m.role != '{role}' %}}{{{{ m.content }}}}{{% endfor %}}<|assistant|>"
    )
    with pytest.raises(ModelError, match=f"leaves out the text of the {role} message"):
        render(tokenizer, PROMPTS["intuitor-3b"], "Count the cups.", True)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end within 1 s"),
        ("{{ 10 ** (10 ** 9) }}", "does not end within 1 s"),
        ("{{ 'x' * 10 ** 11 }}", "takes more than 1,024 MiB of memory"),
        ("{{ messages[0].content * 10 ** 6 }}", "writes more than 1,000,... characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses its prompt: maximum recursion depth"),
        ("{{ ''.__class__.__mro__ }}", "refuses its prompt: access to attribute '__class__'"),
    ],
)
def test_a_hostile_template_is_refused_before_it_does_harm(template, said, monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", 1)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=f"the chat template {said}") as error:
        render(tokenizer, PROMPTS["plain"], "Go go.", True)
    assert str(error.value).count("\n") == 0 and str(error.value).endswith("(chat=false, --no-chat).")


LATER = "{% if 'MARK' in messages[-1].content %}HARM{% endif %}<|user|>{{ messages[-1].content }}<|assistant|>"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end within 1 s"),
        ("{{ 'x' * 10 ** 11 }}", "takes more than 1,024 MiB of memory"),
        ("{{ 'x' * 2 * 10 ** 6 }}", "writes more than 1,000,... characters"),
        ("{{ 1 // 0 }}", "refuses its prompt: .*zero"),
    ],
)
def test_a_template_that_is_hostile_to_a_later_prompt_alone_is_refused(harm, said, monkeypatch):
    """One of a hundred, which are tried in one process."""
    monkeypatch.setattr(chat_template, "SECONDS", 1)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = LATER.replace("HARM", harm)
    texts = [f"Count {n}." for n in range(70)] + ["Count MARK."] + [f"Count {n}." for n in range(70, 99)]
    with pytest.raises(ModelError, match=f"the chat template {said}") as error:
        render_all(tokenizer, PROMPTS["plain"], texts, True)
    assert str(error.value).endswith("(chat=false, --no-chat).") and "\n" not in str(error.value)
    assert "zero" in said or "the prompt that begins 'Count MARK.'" in str(error.value)
    texts.remove("Count MARK.")
    assert len(render_all(tokenizer, PROMPTS["plain"], texts, True)) == 99


def test_a_message_that_is_left_out_of_a_later_prompt_alone_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ '' if 'MARK' in messages[0].content else messages[0].content }}"
    with pytest.raises(ModelError, match="leaves out the text of the user message"):
        render_all(tokenizer, PROMPTS["plain"], ["Go.", "MARK", "Go on."], True)


def test_many_conversations_are_tried_in_one_process_and_each_of_them_once(monkeypatch):
    forks, fork = [], os.fork
    monkeypatch.setattr(chat_template.os, "fork", lambda: forks.append(fork()) or forks[-1])
    tokenizer, texts = thinking_tokenizer(), [f"Try {n}." for n in range(50)]
    for _ in range(2):
        render_all(tokenizer, PROMPTS["plain"], texts, True)
        render(tokenizer, PROMPTS["plain"], texts[7], True)
    assert len(forks) == 1


def test_a_process_that_waits_for_ever_is_ended(monkeypatch):
    """As one that was copied while another thread held a lock; the limit of processor time never comes."""
    monkeypatch.setattr(chat_template, "PATIENCE", 0.2)
    monkeypatch.setattr(chat_template, "SECONDS", 1)
    monkeypatch.setattr(chat_template, "_judge", lambda tokenizer, each: time.sleep(600))
    with pytest.raises(ModelError, match="does not end within 1 s"):
        render(thinking_tokenizer(), PROMPTS["plain"], "Wait.", True)


def test_templates_are_judged_here_where_no_process_can_be_copied(monkeypatch):
    monkeypatch.setattr(chat_template.sys, "platform", "darwin")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ '' if 'MARK' in messages[0].content else messages[0].content }}"
    assert render(tokenizer, PROMPTS["plain"], "Elsewhere.", True)
    with pytest.raises(ModelError, match="leaves out the text of the user message"):
        render(tokenizer, PROMPTS["plain"], "MARK elsewhere", True)


def test_an_argument_that_the_template_never_reads_is_refused():
    with pytest.raises(RecipeError, match="never reads enable_thinkng, which chat_template_kwargs gives"):
        render(tokenizer_of(SHAPES["qwen-3"]), PROMPTS["plain"], "Go.", Chat(True, {"enable_thinkng": False}))


def test_a_template_that_writes_the_date_is_warned_of_unless_a_date_is_given(caplog):
    tokenizer = byte_tokenizer()
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
    tokenizer.chat_template = dated + CHATML
    for _ in range(2):
        encode(tokenizer, PROMPTS["plain"].messages("Go."))
    (record,) = caplog.records
    assert "writes the date of today" in record.getMessage()
    given = encode(tokenizer, PROMPTS["plain"].messages("Go."), Chat(True, {"date_string": "1 May 2025"}))
    assert tokenizer.decode(given).startswith("1 May 2025") and len(caplog.records) == 1


@pytest.mark.parametrize("name", ["gemma", "phi"])  # with BOS, and without
@pytest.mark.parametrize("appends_eos", [True, False])
def test_plain_text_has_one_bos_and_no_eos_at_its_end(name, appends_eos, tmp_path):
    """Also when a tokenizer was saved and loaded, and where the text itself starts or ends with these tokens."""
    shape = SHAPES[name]
    tokenizer_of(shape, appends_eos=appends_eos).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer("Go.")["input_ids"][-1] == tokenizer.eos_token_id) == appends_eos
    bos = shape.bos or ""
    for text in ("Go.", f"{bos}Go.", f"Go.{shape.eos}", "猫\n", bos):
        assert tokenizer.decode(encode(tokenizer, text)) == bos + text.removeprefix(bos)
    assert encode(tokenizer, "") == ([tokenizer.bos_token_id] if bos else [])


def test_a_completion_is_closed_by_the_token_that_ends_the_turn():
    shape = SHAPES["phi"]
    row = {"prompt": "Go.", "completion": "ok"}
    for chat, end in ((True, shape.end), (False, shape.eos)):
        scorer = Scorer(None, tokenizer_of(shape), chat=chat, name="m")
        assert scorer.tokenizer.convert_ids_to_tokens(scorer.encode(row)[1])[-1] == end
    assert Scorer(None, tokenizer_of(shape), name="m").described == "m, chat, end <|end|>, window 2048"
