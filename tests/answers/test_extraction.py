"""Tests the rules that extract an answer from a completion."""

from __future__ import annotations

import pytest

from rlif.answers.extraction import answer_line, choice_letter, fenced_code, json_answer, last_boxed, last_expression


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("it is \\boxed{7}.", "7"),
        ("\\boxed{3} no, \\boxed{4}", "4"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed {x}", "x"),
        ("\\boxed{a \\boxed{b}}", "b"),
        ("\\boxed{8", None),
        ("\\boxed{1} and \\boxed{2", None),
        ("{ \\boxed{5} never closed", "5"),
        ("} \\boxed{5}", "5"),
        ("the answer is 12", None),
        ("<answer>12</answer>", None),
        ("boxed{7}", None),
        ("\\boxed{}", None),
        ("\\boxed{4}, so \\boxed{ }", None),
        ("Give the final answer in \\boxed{}.", None),
        ("\\boxed{\\text{ }}", None),
        ("\\boxed{...}", None),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\fbox{12}", "12"),
        ("so $\\boxed 5$.", "5"),
        ("$\\boxed-1,200.$", "-1,200"),
        ("\\boxed{4} \\boxed", "4"),
        ("\\\\boxed{42}", "42"),
        ("", None),
    ],
)
def test_last_boxed_takes_the_last_complete_box(text, answer):
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 then \\boxed{7} then 9", "7"),
        ("so 1,234 apples.", "1234"),
        ("about -3.5.", "-3.5"),
        ("1/2 of 10", "10"),
        ("#### 18", "18"),
        ("nothing", None),
        ("The result is −5", "-5"),
        ("first \\boxed{3}; the final answer is \\boxed{\\frac{1}{2", None),
        ("5 then \\boxed{}", None),
        ("10-5", "5"),
        ("1,2,3", "3"),
        ("1{,}000", "1000"),
        ("1\\,000,000 or 2 000 m", "2000"),
        ("12,34,567.50", "1234567.50"),
    ],
)
def test_last_expression_takes_the_last_number_without_a_box(text, answer):
    assert last_expression(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("steps\nANSWER: 12\n", "12"),
        ("ANSWER: 1\nno\nanswer: $\\frac{1}{2}$", "\\frac{1}{2}"),
        ("**ANSWER: 7**", "7"),
        ("ANSWER: \\boxed{3}", "3"),
        ("ANSWER:\nx is 4", "4"),
        ("I give up", None),
        ("ANSWER: 42.", "42"),
        ("ANSWER: $42$.", "42"),
        ("It is \\boxed{42}.\nANSWER: 42.", "42"),
        ("ANSWER: **12**.", "12"),
        ("**ANSWER:** 12", "12"),
        ("ANSWER: 5</s>", "5"),
        ("ANSWER: 90 degrees.", "90 degrees"),
        ("ANSWER: \\(42\\).", "42"),
        ("ANSWER: \\boxed{}", None),
        ("\\[\\text{ANSWER: } 42", "42"),
    ],
)
def test_answer_line_takes_the_text_after_the_last_answer_mark(text, answer):
    assert answer_line(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("the answer is (C). No, the answer is (D).", "C"),
        ("the answer is B", "B"),
        ("Answer: A, that is, answer: E\nanswer: B", "E"),
        ("Answer: none, answer:\nH", "H"),
        ("either H or, rather, I", "I"),
        ("the answer is (K)", None),
        ("none of it", None),
        ("", None),
    ],
)
def test_choice_letter(text, letter):
    assert choice_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('```json\n{"reasoning": "2\n+2", "answer": "4"}\n```', "4"),
        ('{"answer": 4}', "4"),
        ('{"answer": ["a", 1]}', "['a', 1]"),
        ('{"answer": null}', "None"),
        ('{"reasoning": "no answer"} then "answer": "5"', "5"),
        ('{"reasoning": "broken, "answer": "6"', "6"),
        ('{"answer": 7, and so on', "7"),
        ("answer: 8, surely", "8"),
        ('{"a": {"answer": "1"}} {"answer": "2"}', "1"),
        ("I do not know \\boxed{9}", None),
        ("{" * 5000, None),
    ],
)
def test_json_answer(text, answer):
    assert json_answer(text) == answer


def test_json_answer_accepts_a_boxed_word_if_asked():
    assert json_answer("so \\boxed{9}", boxed=True) == "9"
    assert json_answer("so \\boxed{9 + 1}", boxed=True) is None


def test_fenced_code_takes_the_last_complete_block():
    assert fenced_code("```python\nx = 1\n```\nbetter:\n```\ny = 2\n\nz\n```\n") == "y = 2\n\nz"
    assert fenced_code("x = 1") is None and fenced_code("```python\nx = 1") is None


@pytest.mark.parametrize("rule", [last_boxed, last_expression, answer_line, choice_letter, json_answer, fenced_code])
@pytest.mark.parametrize(
    "text", ["\\boxed{" * 50_000, "answer: " * 50_000, "{" * 200_000, "A" * 300_000, "```\n" * 50_000, "11," * 100_000]
)
def test_rules_are_fast_on_long_texts(rule, text):
    """A rule with quadratic running time takes minutes here."""
    assert rule(text) is None or isinstance(rule(text), str)
