"""Tests that any text has one spelling, and is compared without a traceback."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlif.answers.comparison import same
from rlif.answers.spelling import LONGEST, respell
from rlif.answers.structure import parse

PIECES = [
    *[
        "\\frac",
        "\\dfrac",
        "\\sqrt",
        "\\text",
        "\\left",
        "\\right",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\\\",
        "&",
        "\\pm",
    ],
    *[
        "\\cup",
        "\\in",
        "\\le",
        "\\infty",
        "\\boxed",
        "\\{",
        "\\}",
        "\\,",
        "\\!",
        "\\%",
        "\\circ",
        "\\approx",
        "\\overline",
    ],
    *["{", "}", "(", ")", "[", "]", "<", ">", "=", ",", ";", ".", ":", "/", "|", "^", "_", "$", "**", "`", " ", "\n"],
    *[
        "0",
        "1",
        "23",
        "456",
        "x",
        "y",
        "cm",
        "and",
        "or",
        "e",
        "½",
        "−",
        "５",
        "²",
        "√",
        "°",
        "∞",
        "\u2044",
        "\u215f",
        "\0",
    ],
]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=12)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(texts, texts)
def test_any_two_texts_are_compared(answer, gold):
    verdict = same(answer, gold, lambda a, b: False)
    assert verdict in (True, False) and same(gold, answer, lambda a, b: False) == verdict
    assert parse(answer) is not None
    if answer == gold:
        assert verdict == bool(respell(answer))


def test_a_spelling_is_its_own_spelling():
    rows = [
        json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    spellings = [respell(row[side]) for row in rows for side in ("answer", "gold")]
    assert [respell(spelling) for spelling in spellings] == spellings


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("\\dfrac12", "\\frac{1}{2}"),
        ("**$\\left( 3 ,\\; 4 \\right)$**.", "(3,4)"),
        ("\\begin{pmatrix} 1 \\\\[4pt] 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        ("1,\\!000{,}000", "1000000"),
        ("x^2", "x^{2}"),
        ("2 \\pi r", "2\\pi r"),
        ("\\text{Evelyn}", "\\text{Evelyn}"),
        ("√(x+1)", "\\sqrt{x+1}"),
        ("5</s>", "5"),
        ("The final answer is: 7.", "7"),
        ("\\boxed{}", ""),
    ],
)
def test_the_spelling_of_an_answer(text, spelling):
    assert respell(text) == spelling


@pytest.mark.parametrize(
    "piece",
    [
        *["{", "(", "\\frac", "\\sqrt", "^", "**", ". ", "1,", "\\text{", "\\left(", " ", "$", "x=", "<", "\\begin{"],
        *["a", "AAAA ", "yes ", "5 feet ", "5 in ", "km/h ", "\\text{cm}", "1 000 ", "]1,2[", "\\pm", "x>1 and "],
    ],
)
def test_long_texts_are_respelled_and_compared_quickly(piece):
    """A text of the greatest length takes milliseconds; a quadratic step would take minutes."""
    text = (piece * LONGEST)[:LONGEST]
    start = time.process_time()
    for short in (text[:-2] + "1", "5" + text[:-2] + "!"):
        same(short, "7", lambda a, b: False)
    respell(text * 50)
    assert time.process_time() - start < 20
