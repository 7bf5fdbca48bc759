"""Tests the measures of health on text with known values."""

from __future__ import annotations

import random

import pytest

from rlif.guard.health import TAIL, compression, goes_on, measure_health, repetition

PROSE = "the clock adds seven and then eleven before it shows what nobody had asked for in the first place"


def row(completion: str, answer: str | None = "7", prompt: str = "Add two and five.", ids: list[int] | None = None):
    return {
        "prompt": prompt,
        "prompt_ids": list(prompt.encode()),
        "completion": completion,
        "completion_ids": list(completion.encode()) if ids is None else ids,
        "answer": answer,
    }


def test_repetition_from_none_to_all():
    assert repetition(range(100)) == 0
    assert repetition([5] * 100) == 96 / 97
    assert repetition([1, 2, 3]) == repetition([]) == 0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == 1 - 4 / 5


def test_repetition_does_not_depend_on_which_tokens_are_repeated():
    ids = random.Random(0).choices(range(6), k=50)
    assert repetition(ids) == repetition([token + 100 for token in ids])


def test_compression_orders_prose_loops_and_one_character():
    prose, loop, character = PROSE, "so it is. " * 40, "!" * 400
    assert 1 < compression(prose) < 2.4 < compression(loop) < compression(character)
    assert compression("") == 1.0
    assert compression("\ud800 lone surrogate") > 0


@pytest.mark.parametrize(
    "text",
    [
        r"It is \boxed{4}. " + "x" * (TAIL + 1),
        r"\boxed{\frac{1}{2}} and then " + "more " * TAIL,
        "It is 4.\n\nQuestion: what is 5 + 5?",
        "It is 4.<|im_start|>user",
        "It is 4.\n\nHuman: and 6 + 6?",
        "It is 4. Here is another problem.",
        "It is 4.\n### Problem 2: add",
    ],
)
def test_completions_that_go_on(text):
    assert goes_on(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        r"It is \boxed{4}.",
        r"It is \boxed{4}. " + "x" * (TAIL - 1),
        r"It is \boxed{4",
        r"\boxed{\text{a box that holds " + "very " * TAIL + "much}}",
        "Question: what is asked? It is 4.",
        "The problem is easy. The question: is it 4? It is 4.",
        "No box at all, " + "but much text " * 40,
    ],
)
def test_completions_that_end_with_their_answer(text):
    assert not goes_on(text)


def test_agreement_within_and_between_groups():
    agreeing = [row("7", "7")] * 4
    split = [row("x", answer, prompt="Another.") for answer in ("1", "1", "2", "3")]
    assert measure_health(agreeing)["distinct"] == 0 and measure_health(agreeing)["agreement"] == 1
    assert measure_health(split)["distinct"] == 2 / 3 and measure_health(split)["agreement"] == 0.5
    both = measure_health(agreeing + split)
    assert both["distinct"] == 1 / 3 and both["agreement"] == 0.75 and both["same_answer"] == 0.5


def test_health_does_not_depend_on_the_order_within_a_group():
    rows = [row("x" * n, str(n % 3)) for n in range(1, 9)]
    shuffled = random.Random(1).sample(rows, k=len(rows))
    assert measure_health(rows) == pytest.approx(measure_health(shuffled))


def test_missing_answers_are_counted_and_not_compared():
    found = measure_health([row("7", "7"), row("?", None), row("7", " 7 "), row("?", None)])
    assert found["unanswered"] == 0.5 and found["agreement"] == 1
    assert "agreement" not in measure_health([row("7", "7"), row("?", None)])
    assert measure_health([]) == {}


def test_prompt_use_is_the_share_of_the_problems_words():
    assert measure_health([row("two five add AND")])["prompt_use"] == 1
    assert measure_health([row("Two.")])["prompt_use"] == 0.25
    assert "prompt_use" not in measure_health([row("two", prompt="?")])
    turns = row("two five") | {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "two five"}]}
    assert measure_health([turns])["prompt_use"] == 1


def test_the_pull_is_how_often_the_reward_prefers_the_most_frequent_answer():
    def group(prompt: str, *pairs: tuple[str | None, float | None]) -> list[dict]:
        return [row("text", answer, prompt) | {"reward": reward} for answer, reward in pairs]

    clear = group("a", ("4", 3.0), ("4 ", 1.0), ("5", 2.0), ("6", 1.0), (None, 9.0))  # 3 > 2, 3 > 1, 1 < 2, 1 = 1
    tie = group("b", ("4", 3.0), ("5", 1.0))
    agreed = group("c", ("4", 3.0), ("4", 1.0))
    unscored = group("d", ("4", None), ("4", 2.0), ("5", 1.0))  # 2 > 1
    assert measure_health(clear)["pull"] == 2.5 / 4
    assert "pull" not in measure_health([*tie, *agreed])
    assert measure_health([*clear, *tie, *agreed, *unscored])["pull"] == (2.5 / 4 + 1) / 2
    assert "pull" not in measure_health([row("text"), row("text", "8")])
