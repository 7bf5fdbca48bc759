"""Rows as people have them: conversations, numbers, lists of golds, columns of other names."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from support.models import byte_tokenizer

import rlif
from rlif.errors import DataError, RecipeError
from rlif.sampling.protocol import render_problems
from rlif.tasks import find_task
from rlif.tasks.prompts import Prompt
from rlif.tasks.task import by_id

ASKED = [{"role": "user", "content": "What is 2+2?"}]
SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = [SYSTEM, *ASKED, {"role": "assistant", "content": "4."}, {"role": "user", "content": "And 3+3?"}]
LAST = {"role": "assistant", "content": "It is 6."}


def load(folder, rows, task="prompts", columns=None, name="rows.jsonl"):
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return find_task(task).reading(columns or {}).load("test", source=str(path))


def share_gpt(turns):
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    "row", [{"prompt": CHAT}, {"messages": [*CHAT, LAST]}, {"conversations": share_gpt([*CHAT, LAST])}], ids=str
)
def test_conversations(name, row, tmp_path):
    """A last turn of the assistant is the worked solution, and no part of the prompt."""
    (problem,) = load(tmp_path, [row], name=name)
    assert problem.text == "And 3+3?" and problem.prompt == CHAT and problem.gold is None
    assert problem.solution == (None if "prompt" in row else "It is 6.")


def test_a_conversation_of_one_message_is_text(tmp_path):
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}]}]
    for prompt in (ASKED, parts, json.dumps(ASKED)):
        (problem,) = load(tmp_path, [{"prompt": prompt}])
        assert problem.prompt == "What is 2+2?"


def test_rows_of_several_data_sets_in_one_table(tmp_path):
    """A table has null where a row has no such column, or a message no such key; the others count."""
    turns = {"role": None, "content": None, "from": "Human ", "value": "b"}, {"role": "model", "content": "c"}
    rows = [
        {"prompt": "a", "messages": None, "conversations": None},
        {"prompt": None, "messages": None, "conversations": list(turns)},
        {"prompt": None, "messages": [{"role": "user", "content": [{"text": "c"}]}], "conversations": None},
    ]
    for name in ("rows.jsonl", "rows.parquet"):
        problems = load(tmp_path, rows, name=name)
        assert [(problem.text, problem.solution) for problem in problems] == [("a", None), ("b", "c"), ("c", None)]


def test_conversations_are_rendered_by_the_chat_template(tmp_path):
    """The template's words surround the last message; the conversation keeps its own system message."""
    (problem,) = load(tmp_path, [{"prompt": CHAT}])
    tokenizer, prompt = byte_tokenizer(), Prompt(user="Now: {problem}", system="Be long.")
    shown = [*CHAT[:-1], {"role": "user", "content": "Now: And 3+3?"}]
    wanted = tokenizer.apply_chat_template(shown, add_generation_prompt=True, return_dict=False)
    assert prompt.messages(problem.prompt) == shown
    assert render_problems(tokenizer, prompt, [problem], True, find_task("prompts")) == [wanted]
    with pytest.raises(DataError, match="a conversation of 4 messages, which takes a chat template"):
        render_problems(tokenizer, prompt, [problem], False, find_task("prompts"))
    (short,) = load(tmp_path, [{"prompt": [SYSTEM, *ASKED]}])
    assert prompt.text(short.prompt) == "Be brief.\n\nNow: What is 2+2?\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": None}, "'prompt' in row 1 of .* is null; expected text or a conversation"),
        ({"prompt": " "}, "'prompt' in row 1 of .* is empty"),
        ({"prompt": []}, "has no message of the user to end with"),
        ({"prompt": [*CHAT, LAST]}, "'prompt' in row 1 of .* ends with the assistant's turn"),
        ({"messages": [SYSTEM, LAST]}, "'messages' in row 1 of .* has no message of the user to end with"),
        (
            {"prompt": [{"role": "user", "content": None}]},
            "message 1 of 'prompt' in row 1 .* a content that is a NoneType",
        ),
        ({"prompt": [{"role": "tool", "content": "5"}]}, "message 1 .* calls a tool; rlif trains on text alone"),
        ({"prompt": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "calls a tool"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}]},
            "message 1 .* holds image; rlif trains on text",
        ),
        ({"prompt": ["hello"]}, 'message 1 of .* is "hello"; expected role and content'),
        *(
            ({"prompt": text}, "in row 1 of .* begins like a conversation and is not a list of messages in JSON")
            for text in (str(ASKED), json.dumps(ASKED)[:-1], json.dumps(ASKED[0]), f"array({ASKED}, dtype=object)")
        ),
        ({"prompt": None, "messages": None}, "'prompt' in row 1 of .* is null"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "holds a part without text"),
        ({"prompt": {"a": 1}}, "'prompt' in row 1 of .* is a dict; expected plain text"),
        ({"prompt": "\ud800 lone"}, r"row 1 of .* holds half of a character \(a lone surrogate"),
        ({"frage": "?"}, r"row 1 of .* has no 'prompt'; it has frage; columns: \{prompt: NAME\} in the recipe"),
    ],
    ids=str,
)
def test_prompts_that_cannot_be_read(row, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load(tmp_path, [row])


def test_text_that_lists_objects_is_text(tmp_path):
    for text in ('[{"value": 3}, {"value": 4}]: add them', '[{"value": 3}]', "[{'value': 3}] in Python?"):
        assert load(tmp_path, [{"prompt": text}])[0].prompt == text


@pytest.mark.parametrize(
    ("written", "gold"),
    [
        ("0.1234567890123456789012", "0.1234567890123456789012"),
        ("12345678901234567890.5", "12345678901234567890.5"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("0.1000000000000000055511151231257827", "0.1"),  # the float 0.1, printed in full
        ("1.5000000000000000000", "1.5"),
    ],
)
def test_a_gold_of_more_digits_than_a_float_holds_keeps_them(written, gold, tmp_path):
    (tmp_path / "rows.jsonl").write_text(f'{{"problem": "q", "answer": {written}}}\n')
    (problem,) = find_task("math").load("train", source=str(tmp_path / "rows.jsonl"))
    assert problem.gold == gold


def test_golds_and_ids_may_be_numbers(tmp_path):
    rows = [
        {"problem": "q", "answer": answer, "unique_id": n} for n, answer in enumerate([12, 12.0, 0.5, 1e-7, 10**30])
    ]
    problems = load(tmp_path, rows, "math")
    assert [problem.gold for problem in problems] == ["12", "12", "0.5", "0.0000001", "1" + "0" * 30]
    assert [problem.id for problem in problems] == ["0", "1", "2", "3", "4"]
    (problem,) = load(tmp_path, [{"question": "q", "answer": 1400}], "gsm8k")
    assert find_task("gsm8k").grade(problem, "\\boxed{1,400}") is True
    commas = [{"question": "q", "answer": answer} for answer in ("w #### 1,234,567", "(3, 4)", "1,2")]
    assert [problem.gold for problem in load(tmp_path, commas, "gsm8k")] == ["1234567", "(3, 4)", "1,2"]
    for wrong, found in ((True, "a bool"), (float("nan"), "nan"), ({}, "a dict")):
        with pytest.raises(DataError, match=f"'answer' in row 1 of .* is {found}; expected plain text"):
            load(tmp_path, [{"problem": "q", "answer": wrong}], "math")


def test_any_gold_of_a_list_is_right(tmp_path):
    problem, none = load(
        tmp_path, [{"problem": "q", "answer": ["1/2", 3, None, " "]}, {"problem": "q", "answer": []}], "math"
    )
    task = find_task("math")
    assert problem.golds == ("1/2", "3") and none.gold is None
    found = [task.grade(problem, f"\\boxed{{{answer}}}") for answer in ("0.5", "3", "4")]
    assert found == [True, True, False] and task.grade(problem, "?") is False and task.grade(none, "\\boxed{3}") is None


def test_capitals_do_not_matter(tmp_path):
    (problem,) = load(tmp_path, [{"Problem": "q", "Answer": "7"}], "math")
    assert (problem.text, problem.gold, problem.row) == ("q", "7", {"Problem": "q", "Answer": "7"})
    with pytest.raises(DataError, match="has no 'problem'; it has Problem, PROBLEM"):
        load(tmp_path, [{"Problem": "q", "PROBLEM": "r"}], "math")


def test_columns_of_other_names(tmp_path):
    row = {"prompt": "not this", "frage": "q", "reward_model": {"ground_truth": 3}, "nr": 8}
    columns = {"prompt": "frage", "gold": "reward_model.ground_truth", "id": "nr"}
    for task in ("prompts", "math", "gsm8k.lighteval"):
        (problem,) = load(tmp_path, [row], task, columns)
        assert (problem.id, problem.text, problem.gold, problem.row) == ("8", "q", "3", row)
    for columns, message in (
        ({"prompt": "fragen"}, "has no 'fragen', which columns names as its prompt; it has prompt, frage"),
        ({"promt": "frage"}, "columns has no 'promt'; did you mean 'prompt'"),
        ({"prompt": "frage", "gold": "frage"}, "'frage' in row 1 of .* is both the prompt and the gold"),
    ):
        with pytest.raises(rlif.RlifError, match=message):
            load(tmp_path, [row], "math", columns)
    for task in ("mbpp", "gsm8k.zeroeval", "clock"):
        with pytest.raises(RecipeError, match="has columns of its own, or none"):
            find_task(task).reading({"prompt": "frage"})


def test_two_problems_of_one_id_are_refused(tmp_path):
    problems = load(tmp_path, [{"problem": text, "unique_id": "a"} for text in "xy"], "math")
    with pytest.raises(DataError, match="two problems have the id 'a'"):
        by_id(problems)
