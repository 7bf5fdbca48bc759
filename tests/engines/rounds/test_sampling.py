"""Tests the rewards of samples against independent arithmetic in float64, and the resuming of work in batches."""

from __future__ import annotations

import math
import statistics as exact
from dataclasses import replace
from pathlib import Path

import pytest
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.engines.rounds import choices, sampling
from rlif.engines.rounds.examples import Example, Round, by_groups, in_batches, read_examples, write_examples
from rlif.errors import DataError
from rlif.sampling.sampler import Decoding
from rlif.selection.scorer import Scorer
from rlif.tasks import TASKS
from rlif.tasks.prompts import PROMPTS

CLOCK = TASKS["clock"]
PROBLEMS = CLOCK.load("train", limit=2)


def a_round(tmp_path: Path, *overrides: str, model=None) -> Round:
    recipe = rlif.load_recipe("best-of-n-sft", [*overrides, "rounds.batch_size=4"])
    scorer = Scorer(model, byte_tokenizer(), batch_size=4)
    decoding = Decoding(6, temperature=1.0, n=3, seed=5, ends=scorer.ends)
    return Round(1, 5, tmp_path, recipe, CLOCK, PROMPTS["plain"], PROBLEMS, scorer, decoding)


def rows(answers: list[list[str | None]], sure: list[list[float | None]], right=None) -> list[dict]:
    """Samples of the problems, with these answers and this self-certainty."""
    return [
        {
            "id": problem.id, "sample": i, "completion": f"\\boxed{{{answer}}} {value}", "completion_ids": [7, i, 1],
            "answer": answer, "right": None if right is None else answer == problem.gold, "tokens": 3,
            "truncated": False, "self_certainty": value, "likelihood": None if value is None else -value,
        }
        for problem, group, values in zip(PROBLEMS, answers, sure, strict=True)
        for i, (answer, value) in enumerate(zip(group, values, strict=True))
    ]  # fmt: skip


def test_a_single_reward_is_taken_as_it_is(tmp_path):
    samples = rows([["one", "two", None], ["six", "six", "one"]], [[3.0, 1.0, None], [2.0, 2.5, 0.5]])
    found = sampling.measured(a_round(tmp_path, "reward={self_certainty: 2}"), samples)
    assert [row["reward"] for row in found] == [6.0, 2.0, None, 4.0, 5.0, 1.0]
    votes = sampling.measured(a_round(tmp_path, "reward=plurality_vote"), samples)
    assert [row["reward"] for row in votes] == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    gold = [[PROBLEMS[0].gold, "two" if PROBLEMS[0].gold != "two" else "one", None], [PROBLEMS[1].gold] * 3]
    graded = sampling.measured(a_round(tmp_path, "reward=accuracy"), rows(gold, [[1.0] * 3] * 2))
    assert [row["reward"] for row in graded] == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_several_rewards_are_scaled_within_their_group_and_added_by_weight(tmp_path):
    sure = [[3.0, 1.0, 2.5], [2.0, 2.5, 0.5]]
    answers = [["one", "two", "two"], ["six", "one", "six"]]
    round_ = a_round(tmp_path, "reward={self_certainty: 2, plurality_vote: 0.5}", "normalisation=group_std")
    found = [row["reward"] for row in sampling.measured(round_, rows(answers, sure))]
    expected = []
    for values, group in zip(sure, answers, strict=True):
        votes = [float(group.count(answer) == 2) for answer in group]
        parts = []
        for column in (values, votes):
            mean, spread = exact.fmean(column), exact.stdev(column)
            parts.append([mean + (value - mean) / (spread + 1e-4) for value in column])
        expected += [2 * a + 0.5 * b for a, b in zip(*parts, strict=True)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_rows_of_other_problems_have_token_signals_alone(tmp_path):
    other = rows([["one"] * 3, ["two"] * 3], [[1.0, 2.0, 3.0]] * 2)
    foreign = [{**row, "id": "elsewhere"} for row in other[:2]]
    found = sampling.measured(a_round(tmp_path), [*foreign, *other])
    assert [row["reward"] for row in found[:2]] == [1.0, 2.0] and found[2]["reward"] == 1.0
    votes = sampling.measured(a_round(tmp_path, "reward=plurality_vote"), [*foreign, *other])
    assert [row["reward"] for row in votes[:2]] == [None, None]


def test_statistics_are_means_over_all_samples(tmp_path):
    round_ = a_round(tmp_path)
    samples = sampling.measured(round_, rows([["one"] * 3, ["two"] * 3], [[3.0, 1.0, None], [2.0, 2.5, 0.5]]))
    found = sampling.statistics(round_, samples)
    assert found["reward"] == found["self_certainty"] == pytest.approx(9 / 5)
    spreads = exact.stdev([3.0, 1.0]), exact.stdev([2.0, 2.5, 0.5])
    assert found["reward_spread"] == pytest.approx(exact.fmean(spreads), rel=1e-12)
    assert found["unscorable"] == 1 / 6 and found["completion_length"] == 3 and found["truncated"] == 0
    with pytest.raises(DataError, match="a round drew no sample"):
        sampling.statistics(round_, [])
    gold = sampling.statistics(a_round(tmp_path / "gold", "rounds.choose=gold"), samples)
    assert found.keys() - gold.keys() == {"reward", "reward_spread"}  # of a reward that does not choose


def test_whole_completions_are_drawn_once_and_read_back(tmp_path):
    model = tiny_model()
    round_ = a_round(tmp_path, "model=tiny-reasoner", model=model)
    first = sampling.whole(round_)
    assert len(first) == 6 and all(
        row["completion_ids"] and len(row["completion_ids"]) == row["tokens"] for row in first
    )
    bytes_ = (tmp_path / "samples.jsonl").read_bytes()
    lines = bytes_.splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:9])
    assert sampling.whole(a_round(tmp_path, "model=tiny-reasoner", model=model)) == first
    assert (tmp_path / "samples.jsonl").read_bytes() == bytes_
    # Another signal than self-certainty takes a pass over the samples, and every signal is there then.
    (tmp_path / "other").mkdir()
    other = sampling.whole(a_round(tmp_path / "other", "reward=likelihood", model=model))
    assert [row["completion_ids"] for row in other] == [row["completion_ids"] for row in first]
    stats = rlif.score_completions(
        model, [round_.rendered[row["id"]] for row in other], [row["completion_ids"] for row in other]
    )
    assert [row["likelihood"] for row in other] == pytest.approx(rlif.SIGNALS["likelihood"](stats), rel=1e-5)


def test_programs_of_the_model_are_run_for_choose_gold_alone(tmp_path, monkeypatch):
    graded = []
    monkeypatch.setattr(type(CLOCK), "runs_code", True)
    monkeypatch.setattr(type(CLOCK), "mark", lambda self, problems, texts, **_: graded.append(1) or 1 / 0)
    (tmp_path / "gold").mkdir()
    drawn = sampling.whole(a_round(tmp_path, model=tiny_model()))
    assert graded == [] and {row["right"] for row in drawn} == {None}
    with pytest.raises(ZeroDivisionError):
        sampling.whole(a_round(tmp_path / "gold", "rounds.choose=gold", model=tiny_model()))


# Choices.


def built(tmp_path, name, samples, *overrides):
    round_ = a_round(tmp_path, *overrides)
    samples = sampling.measured(round_, samples)
    return choices.CHOICES[name].build(round_, by_groups(samples))


DPO = ("algorithm=dpo", "rounds.reference=last")


def test_the_surest_answer_is_kept_or_preferred(tmp_path):
    samples = rows([["one", "two", "six"], ["six", "six", "one"]], [[1.0, 3.0, 2.0], [None, None, None]])
    kept = built(tmp_path, "surest", samples)
    assert [example.chosen_ids for example in kept.examples] == [[7, 1, 1]] and kept.counts == {"without_example": 1.0}
    two = built(tmp_path, "surest", samples, "rounds.keep=2")
    assert [example.chosen_ids[1] for example in two.examples] == [1, 2]
    (pair,) = built(tmp_path, "surest", samples, *DPO).examples
    assert (pair.chosen_ids[1], pair.rejected_ids[1], pair.values) == (1, 0, (3.0, 1.0))
    others = {
        built(tmp_path, "surest", samples, *DPO, "rounds.against=random", f"seed={seed}").examples[0].rejected_ids[1]
        for seed in range(3)
    }
    assert others <= {0, 2}


def test_the_plurality_is_kept_and_ties_are_not(tmp_path):
    sure = [[1.0, 2.0, 3.0]] * 2
    kept = built(tmp_path, "plurality", rows([["one", "two", "two"], ["six", "one", None]], sure))
    assert [(example.id, example.chosen_ids[1]) for example in kept.examples] == [(PROBLEMS[0].id, 1)]
    assert kept.counts == {"without_example": 1.0}
    pairs = built(tmp_path, "plurality", rows([["one", "two", "two"], ["six", "six", "six"]], sure), *DPO)
    assert [(e.chosen_ids[1], e.rejected_ids[1]) for e in pairs.examples] == [(1, 0)]  # a unanimous group has no pair


def test_borda_keeps_the_surest_sample_of_the_answer_that_it_chooses(tmp_path):
    # Ranks 1 to 3 of three samples weigh ((3 - r + 1) / 3) ** 0.3: 1, 0.885, 0.719; two of "two" outweigh "one".
    samples = rows([["one", "two", "two"], [None, None, None]], [[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    kept = built(tmp_path, "borda", samples)
    assert [example.chosen_ids[1] for example in kept.examples] == [2]
    (pair,) = built(tmp_path, "borda", samples, *DPO).examples
    assert (pair.chosen_ids[1], pair.rejected_ids[1]) == (2, 0)


def test_gold_keeps_right_samples_alone(tmp_path):
    wrong = ["one" if problem.gold != "one" else "two" for problem in PROBLEMS]
    answers = [[wrong[0], PROBLEMS[0].gold, PROBLEMS[0].gold], [wrong[1], None, wrong[1]]]
    samples = rows(answers, [[5.0, 1.0, 2.0]] * 2, right=True)
    kept = built(tmp_path, "gold", samples, "rounds.keep=3")
    assert [(e.id, e.chosen_ids[1]) for e in kept.examples] == [(PROBLEMS[0].id, 1), (PROBLEMS[0].id, 2)]
    (pair,) = built(tmp_path, "gold", samples, *DPO).examples
    assert pair.rejected_ids[1] == 0 and pair.values == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("best-of-n-sft", (1, 8, 8 * 56)),
        ("genius", (4, 32, 32 * 56)),  # a pair of each of 4 steps; 2 beams x 4 rollouts x 4 steps
        ("spin", (1, 1, 56)),
        ("self-rewarding", (1, 4 + 12, 4 * 512 + 12 * 256)),  # three judgements of each answer
        ("absolute-zero-deduction", (2, 9, 9 * 512)),  # a proposal and eight predictions
    ],
)
def test_what_a_problem_gives_at_most(name, most):
    found = choices.most_of(rlif.load_recipe(name))
    assert (found.examples, found.completions, found.tokens) == most
    hinted = choices.most_of(rlif.load_recipe("star", ["rounds.rationalise=true", "rounds.keep=3"]))
    assert (hinted.examples, hinted.completions) == (3, 16)


# Work that is resumed.


def test_work_in_batches_is_not_done_twice(tmp_path):
    path, done = tmp_path / "work.jsonl", []

    def work(part, number):
        done.append(number)
        return [{"item": item, "batch": number} for item in part]

    found = in_batches(path, [*range(5)], 2, work, "working")
    assert [len(batch) for batch in found] == [2, 2, 1] and done == [0, 1, 2]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:-5])  # killed within the second line
    done.clear()
    assert in_batches(path, [*range(5)], 2, work, "working") == found and done == [1, 2]
    assert path.read_bytes() == whole
    done.clear()
    assert in_batches(path, [*range(5)], 2, work, "working") == found and done == []


def test_examples_are_read_as_they_were_written(tmp_path):
    examples = [Example("a", [1, 2], [3]), Example("b", [1], [2, 3], [4], (0.5, -1.25))]
    write_examples(tmp_path, examples)
    assert read_examples(tmp_path) == examples
    (tmp_path / "data.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match=r"line 1 of .*data.jsonl is damaged: it is not a row to train on."):
        read_examples(tmp_path)


def test_a_round_knows_its_prompts_and_gives_repeatable_chance(tmp_path):
    round_ = a_round(tmp_path)
    assert round_.prompt_ids({"id": PROBLEMS[1].id}) == round_.render(PROBLEMS)[1]
    assert round_.prompt_ids({"id": "elsewhere", "prompt_ids": [4]}) == [4]
    assert round_.rng("a", 1).random() == round_.rng("a", 1).random() != round_.rng("a", 2).random()
    assert replace(round_, seed=6).rng("a", 1).random() != round_.rng("a", 1).random()
    assert math.isnan(sampling.mean([None]))
