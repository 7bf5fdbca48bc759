"""Tests the forecast on made-up rollouts with a known answer and on small models."""

from __future__ import annotations

import random

import pytest
from typer.testing import CliRunner

import rlif
from rlif.cli.main import app
from rlif.intervals import Interval
from rlif.training.forecast import _over_groups, forecast, probe


def group(problem: int, answers, rewards, lengths=None, truncated=False):
    lengths = lengths or [4] * len(answers)
    return [
        {
            "prompt": f"problem {problem}",
            "prompt_ids": [problem],
            "completion": f"it is {answer}",
            "completion_ids": list(range(length)),
            "answer": answer,
            "truncated": truncated,
            "reward": reward,
        }
        for answer, reward, length in zip(answers, rewards, lengths, strict=True)
    ]


def rollout(pull: float, n: int = 40, seed: int = 0):
    """Makes groups whose frequent answer has a reward higher by `pull` than the others, in units of the noise."""
    rng = random.Random(seed)
    return [
        row
        for problem in range(n)
        for row in group(problem, "aaaabcde", [rng.gauss(pull * (answer == "a"), 1) for answer in "aaaabcde"])
    ]


def test_the_verdict_follows_whether_rewards_favour_the_frequent_answer():
    assert forecast(rollout(2.0)).verdict == "yes"
    assert forecast(rollout(-2.0)).verdict == "no"
    assert forecast(rollout(0.0)).verdict == "unclear"


def test_the_pull_is_a_probability_with_an_interval():
    pull = forecast(rollout(0.0, n=200)).pull
    assert pull and pull.low < 0.5 < pull.high and pull.n == 200
    sure = forecast(group(1, "aab", [3.0, 2.0, 1.0]) + group(2, "aab", [3.0, 2.0, 2.0])).pull
    assert sure and sure.mean == 0.875


def test_a_tie_between_answers_has_no_pull():
    found = forecast(group(1, "aabb", [1.0, 2.0, 3.0, 4.0]))
    assert found.pull is None and found.disagree == 1 and found.verdict == "unclear"


def test_the_scale_of_rewards_does_not_change_the_forecast():
    rows = rollout(1.0)
    other = [row | {"reward": 7 + 3 * row["reward"]} for row in rows]
    assert forecast(other).pull == forecast(rows).pull and forecast(other).verdict == forecast(rows).verdict


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (group(1, "aab", [1.0, 2.0, 3.0], truncated=True), "do not end"),
        (group(1, [None, None, "a"], [1.0, 2.0, 3.0]), "have no answer"),
        (group(1, "aab", [1.0, 1.0, 1.0]), "does not differ within groups"),
        ([row for i in range(20) for row in group(i, "aaa", [1.0, 2.0, 3.0])], "nothing to choose between"),
    ],
)
def test_the_verdict_no_gives_its_reason(rows, reason):
    found = forecast(rows)
    assert found.verdict == "no" and any(reason in said for said in found.reasons)


def test_the_pull_towards_longer_completions():
    longer = forecast(group(1, "aab", [1.0, 2.0, 3.0], lengths=[1, 2, 3])).longer
    assert longer and longer.mean == 1
    assert forecast(group(1, "aab", [1.0, 2.0, 3.0])).longer is None


def test_unscored_completions_are_left_out():
    found = forecast(group(1, "aab", [None, 2.0, 1.0]) + group(2, "aab", [3.0, 2.0, None]))
    assert found.completions == 6 and found.disagree == 0.5


def test_a_mean_over_one_group_has_no_interval():
    assert _over_groups([]) is None and _over_groups([None]) is None
    assert _over_groups([0.7, None]) == Interval(1, 0.7)
    assert _over_groups([0.0, 1.0]) == Interval(2, 0.5, 0.0, 1.0)  # Student's over two is clipped to 0..1
    assert _over_groups([1.0, 1.0]) == Interval(2, 1.0)


@pytest.mark.sweep
def test_the_forecast_is_yes_for_the_demo_and_no_for_a_random_model(model_folder):
    """The demo's base improved with every seed that was run; the random model never ends a completion."""
    assert probe(rlif.load_recipe("demo")).verdict == "yes"
    overrides = [f"model={model_folder}", "max_prompt_tokens=1024", "training.max_completion_length=8"]
    found = probe(rlif.load_recipe("demo", overrides), problems=4)
    assert found.verdict == "no" and found.problems == 4 and found.completions == 32


@pytest.mark.sweep
def test_the_forecast_uses_the_recipes_confidence_window(model_folder, monkeypatch):
    """With window 1 only the last token counts; with 2048 all tokens of these short completions."""
    seen = []
    monkeypatch.setattr("rlif.training.forecast.forecast", lambda rows: seen.append([row["reward"] for row in rows]))
    small = [f"model={model_folder}", "max_prompt_tokens=1024", "training.max_completion_length=8"]
    for reward, window in (("tail_confidence", 1), ("tail_confidence", 2048), ("mean_token_confidence", 1)):
        probe(rlif.load_recipe("demo", [*small, f"reward={reward}", f"confidence_window={window}"]), problems=2)
    assert seen[0] != seen[1] == seen[2]


@pytest.mark.sweep
def test_the_forecast_is_unclear_for_a_base_that_answers_without_steps():
    """At a low temperature the base only guesses, and is as confident in its rarer guesses."""
    found = probe(rlif.load_recipe("demo-long", ["training.temperature=0.05"]), problems=64)
    assert found.longer is None, "all completions are leaps, of one length"
    assert found.verdict == "unclear" and found.pull and found.pull.low < 0.5 < found.pull.high


@pytest.mark.sweep
def test_the_probe_command_prints_the_forecast_and_its_limits():
    done = CliRunner().invoke(app, ["probe", "demo", "--problems", "8"])
    assert done.exit_code == 0, done.output
    assert "64 completions of 8 problems, nothing trained" in done.output
    assert "will it gain: " in done.output and "need not be right" in done.output


@pytest.mark.parametrize(
    ("recipe", "what"), [("star", "gold answers"), ("star-plurality", "plurality vote"), ("genius", "foresight")]
)
def test_a_recipe_whose_samples_no_signal_chooses_is_refused(recipe, what):
    with pytest.raises(rlif.RlifError, match=f"a forecast is of a signal that chooses; .* chooses samples by {what}"):
        probe(rlif.load_recipe(recipe))
