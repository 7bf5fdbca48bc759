"""Tests foresight sampling: selection, scores, advantages, ends, pairs."""

from __future__ import annotations

import math
import random
from itertools import permutations

import pytest
import torch
from support.rounds import told

import rlif
from rlif.config.recipe import Recipe
from rlif.engines.rounds.genius import (
    Foreseer,
    Foresight,
    draw_without_replacement,
    foresight,
    selection_probabilities,
    soft,
)
from rlif.errors import RecipeError
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.sampling.sampler import Completion, Decoding, TransformersSampler
from rlif.selection.scorer import Scorer

CLOCK = rlif.TASKS["clock"].load("train", limit=3)
END = 1  # the tokenizer's end-of-sequence token


def test_selection_is_a_softmax():
    scores, temperature = [-0.31, -0.25, -1.7], 0.1
    weights = [math.exp(score / temperature) for score in scores]
    assert selection_probabilities(scores, temperature) == pytest.approx([w / sum(weights) for w in weights], rel=1e-12)
    assert selection_probabilities([-1e6, -1e6 - 1], 0.1)[1] == pytest.approx(1 / (1 + math.exp(10)), rel=1e-9)


def test_places_are_drawn_without_replacement():
    """Ordered pairs are as frequent as p_i p_j / (1 - p_i), numpy's choice without replacement."""
    scores, rng, count = [0.0, 0.1, -0.1, 0.05], random.Random(2), 20_000
    p = selection_probabilities(scores, 0.1)
    drawn = [tuple(draw_without_replacement(scores, 2, 0.1, rng)) for _ in range(count)]
    for i, j in permutations(range(4), 2):
        share = p[i] * p[j] / (1 - p[i])
        assert abs(drawn.count((i, j)) / count - share) < 5 * math.sqrt(share * (1 - share) / count)
    assert sorted(draw_without_replacement(scores, 9, 0.1, rng)) == [0, 1, 2, 3]
    assert draw_without_replacement([], 2, 0.1, rng) == []


class Script:
    """Samples from lists of token ids, and scores completions by a rule that a test can repeat."""

    def __init__(self, *batches):
        self.batches, self.calls = list(batches), []

    def complete(self, prompts, how):
        self.calls.append((prompts, how))
        ids = self.batches.pop(0)
        assert len(ids) == len(prompts) * how.n
        return [
            Completion("", list(prompts[i // how.n]), list(each[: how.max_tokens]), len(each) > how.max_tokens)
            for i, each in enumerate(ids)
        ]

    def foresee(self, prompts, max_tokens=20, **settings):
        how = Foresight(step_end="|", **settings)
        decode = lambda ids: "".join("|" if i == 0 else chr(i) for i in ids if i != END)  # noqa: E731
        score = lambda pairs: [None if 99 in ids else -sum(ids) / len(ids) / 10 for _, ids in pairs]  # noqa: E731
        return Foreseer(self.complete, score, decode, Decoding(max_tokens, seed=3), how).foresee(prompts)


def test_scores_are_those_of_the_foresight_and_advantages_are_gains_of_the_beam():
    script = Script(
        [[50, 0], [60, 0]],  # two candidates of the first step
        [[51, END], [61, 63, END]],  # their foresights
        [[52, 0], [53, END]],  # the second step of the beam that was selected
        [[54, END]],
    )
    (found,) = script.foresee([[40]], beams=1, rollouts=2, steps=2, selection_temperature=0.01)
    first, other, second, ended = found
    assert [each.step for each in found] == [0, 0, 1, 1]
    assert (first.whole, other.whole) == ([50, 0, 51, END], [60, 0, 61, 63, END])
    assert (second.whole, ended.whole) == ([50, 0, 52, 0, 54, END], [50, 0, 53, END])
    scores = [-(51 + 1) / 20, -(61 + 63 + 1) / 30, -(54 + 1) / 20, -(53 + 1) / 20]
    assert [each.score for each in found] == pytest.approx(scores)
    # before the first step the beam has F = 0; the second begins with the first candidate, which is selected
    advantages = [scores[0], scores[1], scores[2] - scores[0], scores[3] - scores[0]]
    assert [each.advantage for each in found] == pytest.approx(advantages)
    # without a foresight, F is that of the step's own tokens
    assert [each.open for each in found] == [True, True, True, False]
    assert [each.sampled for each in found] == [4, 5, 4, 2]
    prompts = [prompts for prompts, _ in script.calls]
    assert prompts == [[[40]], [[40, 50, 0], [40, 60, 0]], [[40, 50, 0]], [[40, 50, 0, 52, 0]]]
    assert [(how.stop, how.temperature, how.n) for _, how in script.calls] == [(("|",), 0.6, 2), ((), 1.0, 1)] * 2
    assert len({how.seed for _, how in script.calls}) == 4


def test_sampling_ends_where_every_beam_has_ended():
    script = Script([[50, END], [51, END], [52, END], [53, END]])
    (found,) = script.foresee([[40]], beams=2, rollouts=2, steps=4)
    assert [each.whole for each in found] == [[50, END], [51, END], [52, END], [53, END]]
    assert len(script.calls) == 1


def test_the_token_limit_holds_for_the_whole():
    script = Script(
        [[50, 0], [60, 61, 62, 63, 64, 65]],  # the second runs into the limit of 5
        [[51] * 9],
        [[52, 0], [53, 54, 0]],
        [[55, 56, 57]],
    )
    (found,) = script.foresee([[40]], max_tokens=5, beams=1, rollouts=2, steps=2, selection_temperature=0.01)
    assert [each.whole for each in found[:2]] == [[50, 0, 51, 51, 51], [60, 61, 62, 63, 64]]
    assert [each.truncated for each in found] == [True, True, True, True]
    assert [len(each.whole) for each in found] == [5, 5, 5, 5]
    assert [how.max_tokens for _, how in script.calls] == [5, 3, 3, 1]


def test_candidates_without_a_score_are_not_selected():
    script = Script([[50, 0], [60, 0]], [[99, END], [61, END]], [[70, END]])
    (found,) = script.foresee([[40]], beams=2, rollouts=1, steps=2)
    assert (found[0].score, found[0].advantage) == (None, None)
    assert script.calls[2][0] == [[40, 60, 0]]


def test_problems_are_foreseen_together_and_apart_alike():
    batches = [[[50, 0], [60, 0]], [[51, END], [61, END]], [[70, END], [71, END]]]
    both = Script(*[[*batch, *batch] for batch in batches]).foresee([[40], [41]], beams=1, rollouts=2, steps=2)
    alone = Script(*batches).foresee([[40]], beams=1, rollouts=2, steps=2)
    scores = [[each.score for each in found[:2]] for found in (*both, *alone)]
    assert scores[0] == scores[1] == scores[2]


def test_a_model_of_torch_gives_the_log_probabilities_of_an_unpadded_pass(tmp_path):
    recipe = Recipe(model="tiny-reasoner")
    model, tokenizer = load_model(recipe), load_tokenizer(recipe)
    options = {"steps": 2, "step_end": ".", "rollouts": 2}
    scorer, decoding = Scorer(model, tokenizer, chat=False, batch_size=8), Decoding(max_tokens=24, temperature=1.0)
    round_ = told(tmp_path, problems=CLOCK, rounds={"options": options}, scorer=scorer, decoding=decoding)
    object.__setattr__(round_, "complete", TransformersSampler(model, tokenizer, 8).sample)
    rows = foresight(round_)
    assert {row["id"] for row in rows} == {problem.id for problem in CLOCK}
    assert {row["step"] for row in rows} == {0, 1} and max(row["tokens"] for row in rows) <= 24
    for row in rows[::3]:
        prompt, ids = round_.prompt_ids(row), row["completion_ids"]
        with torch.no_grad():
            logprob_LV = model(torch.tensor([prompt + ids])).logits[0].double().log_softmax(-1)
        each = [logprob_LV[len(prompt) + i - 1][token].item() for i, token in enumerate(ids)]
        assert row["likelihood"] == pytest.approx(sum(each) / len(each), abs=1e-4)
        # F is the mean of the last tokens, those after a step, or of all where the step ended the completion
        means = [sum(each[start:]) / len(each[start:]) for start in range(len(each))]
        assert min(abs(row["foresight"] - mean) for mean in means) < 1e-4
        assert row["completion"] == tokenizer.decode(ids, skip_special_tokens=True)
    again = foresight(round_)
    assert again == rows  # read back from the file


def test_each_step_gives_a_pair_with_its_advantages(tmp_path):
    names = ("sample", "step", "foresight", "advantage", "completion", "completion_ids")
    rows = [
        {"id": CLOCK[0].id, **dict(zip(names, values, strict=True))}
        for values in [
            (0, 0, -0.5, -0.5, "a", [5]),
            (1, 0, -0.2, -0.2, "b", [6]),
            (2, 0, None, None, "c", [7]),
            (3, 1, -0.3, -0.1, "d", [8]),
            (4, 1, -0.3, 0.2, "e", [9]),
        ]
    ]
    built = soft(told(tmp_path, problems=CLOCK), [rows])
    (example,) = built.examples
    assert (example.chosen_ids, example.rejected_ids, example.values) == ([6], [5], (-0.2, -0.5))
    assert built.counts == {"without_example": 1.0}
    more = [
        *rows,
        rows[0] | {"sample": 5, "foresight": -0.9, "advantage": -0.9, "completion": "f", "completion_ids": [4]},
    ]
    (example,) = soft(told(tmp_path, problems=CLOCK, rounds={"against": "worst"}), [more]).examples
    assert (example.chosen_ids, example.rejected_ids, example.values) == ([6], [4], (-0.2, -0.9))
    others = {
        soft(told(tmp_path, problems=CLOCK, rounds={"against": "random"}, seed=seed), [more])
        .examples[0]
        .rejected_ids[0]
        for seed in range(9)
    }
    assert others == {4, 5}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"beams": 0}, "beams must be at least 1, not 0"),
        ({"step_temperature": 0.0}, "step_temperature must be positive"),
        ({"step_end": ""}, "step_end is empty"),
        ({"beams": 1, "rollouts": 1}, "a pair takes two"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, options, says):
    with pytest.raises(RecipeError, match=says):
        foresight(told(tmp_path, problems=CLOCK, rounds={"options": options}))
