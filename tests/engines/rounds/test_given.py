"""Tests SPIN's pairs and STaR's rationalisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.rounds import told

import rlif
from rlif.engines.rounds.given import check_comparable, check_given, check_gold, given, hinted, rationalised
from rlif.errors import DataError, RecipeError

TASK = rlif.TASKS["clock"]
CLOCK = TASK.load("train", limit=3)


STAR = rlif.load_recipe("star")


def row(problem, text, sample=0, right=None):
    return {"id": problem.id, "sample": sample, "completion": text, "completion_ids": [7, len(text)], "right": right}


def test_the_given_answer_is_chosen_against_own_samples(tmp_path):
    round_ = told(tmp_path, problems=CLOCK)
    first, second, _ = CLOCK
    groups = [
        [row(first, "no"), row(first, " no "), row(first, "perhaps", 2)],
        [row(second, f" {second.solution}\n"), row(second, "five", 1)],
    ]
    built = given(round_, groups)
    tokenizer = round_.scorer.tokenizer
    assert [(each.id, each.rejected_ids) for each in built.examples] == [
        (first.id, [7, 2]),
        (first.id, [7, 7]),
        (second.id, [7, 4]),
    ]
    assert built.counts == {"same_text": 1.0}
    for example, problem in zip(built.examples, (first, first, second), strict=True):
        assert tokenizer.decode(example.chosen_ids) == f"{problem.solution}<|end|>"
        assert tokenizer.decode(example.prompt_ids) == f"<|user|>{problem.text}<|end|><|assistant|>"


def test_problems_without_what_a_method_reads_are_refused():
    bare = [CLOCK[0], replace(CLOCK[1], solution=" ", gold=None), replace(CLOCK[2], solution=None)]
    with pytest.raises(DataError, match="of clock 2 of 3 problems have no worked solution"):
        check_given(None, TASK, bare)
    with pytest.raises(DataError, match="of clock 1 of 3 problems have no gold answer"):
        check_gold(STAR, TASK, bare)
    check_given(None, TASK, CLOCK)
    check_gold(STAR, TASK, CLOCK)
    with pytest.raises(DataError, match="no gold answer to hint at"):
        hinted(bare[1])


def test_programs_are_graded_by_their_tests_and_compared_by_nothing(monkeypatch):
    task, problem = rlif.TASKS["mbpp"], replace(CLOCK[0], gold=None, data={"tests": []})
    asked = []
    monkeypatch.setattr("rlif.engines.rounds.given.require_sandbox", lambda: asked.append(1))
    check_gold(STAR, task, [problem])
    assert asked == [1]
    with pytest.raises(DataError, match="rationalise reads gold answers, and of mbpp 1 of 1 problems have no gold"):
        check_gold(rlif.load_recipe("star", ["rounds.rationalise=true"]), task, [problem])
    with pytest.raises(RecipeError, match="choose: plurality counts equal answers, and the answers of task mbpp are"):
        check_comparable(rlif.load_recipe("star-plurality"), task, [problem])


def test_only_failed_problems_are_sampled_again_and_trained_on_without_the_hint(tmp_path):
    solved, failed, hopeless = CLOCK
    answers = {failed.text: failed.gold, hopeless.text: "never"}

    def says(prompt, i):
        answer = next(answer for text, answer in answers.items() if text in prompt)
        return f"Step {i}. The answer is \\boxed{{{answer if i else 'wrong'}}}."

    round_ = told(tmp_path, says, CLOCK, rounds={"choose": "gold", "rationalise": True})
    drawn = [row(solved, "x", right=False), row(solved, "y", 1, right=True)]
    drawn += [row(problem, "x", right=False) for problem in (failed, hopeless)]
    rows, counts = rationalised(round_, drawn)
    assert [prompt for prompt, _ in round_.asked] == [
        f"<|user|>{each.text} (The answer is {each.gold}. Explain how to get there.)<|end|><|assistant|>"
        for each in (failed, hopeless)
    ]
    (found,) = rows
    assert (found["id"], found["right"], found["rationalised"]) == (failed.id, True, True)
    assert found["answer"] == failed.gold and "Step 1" in found["completion"]
    assert round_.scorer.tokenizer.decode(found["completion_ids"]) == f"{found['completion']}<|end|>"
    hint = " (The answer is"
    assert hint not in round_.scorer.tokenizer.decode(round_.prompt_ids(found))
    texts = [says(each.text, i) for each in (failed, hopeless) for i in range(2)]
    tokens = sum(len(text) + 1 for text in texts)  # bytes, and the end
    assert counts == {"hinted": 2.0, "rationalised": 1.0, "hint_tokens": float(tokens)}


def test_nothing_is_sampled_where_all_are_solved(tmp_path):
    round_ = told(tmp_path, problems=CLOCK[:1])
    assert rationalised(round_, [row(CLOCK[0], "y", right=True)]) == (
        [],
        {"hinted": 0.0, "rationalised": 0.0, "hint_tokens": 0.0},
    )
    assert round_.asked == []
