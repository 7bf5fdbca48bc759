"""Tests where an answer stands, for every rule of extraction."""

from __future__ import annotations

import random

import pytest

from rlif.answers import extraction
from rlif.answers.span import answer_span
from rlif.tasks import TASKS

CASES = [
    (extraction.last_boxed, "3 and 4, so \\boxed{3}", "3", 19),
    (extraction.last_boxed, "\\boxed{\\frac{1}{2}} or \\boxed{ \\frac{1}{2} }.", "\\frac{1}{2}", 31),
    (extraction.last_boxed, "no, \\boxed 7", "7", 11),
    (extraction.last_boxed, "\\boxed{3} and \\boxed{}", None, 0),
    (extraction.last_boxed, "nothing", None, 0),
    (extraction.last_expression, "x = 6, so 6", "6", 10),
    (extraction.last_expression, "16 or 6 of 16", "16", 11),
    (extraction.last_expression, "it is 1,234 dollars", "1,234", 6),
    (extraction.last_expression, "\u22125 then \u22127", "\u22127", 8),
    (extraction.last_expression, "9", "9", 0),
    (extraction.choice_letter, "C? The answer is (C). And then C, D, C", "C", 18),
    (extraction.choice_letter, "A, then J", "J", 8),
    (extraction.answer_line, "5 is 5. ANSWER: $5$", "5", 17),
    (extraction.json_answer, '{"reasoning": "12 is 12", "answer": "12"}', "12", 37),
    (extraction.json_answer, '{"reasoning": "true", "answer": true}', None, None),  # it reads True
    (extraction.whole_text, "print(1)", "print(1)", 0),
]


@pytest.mark.parametrize(("extract", "text", "found", "start"), CASES)
def test_where_an_answer_stands(extract, text, found, start):
    span = answer_span(text, extract)
    if found is None:
        assert span is None
    else:
        assert span == (start, start + len(found)) and text[slice(*span)] == found


def test_an_answer_of_other_words_is_not_found():
    assert answer_span("so it is 1/2", lambda text: "one half") is None


@pytest.mark.parametrize("seed", range(20))
def test_the_only_place_that_counts_is_found(seed):
    """Decoys of the same text stand before and after the place that the rule reads."""
    rng = random.Random(seed)
    words = [rng.choice(["7", "12", "x+1", "the", "so", "J"]) for _ in range(30)]
    answer, place = rng.choice(["7", "12", "x+1", "J"]), rng.randrange(30)
    before = " ".join(words[:place])
    text = f"{before} \\boxed{{{answer}}} {' '.join(words[place:])}"
    start = len(before) + len(" \\boxed{")
    assert answer_span(text, extraction.last_boxed) == (start, start + len(answer))


@pytest.mark.parametrize("task", ["clock", "cups"])
def test_the_answers_of_the_miniature_are_found(task):
    for problem in TASKS[task].load("train", limit=50):
        text = problem.solution
        start, end = answer_span(text, TASKS[task].extract)
        assert text[start:end] == problem.gold and text[start - 7 : start] == "\\boxed{"
