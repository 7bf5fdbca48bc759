"""Tests deduction: what a proposal may be, what the sandbox returns, learnability, the data of a round."""

from __future__ import annotations

import json

import pytest
from support.rounds import told

import rlif
from rlif.engines.rounds.deduction import (
    OPTIONS,
    SEED,
    Proposal,
    answer_of,
    check,
    check_proposals,
    check_runnable,
    is_right,
    learnability,
    parse_proposal,
    propose_and_solve,
    propose_prompt,
    solve_prompt,
    verified,
)
from rlif.engines.rounds.examples import by_groups
from rlif.errors import DataError, RecipeError

CLOCK = rlif.TASKS["clock"].load("train", limit=8)


def written(code, given):
    return f"Here it is.\n```python\n{code}\n```\n```input\n{given}\n```"


DOUBLE = ("def f(xs):\n    return [2 * x for x in xs]", "[1, 2]")
COUNT = ("from collections import Counter\n\ndef f(text, n=1):\n    return Counter(text).most_common(n)", '"abca", n=1')


@pytest.mark.parametrize("proposal", [DOUBLE, COUNT, (SEED.code, SEED.input), ("def f():\n    return 1", "")])
def test_a_proposal_is_read(proposal):
    assert parse_proposal(written(*proposal)) == proposal


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def f(x): return x", "lacks a block"),
        ("```python\ndef f(x): return x\n```", "lacks a block"),
        (written("def f(x)\n return", "1"), "not Python"),
        (written("def f(x):\n    return x", "open('a')"), "not Python, or its input has other things than literals"),
        (written("def f(x):\n    return x", "1) + f(2"), "not the arguments of a call"),
        (written("def f(x):\n    return x", "'" + "a" * 400 + "'"), "not the arguments of a call"),
        (written("def g(x):\n    return x", "1"), "no function f"),
        (written("import os\ndef f(x):\n    return os.getpid()", "1"), "imports another module"),
        (written("from random import random\ndef f(x):\n    return random()", "1"), "imports another module"),
        (written("def f(x):\n    import time\n    return time.time()", "1"), "imports another module"),
        (written("def f(x):\n    return id(x)", "1"), "forbidden name"),
        (written("def f(x):\n    return x.__class__", "1"), "forbidden name"),
        (written("x = 3\ndef f(y):\n    return x", "1"), "more than functions and imports"),
    ],
)
def test_what_is_no_proposal_is_not_run(text, why):
    assert why in parse_proposal(text)


def test_the_sandbox_returns_outputs_and_discards_the_rest(sandbox):
    codes = {
        "[2 * x for x in xs]": ("[1, 2]", "[2, 4]"),
        "{'a': (xs, None, 1.5)}": ("[True]", "{'a': ([True], None, 1.5)}"),
        "set(xs)": ("['b', 'a', 'c']", "a set"),
        "list(set(xs))": ("['b', 'a', 'c', 'd', 'e', 'f', 'g', 'h']", "it returns another value each time"),
        "1 / xs": ("0", "it does not run"),
        "lambda: xs": ("1", "its output is not a literal"),
        "float('nan') * xs": ("1", "its output is not a literal"),
        "'a' * xs": ("400", "its output is too long"),
    }
    parsed = [(f"def f(xs):\n    return {code}", given) for code, (given, _) in codes.items()]
    found = check_proposals(["it lacks a block", *parsed])
    assert found[0] == "it lacks a block"
    for each, (code, given), (_, wanted) in zip(found[1:], parsed, codes.values(), strict=True):
        if wanted == "a set":
            assert isinstance(each, Proposal) and is_right("{'a', 'b', 'c'}", each.output)
        else:
            assert each == (wanted if wanted.startswith("it") else Proposal(code, given, wanted))


def test_a_function_whose_value_depends_on_the_hash_seed_is_discarded(sandbox):
    """The order of a set of texts depends on Python's hash seed, so the two runs have two."""
    code = "def f(words):\n    return next(iter({*words}))"
    words = [f"word{i}" for i in range(20)]
    assert check_proposals([(code, json.dumps(words))]) == ["it returns another value each time"]


@pytest.mark.parametrize(
    ("right", "value"),
    [([True], 0.0), ([False], 0.0), ([], 0.0), ([True, False], 0.5), ([True] + [False] * 7, 0.875), ([True] * 8, 0.0)],
)
def test_learnability_is_one_minus_the_share_unless_none_is_right(right, value):
    assert learnability(right) == value


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("so <answer>[1, 2]</answer>", "[1, 2]"),
        ("<answer>1</answer> no, <answer>\n`2`\n</answer>", "2"),
        ("<answer></answer>", None),
        ("[1, 2]", None),
    ],
)
def test_the_last_answer_counts(prediction, answer):
    assert answer_of(prediction) == answer


@pytest.mark.parametrize(
    ("answer", "output", "right"),
    [
        ("[1,2]", "[1, 2]", True),
        ('"a"', "'a'", True),
        ("{2, 1}", "{1, 2}", True),
        ("[2, 1]", "[1, 2]", False),
        ("1 + 1", "2", False),
        ("f(1)", "2", False),
        ("a", "'a'", False),
        (None, "2", False),
        ("(" * 500, "2", False),
    ],
)
def test_an_answer_is_right_as_a_literal_of_the_value(answer, output, right):
    assert is_right(answer, output) is right


def test_prompts_hold_what_was_put_in():
    shown = propose_prompt([SEED, Proposal(*DOUBLE, "[2, 4]")])
    assert "f(\"Hello world\") returns 'Hello world'" in shown and "f([1, 2]) returns [2, 4]" in shown
    text = solve_prompt("def f(d):\n    return {**d, 'input': 1}", "{'code': 2}")
    assert "return {**d, 'input': 1}\n" in text and "What does f({'code': 2}) return?" in text


def proposer(prompt, i):
    """Writes two proposals that run, one of them twice, and one that does not; predicts some outputs."""
    if "Write a new function" in prompt:
        return [written(*DOUBLE), written(*COUNT), written(*DOUBLE) + " ", "no"][i]
    if "2 * x" in prompt:
        return "<answer>[2, 4]</answer>" if i == 0 else f"<answer>[{i}]</answer>"
    return "<answer>[('a', 2)]</answer>"


def round_of(folder, says=proposer, **changes):
    rounds = {"sample": "deduction", "choose": "verified", "options": changes.pop("options", {})}
    return told(folder, says, CLOCK[:4], rounds=rounds, n=4, **changes)


@pytest.fixture(scope="module")
def first(sandbox, tmp_path_factory):
    """A first round and its rows, in its folder."""
    folder = tmp_path_factory.mktemp("rounds") / "round-001"
    folder.mkdir()
    round_ = round_of(folder)
    return round_, propose_and_solve(round_)


def test_a_round_proposes_checks_and_predicts(first):
    round_, rows = first
    groups = by_groups(rows)
    assert [group[0]["id"] for group in groups] == ["propose/001/0000", "deduce/001/0000", "deduce/001/0001"]
    assert [len(group) for group in groups] == [4, 4, 4]
    proposals, double, count = groups
    assert [row["valid"] for row in proposals] == [True, True, True, False]
    assert [row["learnability"] for row in proposals] == [0.75, 0.0, 0.75, None]
    assert [row["right"] for row in double] == [True, False, False, False]
    assert [row["right"] for row in count] == [True] * 4
    decode = round_.scorer.tokenizer.decode
    assert "2 * x" in decode(double[0]["prompt_ids"]) and "Hello world" in decode(proposals[0]["prompt_ids"])
    assert all(row["self_certainty"] is not None and row["prompt_ids"] for row in rows)
    buffer = [json.loads(line) for line in (round_.folder / "buffer.jsonl").read_text().splitlines()]
    assert [(each["input"], each["output"]) for each in buffer] == [("[1, 2]", "[2, 4]"), ('"abca", n=1', "[('a', 2)]")]
    again = round_of(round_.folder, says=lambda prompt, i: "")
    assert propose_and_solve(again) == rows and again.asked == []


def test_the_next_round_shows_what_the_buffer_holds_and_proposes_it_no_more(first, tmp_path):
    before, second = first[0].folder, tmp_path
    new = "def f(x):\n    return x + 1", "41"
    says = lambda prompt, i: written(*(new if i else DOUBLE)) if "Write a new" in prompt else ""  # noqa: E731
    rows = propose_and_solve(round_of(second, says, before=before, number=2))
    assert "f([1, 2]) returns [2, 4]" in first[0].scorer.tokenizer.decode(rows[0]["prompt_ids"])
    assert [row["learnability"] for row in rows[:4]] == [0.0] * 4  # the first is known, the others were never predicted
    assert {row["id"] for row in rows[4:]} == {"deduce/002/0000"}
    assert (second / "buffer.jsonl").read_text().startswith((before / "buffer.jsonl").read_text())


def test_pairs_prefer_right_predictions_and_learnable_proposals(first):
    round_, rows = first
    built = verified(round_, by_groups(rows))
    by_id = {example.id: example for example in built.examples}
    assert set(by_id) == {"propose/001/0000", "deduce/001/0000"}  # all predictions of the other are right
    proposal, prediction = by_id["propose/001/0000"], by_id["deduce/001/0000"]
    assert (proposal.chosen_ids, proposal.rejected_ids) == (rows[0]["completion_ids"], rows[3]["completion_ids"])
    assert prediction.chosen_ids == rows[4]["completion_ids"]
    unsure = min(rows[5:8], key=lambda row: row["self_certainty"])
    assert prediction.rejected_ids == unsure["completion_ids"]
    assert built.counts == {
        "without_example": 1.0,
        "runnable": 0.75,
        "predicted": 0.625,
        "learnability": pytest.approx(1.5 / 4),
        "proposal_examples": 1.0,
    }


def test_fine_tuning_keeps_right_predictions_and_learnable_proposals(first):
    _, rows = first
    round_ = round_of(first[0].folder, algorithm="sft")
    found = verified(round_, by_groups(rows)).examples
    assert [example.id for example in found] == ["propose/001/0000", "deduce/001/0000", "deduce/001/0001"]
    assert [example.chosen_ids for example in found[:2]] == [rows[0]["completion_ids"], rows[4]["completion_ids"]]
    assert {example.rejected_ids for example in found} == {None}


def test_a_policy_that_cannot_propose_is_refused(tmp_path, sandbox):
    with pytest.raises(DataError, match=r"0 of 4 proposals are functions that run .* \(of 4, it lacks a block\)"):
        propose_and_solve(round_of(tmp_path, says=lambda prompt, i: "The answer is five."))
    check_runnable([None, "a", "a"], 0.3)
    with pytest.raises(DataError, match=r"1 of 3 .* at least 50%"):
        check_runnable([None, "a", "b"], 0.5)


@pytest.mark.parametrize(
    ("rounds", "says"),
    [
        ({"options": {"proposals": 1}}, "a pair of proposals takes two"),
        ({"options": {"examples": 0}}, "examples must be at least 1"),
        ({"options": {"least_runnable": 1.5}}, "share from 0 to 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, rounds, says):
    recipe = told(tmp_path, rounds={"sample": "deduction", "choose": "verified"} | rounds).recipe
    assert set(recipe.rounds.options) <= set(OPTIONS)
    with pytest.raises(RecipeError, match=says):
        check(recipe, rlif.TASKS["clock"], CLOCK)
