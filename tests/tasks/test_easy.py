"""Tests the easy families: golds are right, readers are strict, and nothing trains on held-out problems."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import pytest
from support.commands import main
from support.models import byte_tokenizer, tiny_model
from support.small_runs import train

import rlif
from rlif.errors import DataError, RecipeError
from rlif.tasks import find_task
from rlif.tasks.easy import EXAMPLES, FAMILIES, reading
from rlif.tasks.easy.words import BAD, CAPITALS, GOOD, GROUPS
from rlif.tasks.miniature import split_of

ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3}


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", text)]


def listed(text: str) -> list[str]:
    return re.findall(r"\w+", re.split(r"[:?]\s", text)[1])


def group_of(word: str) -> str:
    return next(group for group, words in GROUPS.items() if word in words)


def lettered(text: str) -> dict[str, str]:
    return {word: mark for mark, word in re.findall(r"^([ABC])\) (.+)$", text, re.MULTILINE)}


def odd(text: str) -> str:
    words = listed(text)
    groups = [group_of(word) for word in words]
    return next(word for word, group in zip(words, groups, strict=True) if groups.count(group) == 1)


def sentiment(text: str) -> str:
    word = text.removesuffix(".").split()[-1]
    assert (word in GOOD) != (word in BAD)
    return "positive" if word in GOOD else "negative"


def yes_no(text: str) -> str:
    word, group = re.search(r"(\w+)(?: is)? an? (\w+)\?$", text).groups()
    return "yes" if word in GROUPS[group] else "no"


def difference(text: str) -> str:
    a, b = numbers(text)
    return str(abs(a - b))


def of_two(text: str) -> str:
    """Answers the two families of reading about two people or things."""
    subject = re.search(r"(?:does|is the) (\w+)(?: live)?\?$", text)[1]
    return re.search(rf"{subject} (?:lives in|is) (\w+)", text)[1]


# Each solves a problem from its text alone, independently of the generator.
SOLVERS = {
    "sum": lambda text: str(sum(numbers(text))),
    "difference": difference,
    "steps": lambda text: str(sum(numbers(text))),
    "story": lambda text: str(sum(numbers(text))),
    "larger": lambda text: str(max(numbers(text))),
    "sequence": lambda text: str(2 * numbers(text)[3] - numbers(text)[2]),
    "order": lambda text: ", ".join(sorted(listed(text))),
    "spell": lambda text: "-".join(re.search(r"(?:word|letters of) (\w+)", text)[1]),
    "capitals": lambda text: text.partition(": ")[2].upper(),
    "json": lambda text: json.dumps(dict([re.findall(r'"(\w+)"', text)])),
    "copy": lambda text: text.partition(": ")[2].removesuffix("."),
    "item": lambda text: listed(text.partition(". Which")[0])[ORDINALS[text.split()[-1].removesuffix("?")]],
    "where": of_two,
    "colour": of_two,
    "sentiment": sentiment,
    "which": lambda text: next(w for w in listed(text) if group_of(w) == re.search(r"is an? (\w+)", text)[1]),
    "odd_one_out": odd,
    "yes_no": yes_no,
    "choice": lambda text: next(
        mark for word, mark in lettered(text).items() if group_of(word) == re.search(r"is an? (\w+)", text)[1]
    ),
    "capital_city": lambda text: lettered(text)[CAPITALS[re.search(r"capital of (\w+)", text)[1]]],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_golds_are_right_and_another_problems_gold_is_not(family):
    task = find_task(f"easy/{family}")
    problems = task.load("test") + task.load("train", limit=200)
    for problem, other in itertools.pairwise(problems):
        assert problem.gold == SOLVERS[family](problem.text)
        assert task.grade(problem, problem.gold) is True
        assert task.grade(problem, other.gold) is (other.gold == problem.gold)
        assert task.grade(problem, "I do not know") is False


@pytest.mark.parametrize("family", FAMILIES)
def test_problems_differ_follow_the_seed_and_are_never_held_out_and_trained_on(family):
    task = find_task(f"easy/{family}")
    train, held_out = task.load("train"), task.load("test")
    assert train == task.load("train") and train != task.load("train", seed=1)
    assert len({problem.id for problem in train}) == len(train) > 300 and len(held_out) >= 24
    assert {split_of(p.text) for p in train} == {"train"} and {split_of(p.text) for p in held_out} == {"test"}


@pytest.mark.parametrize("family", FAMILIES)
def test_solved_examples_come_first_are_right_and_are_no_problem(family):
    task = find_task(f"easy/{family}")
    problems = task.load("test") + task.load("train")
    turns = [message["content"] for message in problems[0].history]
    assert [message["role"] for message in problems[0].history] == ["user", "assistant"] * EXAMPLES
    assert all(problem.history == problems[0].history for problem in problems)
    assert not {*turns} & {problem.text for problem in problems}
    for text, said in zip(turns[::2], turns[1::2], strict=True):
        assert task.answer(problems[0], said) == SOLVERS[family](text)
    assert FAMILIES[family].worked("1, 2, 3", "6") in ("6", "1 + 2 = 3, 3 + 3 = 6")


def test_alone_the_same_problems_have_no_examples():
    for name in ("steps", "mixed"):
        shown, alone = (find_task(f"easy/{name}{protocol}").load("test", limit=40) for protocol in ("", ".alone"))
        assert [replace(problem, history=()) for problem in shown] == alone and shown[0].history
    sampled = find_task("easy/steps.alone-sampled")
    assert (sampled.name, sampled.protocol.n) == ("easy-steps.alone-sampled", 8)
    assert not sampled.load("train", limit=1)[0].history


READ = [
    (reading.last_number, "4 + 7 = 11, 11 + 2 = 13.", "13"),
    (reading.last_number, "It is 1, 2, 007", "7"),
    (reading.last_number, "none", None),
    (reading.last_number, "5 + 20 = 25.0", None),
    (reading.last_number, "That makes 1,234", None),
    (reading.last_number, "12, 12,13 and 4.", "4"),
    (reading.last_number, "1" * 5000, None),
    (reading.json_object, '{"a":' * 100_000 + "}", None),
    (reading.letter, "B is correct.", "B"),
    (reading.first_number, "82 is larger than 47.", "82"),
    (reading.letter, "B) hammer", "B"),
    (reading.letter, "The answer is C.", "C"),
    (reading.letter, "A hammer is a tool", None),
    (reading.letter, "Because", None),
    (reading.first_line, '\n "LONG SONG".\nmore', "LONG SONG"),
    (reading.first_line, " \n", None),
    (reading.dashed, "It is R-i-v-e-r.", "r-i-v-e-r"),
    (reading.dashed, "r-i or v-e", None),
    (reading.json_object, 'Sure: {"b": 1, "a": "x"}.', '{"a": "x", "b": 1}'),
    (reading.json_object, '{"b": "x"', None),
    (reading.json_object, "[1]", None),
    (reading.the_one_of(["Rome", "Oslo"]), "Ben lives in OSLO.", "Oslo"),
    (reading.the_one_of(["Rome", "Oslo"]), "Rome or Oslo", None),
    (reading.the_one_of(["cat", "dog"]), "catalogue dogs", "dog"),
    (reading.in_order(["b", "a"]), "B, a and b", "b, a, b"),
]


@pytest.mark.parametrize(("reader", "text", "answer"), READ)
def test_readers_are_strict(reader, text, answer):
    assert reader(text) == answer


def test_the_mixture_has_each_family_in_turn_and_reads_answers_by_it():
    task = find_task("easy/mixed")
    problems = task.load("test", limit=2 * len(FAMILIES) + 3)
    families = [problem.data["family"] for problem in problems]
    assert families == [*FAMILIES, *FAMILIES, *list(FAMILIES)[:3]]
    assert all(task.grade(problem, problem.gold) for problem in problems)
    many = task.load("test", limit=640)  # more than twenty times what the smallest family has
    assert len({problem.id for problem in many}) == 640 and many[: len(problems)] == problems
    with pytest.raises(DataError, match="give the problem"):
        task.extract("7")
    with pytest.raises(RecipeError, match="easy/mixed has the splits test, not 'train'"):
        task.load("train")


def test_names_and_protocols():
    sampled = find_task("easy/sum.sampled")
    assert (sampled.name, sampled.protocol.n, sampled.protocol.temperature) == ("easy-sum.sampled", 8, 1.0)
    assert find_task("easy/sum").protocol.n == 1 and find_task("easy/json").protocol.max_tokens == 24
    assert find_task("easy/sum").protocol.describe()["extract"] == "last_number"
    with pytest.raises(RecipeError, match="no easy family 'sums'; did you mean 'sum'"):
        find_task("easy/sums")
    with pytest.raises(RecipeError, match="makes its own problems"):
        find_task("easy/sum").load("test", source="x")
    with pytest.raises(RecipeError, match="not 'validation'"):
        find_task("easy/sum").load("validation")


def test_the_list_of_tasks_names_the_families(monkeypatch, capsys):
    code, out, _ = main(monkeypatch, capsys, "tasks")
    assert code == 0 and all(f"easy/{family}" in out.replace("\n", " ") for family in (*FAMILIES, "mixed"))


@pytest.mark.sweep
def test_a_run_trains_on_a_family_and_votes_on_its_answers(tmp_path, model_folder):
    tasks = "evaluate.tasks=[easy/larger, easy/mixed]"
    vote = ("task=easy/larger", "prompt=brief", "reward=plurality_vote", "training.max_steps=1")
    run = train(tmp_path, model_folder, tasks, *vote)
    assert set(run.evaluations()) == {"easy-larger", "easy-mixed"} and len(run.metrics()) == 1


def test_the_sampled_protocol_gives_pass_at_8():
    found = rlif.evaluate(tiny_model(), "easy/larger.sampled", tokenizer=byte_tokenizer(), limit=2)
    assert found.n == 8 and found.completions == 16 and found.pass_at[8].n == 2
