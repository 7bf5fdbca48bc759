"""Extraction and equality of answers."""

from __future__ import annotations

import pytest

from rlif.extraction import last_boxed
from rlif.grading import equal


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("it is \\boxed{7}.", "7"),
        ("\\boxed{3} no, \\boxed{4}", "4"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed {x}", "x"),
        ("\\boxed{8", None),
        ("\\boxed{1} and \\boxed{2", "1"),
        ("the answer is 12", None),
        ("<answer>12</answer>", None),
        ("boxed{7}", None),
        ("", None),
    ],
)
def test_the_last_complete_box(text, answer):
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("\\frac{1}{2}", "0.5", True),
        ("\\dfrac12", "\\frac{1}{2}", True),
        ("1,234", "1234", True),
        ("(2, 5)", "(5, 2)", False),
        ("x=5", "5", True),
        ("50\\%", "\\frac{1}{2}", True),
        ("7", "8", False),
        ("", "8", False),
        ("\\text{Evelyn}", "\\text{Evelyn}", True),
    ],
)
def test_mathematical_equality(answer, gold, same):
    assert equal(answer, gold) is same
