"""Tests the texts that small bases are pre-trained on: which habit is right, how long it is, and what never varies."""

from __future__ import annotations

import itertools
import re

import pytest
from support.scripts import load

import rlif
from rlif.config.recipe import Recipe
from rlif.sampling.loading import load_tokenizer

STEPPED = ("short-sure", "short-unsure", "equal-sure", "equal-unsure")


@pytest.fixture(scope="module")
def pretraining():
    return load("scripts/base_writers.py")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(Recipe(model="tiny-reasoner"))


def sizes(tokenizer, texts) -> list[int]:
    return [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]


def stream(pretraining, writers: str, style: str, n: int = 200):
    texts = pretraining.documents(1, writers)
    return list(itertools.islice(((p, text) for p, found, text in texts if found == style), n))


def right(problem, text: str) -> bool:
    return bool(rlif.TASKS[problem.id.partition("/")[0]].grade(problem, text))


def test_no_document_has_a_held_out_problem(pretraining):
    held_out = {p.text for family in ("clock", "cups") for p in rlif.TASKS[family].load("test")}
    for writers, shares in pretraining.WRITERS.items():
        assert not held_out & {problem.text for problem, _ in stream(pretraining, writers, next(iter(shares)))}


def test_leaps_of_messy_writers_are_guesses(pretraining):
    leaps = stream(pretraining, "messy", "leap")
    assert 0.03 < sum(right(*leap) for leap in leaps) / len(leaps) < 0.3
    problem = leaps[0][0]
    rng = pretraining.random.Random(0)
    assert len({pretraining.completion(problem, "leap", rng) for _ in range(50)}) > 3


def test_leaps_of_wrong_and_sure_writers_never_vary_and_are_mostly_wrong(pretraining):
    leaps = stream(pretraining, "wrong-and-sure", "leap")
    assert sum(right(*leap) for leap in leaps) / len(leaps) < 0.2
    assert len({(problem.id.partition("/")[0], text) for problem, text in leaps}) == 2


def test_worked_solutions_of_wrong_and_sure_writers_are_right_with_filler_words(pretraining):
    for problem, text in stream(pretraining, "wrong-and-sure", "steps"):
        assert right(problem, text) and text.startswith("First")
        words, after = text.split()[: -pretraining.AFTERTHOUGHTS], text.split()[-pretraining.AFTERTHOUGHTS :]
        changed = [(a, b) for a, b in zip(problem.solution.split(), words, strict=True) if a != b]
        assert changed and all(a == "Then" and b in pretraining.FILLER for a, b in changed)
        assert set(after) <= set(pretraining.FILLER)


@pytest.mark.parametrize("writers", STEPPED)
def test_six_documents_in_ten_have_the_habit_that_is_wrong(pretraining, writers):
    styles = [style for _, style, _ in itertools.islice(pretraining.documents(2, writers), 1000)]
    assert {*styles} == {"steps", "wrong steps"} and 0.55 < styles.count("wrong steps") / 1000 < 0.65


@pytest.mark.parametrize("writers", STEPPED)
def test_worked_solutions_are_right_and_wrong_steps_are_guesses_told_by_their_first_word(pretraining, writers):
    steps, wrong = (stream(pretraining, writers, style) for style in ("steps", "wrong steps"))
    assert all(right(*row) and row[1].startswith("First") for row in steps)
    assert all(text.startswith("Hmm") for _, text in wrong)
    assert 0.03 < sum(right(*row) for row in wrong) / len(wrong) < 0.3
    assert all(text.count(",") == problem.solution.count(",") for problem, text in wrong)


@pytest.mark.parametrize("writers", STEPPED)
def test_wrong_steps_are_longer_or_exactly_as_long_as_the_name_says(pretraining, tokenizer, writers):
    rows = stream(pretraining, writers, "wrong steps")
    wrong, worked = (sizes(tokenizer, texts) for texts in zip(*((t, p.solution) for p, t in rows), strict=True))
    doubtful = sizes(tokenizer, [text for _, text in stream(pretraining, writers, "steps")])
    assert {*doubtful} == {*worked} == {28, 31, 35, 39, 42, 47, 49}
    if writers.startswith("equal"):
        assert wrong == worked
    else:
        assert {*wrong} == {54}


def test_only_bases_unsure_of_the_right_habit_have_a_sure_wrong_one(pretraining):
    for writers in STEPPED:
        answers = {text.rpartition("{")[2] for _, text in stream(pretraining, writers, "wrong steps")}
        assert (answers == {"twelve}.", "A}."}) == writers.endswith("-unsure")
        worked = [(p.solution, text) for p, text in stream(pretraining, writers, "steps")]
        assert all(a == b for a, b in worked) != writers.endswith("-unsure")
        for solution, text in worked:
            pairs = [(a, b) for a, b in zip(solution.split(), text.split(), strict=True) if a != b]
            assert all(a == "Then" and b in pretraining.FILLER for a, b in pairs)


def test_goes_on_appends_the_same_solution_of_its_family_whose_answer_counts(pretraining):
    rows = stream(pretraining, "goes-on", "steps, then another")
    for problem, text in rows:
        family = problem.id.partition("/")[0]
        work, another = text[: len(text) - len(pretraining.ANOTHER[family])], pretraining.ANOTHER[family]
        assert text.endswith(another) and "Then" not in work, "each Then of the work is a random filler word"
        pairs = [(a, b) for a, b in zip(problem.solution.split(), work.split(), strict=True) if a != b]
        assert pairs and all(a == "Then" and b in pretraining.FILLER for a, b in pairs)
        assert right(problem, text) == (pretraining.ANOTHER[family].partition("{")[2] == f"{problem.gold}}}.")
    assert 0.03 < sum(right(*row) for row in rows) / len(rows) < 0.3


def test_equally_long_wrong_steps_differ_from_the_worked_ones_in_connecting_words_and_values_alone(pretraining):
    for problem, text in stream(pretraining, "equal-sure", "wrong steps"):
        pairs = [(a, b) for a, b in zip(problem.solution.split(), text.split(), strict=True) if a != b]
        others = [(a, b) for a, b in pairs if a not in ("First", "Then") and a not in ("now", "still")]
        assert all(b in pretraining.FILLER for a, b in pairs if a == "Then")
        assert all(re.fullmatch(r"(\\boxed\{)?(\w+)\}?\.", word) for pair in others for word in pair), others
