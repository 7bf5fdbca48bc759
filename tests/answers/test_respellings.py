"""Tests that harmless respellings of gold answers are equal to them, and other answers are not.

A small part daily, all golds of MATH and GSM8K in a sweep. Every pair that comes out otherwise is listed with a reason.
"""

import random

import pytest
from support.respellings import respellings

import rlif
from rlif.answers.equality import equal_all

REFUSED = {  # and why
    ("0.56 = 56", "0.56 = 56\\%"): "one side of an equation alone has a percent sign, and loses it",
    ("144", "144 \\mbox{ m}^3"): "the gold breaks off inside its box",
}
ACCEPTED = {  # truly equal, or by the word units, which may stand for any
    ("18\\text{ hours}", "18\\text{ units}"): "units",
    ("4 \\text{ feet}", "4\\text{ units}"): "units",
    ("\\mbox{Saturday}", "\\text{Saturday}"): "equal",
    ("-\\frac{1}{\\sqrt{2}}", "-\\frac{\\sqrt{2}}{2}"): "equal",
    ("\\dfrac34", "\\frac 34"): "equal",
    ("-\\frac 32", "-\\tfrac32"): "equal",
    ("\\dfrac13", "\\frac 13"): "equal",
}
PARTS = [pytest.param(400, id="a part"), pytest.param(None, marks=pytest.mark.sweep, id="all")]


@pytest.fixture(scope="module")
def golds(data_folder) -> list[str]:
    problems = [rlif.TASKS["math"].load(split) for split in ("train", "test")] + [rlif.TASKS["gsm8k"].load("test")]
    return sorted({p.gold for part in problems for p in part if p.gold}, key=lambda gold: (len(gold), gold))


def some(golds: list[str], number: int | None) -> list[str]:
    return golds if number is None else random.Random(0).sample(golds, number)


@pytest.mark.parametrize("number", PARTS)
def test_respellings_of_golds_are_equal_to_them(golds, number):
    pairs = [(other, gold) for gold in some(golds, number) for _, other in respellings(gold)]
    wrong = [pair for pair, verdict in zip(pairs, equal_all(pairs), strict=True) if not verdict]
    assert len(pairs) > 10 * len(some(golds, number))
    assert set(wrong) <= set(REFUSED)


@pytest.mark.parametrize("number", PARTS)
def test_neighbouring_golds_are_different(golds, number):
    """Golds of the same length are neighbours, so that they differ in little."""
    pairs = [(a, b) for distance in range(1, 6) for a, b in zip(golds, golds[distance:], strict=False)]
    pairs = pairs[:20_000] if number is None else random.Random(0).sample(pairs, 2 * number)
    equal = [pair for pair, verdict in zip(pairs, equal_all(pairs), strict=True) if verdict]
    assert number is not None or len(pairs) == 20_000
    assert set(equal) == set(ACCEPTED) if number is None else set(equal) <= set(ACCEPTED)


@pytest.mark.parametrize("number", PARTS)
def test_golds_with_one_digit_changed_are_different(golds, number):
    chance, pairs = random.Random(0), []
    for gold in some(golds, number):
        places = [place for place, character in enumerate(gold) if character in "0123456789"]
        for place in chance.sample(places, min(3, len(places))):
            digit = chance.choice([digit for digit in "123456789" if digit != gold[place]])
            pairs.append((gold[:place] + digit + gold[place + 1 :], gold))
    equal = [pair for pair, verdict in zip(pairs, equal_all(pairs), strict=True) if verdict]
    assert equal == []
