"""Tests the policy as its own judge: prompts, scores, means, pairs, and what is refused."""

from __future__ import annotations

import pytest
from support.rounds import told

import rlif
from rlif.engines.rounds.self_rewarding import check, check_parsed, judge, judge_prompt, mean_score, read_score
from rlif.errors import DataError, RecipeError

CLOCK = rlif.TASKS["clock"].load("train", limit=2)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("It is right.\nScore: 4", 4.0),
        ("Score: 3.5", 3.5),
        ("score = 0", 0.0),
        ("**Score:** 2", 2.0),
        ("The score is 5.", 5.0),
        ("Score: 1, no, Score: 3", 3.0),
        ("Score: 4/5", 4.0),
        ("Score: 6", None),
        ("Score: -1", None),
        ("Score: <points from 0 to 5>", None),
        ("I give 4 points", None),
        ("underscore: 3", None),
        ("", None),
    ],
)
def test_a_score_is_the_last_that_is_named(text, score):
    assert read_score(text) == score


def test_means_leave_out_what_cannot_be_read():
    assert mean_score([1.0, None, 4.0]) == 2.5
    assert mean_score([None, None]) is None
    assert mean_score([]) is None


def test_braces_of_an_answer_stay():
    text = judge_prompt("What is {answer}?", "A set {question} and {x}")
    assert "Question:\nWhat is {answer}?\n" in text and "Answer:\nA set {question} and {x}\n" in text


def test_too_few_scores_are_refused():
    check_parsed(5, 10, 0.5)
    check_parsed(0, 0, 0.5)
    with pytest.raises(DataError, match="4 of 10 judgements name a score from 0 to 5, and at least 50% must"):
        check_parsed(4, 10, 0.5)


SCORES = {"good": ["Score: 5", "Score: 4", "none"], "bad": ["Score: 1", "Score: 0", "Score: 2"], "mute": ["", "", ""]}


def says(prompt, i):
    return next(scores[i] for answer, scores in SCORES.items() if f"Answer:\n{answer}\n" in prompt)


def group(problem, *texts):
    ids = {text: [10 + i] for i, text in enumerate(texts)}
    return [
        {"id": problem.id, "sample": i, "completion": text, "completion_ids": ids[text], "answer": None}
        for i, text in enumerate(texts)
    ]


def test_the_best_judged_answer_is_preferred_to_the_worst(tmp_path):
    round_ = told(tmp_path, says, CLOCK)
    groups = [group(CLOCK[0], "bad", "mute", "good"), group(CLOCK[1], "good", "mute")]
    built = judge(round_, groups)
    (example,) = built.examples  # the second group has one answer with a score
    assert (example.id, example.chosen_ids, example.rejected_ids) == (CLOCK[0].id, [12], [10])
    assert example.values == (4.5, 1.0)
    assert built.counts["without_example"] == 1
    assert built.counts["parsed"] == pytest.approx(7 / 15)
    assert built.counts["judge_score"] == pytest.approx((5 + 4 + 1 + 0 + 2 + 5 + 4) / 7)
    tokens = sum(len(text) + 1 for each in (*groups[0], *groups[1]) for text in SCORES[each["completion"]])
    assert built.counts["judge_tokens"] == tokens
    assert len(round_.asked) == 5 and CLOCK[0].text in round_.asked[0][0]
    assert {(how.n, how.temperature, how.top_p, how.max_tokens) for _, how in round_.asked} == {(3, 0.7, 0.9, 256)}


@pytest.fixture(autouse=True)
def half(monkeypatch):
    """7 of 15 scores can be read in these tests."""
    monkeypatch.setitem(judge.__globals__["OPTIONS"], "least_parsed", 0.4)


def test_the_best_are_kept_for_fine_tuning(tmp_path):
    round_ = told(tmp_path, says, CLOCK, algorithm="sft")
    built = judge(round_, [group(CLOCK[0], "bad", "good", "mute")])
    assert [(each.chosen_ids, each.rejected_ids) for each in built.examples] == [([11], None)]


def test_judgements_are_read_back_and_a_tie_gives_no_pair(tmp_path):
    groups = [group(CLOCK[0], "good", "good ")]
    SCORES["good "] = SCORES["good"]
    first = judge(told(tmp_path, says, CLOCK), groups)
    again = told(tmp_path, lambda prompt, i: "Score: 0", CLOCK)
    assert judge(again, groups) == first and again.asked == []
    assert first.examples == [] and first.counts["without_example"] == 1


def test_a_policy_that_writes_no_scores_is_refused(tmp_path):
    with pytest.raises(DataError, match="0 of 6 judgements name a score"):
        judge(told(tmp_path, lambda prompt, i: "Nice.", CLOCK), [group(CLOCK[0], "good", "bad")])


@pytest.mark.parametrize(
    ("options", "says"), [({"judgements": 0}, "must be positive"), ({"least_parsed": 2.0}, "share from 0 to 1")]
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, says):
    recipe = told(tmp_path, rounds={"options": options}).recipe
    with pytest.raises(RecipeError, match=says):
        check(recipe, rlif.TASKS["clock"], CLOCK)
