"""Rewards by name, and recipes in which they cannot work."""

from __future__ import annotations

from typing import get_args

import pytest

import rlif
from rlif.config.loading import load_recipe
from rlif.config.schedule import Rows
from rlif.graders import FACTORS, GRADERS, NEED_GOLD
from rlif.rewards.terms import check_gold, check_labels, find_term, kind_of, reads_problems
from rlif.signals import GROUP_SIGNALS, NEEDS, SIGNALS
from rlif.training.prepare import check_names
from rlif.types import Problem


def labelled(completions, solution, **_):
    return [1.0 for _ in completions]


def label_free(completions, **_):
    return [1.0 for _ in completions]


def no_columns(prompts, completions, trainer_state):
    return [1.0 for _ in completions]


def asks_for_level(completions, level):
    return [1.0 for _ in completions]


def test_the_tables_do_not_overlap():
    names = [*SIGNALS, *GROUP_SIGNALS, *GRADERS]
    assert len(names) == len(set(names)) and set(NEEDS) == set(SIGNALS)
    assert set(NEED_GOLD) <= set(GRADERS) and set(FACTORS) <= set(names)


def test_kinds():
    kinds = {"self_certainty": "token", "plurality_vote": "group", "accuracy": "grader"}
    kinds |= {f"{__name__}:labelled": "function", "trl.rewards.accuracy_reward": "function", "some/model": "model"}
    assert {name: kind_of(name) for name in kinds} == kinds
    with pytest.raises(rlif.RlifError, match="group_confidence_tail is now called tail_confidence"):
        find_term("group_confidence_tail")
    for name in (*SIGNALS, *GROUP_SIGNALS, *GRADERS):
        assert find_term(name).name == name and find_term(name).gold == (name in NEED_GOLD)


@pytest.mark.parametrize(
    ("reward", "wanted"),
    [
        ("self_certainty", False),
        ("{self_certainty: 1, plurality_vote: 1, format: 1, random: 1}", False),
        (f"{__name__}:label_free", True),  # it takes all columns
        (f"{__name__}:no_columns", False),
        ("{self_certainty: 1, accuracy: 0}", True),
        ("seed_grpo", True),
        (f"{__name__}:labelled", True),
    ],
)
def test_gold_is_asked_for_by_name_or_by_parameter(reward, wanted):
    assert reads_problems(load_recipe("demo", [f"reward={reward}"])) is wanted


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reward={self_certanty: 1}"], "unknown reward 'self_certanty'; did you mean 'self_certainty'"),
        (["reward=plurality_vot"], "did you mean 'plurality_vote'"),
        (["reward={no_module_here:f: 1}"], "cannot import the reward"),
        (["reward=accuracy", "annotator=ema"], "accuracy measures none; leave annotator out"),
        (["reward=semantic_entropy"], "go together"),
        (["equivalence={embedding: x}"], "go together"),
        (["reward={seed_grpo: 1, format: 1}", "mixing=sum"], "seed_grpo scales advantages"),
        (["rewarded_per_group=9"], "rewarded_per_group is 9, more than the 8"),
        (["reward=plurality_vote", "training.num_generations=1"], "its advantage would always be zero"),
    ],
)
def test_rewards_that_cannot_work(overrides, message):
    recipe = load_recipe("demo", overrides)
    with pytest.raises(rlif.RlifError, match=message):
        check_names(recipe)
        recipe.accumulation(1)


@pytest.mark.parametrize("reward", ["self_consistency", "seed_grpo"])
def test_a_vote_on_programs_is_refused(monkeypatch, reward):
    recipe = load_recipe("demo", [f"reward={reward}"])
    check_names(recipe)
    monkeypatch.setattr(type(rlif.TASKS["clock"]), "runs_code", True)
    with pytest.raises(rlif.RlifError, match="are programs, which cannot be compared"):
        check_names(recipe)


def test_gold_that_nobody_has():
    task, problems = rlif.TASKS["prompts"], [Problem("a", "?")]
    with pytest.raises(rlif.RlifError, match=r"accuracy needs gold answers .*, and none of the 1 problems"):
        check_gold(load_recipe("demo", ["reward={self_certainty: 1, accuracy: 0}"]), task, problems)
    check_gold(load_recipe("demo", ["reward=self_certainty"]), task, problems)
    check_gold(load_recipe("demo", ["reward=accuracy"]), task, [*problems, Problem("b", "?", "4")])


def test_a_column_that_nobody_has_is_refused_before_the_run():
    recipe = load_recipe("demo", [f"reward={__name__}:asks_for_level"])
    with pytest.raises(rlif.RlifError, match=r"asks for 'level', and no problem of .* the columns are difficulty, x\."):
        check_gold(recipe, rlif.TASKS["math"], [Problem("a", "?", row={"difficulty": 1, "prompt": "?", "x": 2})])
    check_gold(recipe, rlif.TASKS["math"], [Problem("a", "?"), Problem("b", "?", row={"level": 1})])


def test_gold_of_programs_needs_a_sandbox_before_the_first_step(monkeypatch):
    def missing():
        raise rlif.RlifError("no sandbox here.")

    monkeypatch.setattr("rlif.rewards.terms.require_sandbox", missing)
    task, problems = rlif.TASKS["code_contests"], [Problem("a", "?")]
    for reward in ("accuracy", "{self_certainty: 1, accuracy: 0}"):
        with pytest.raises(rlif.RlifError, match=r"^no sandbox here\.$"):
            check_gold(load_recipe("demo", ["task=code_contests", f"reward={reward}"]), task, problems)
    check_gold(load_recipe("demo", ["task=code_contests", "reward=self_certainty"]), task, problems)
    check_gold(load_recipe("demo", ["reward=accuracy"]), rlif.TASKS["clock"], [Problem("b", "?", "4")])


def test_a_term_takes_labelled_rows_or_others():
    taken = {
        rows: [find_term("accuracy", rows=rows).takes(known) for known in (True, False)] for rows in get_args(Rows)
    }
    assert taken == {"all": [True, True], "labelled": [True, False], "unlabelled": [False, True]}


@pytest.mark.parametrize(
    ("overrides", "labelled", "message"),
    [
        (["reward={accuracy: {rows: labelled}}"], [False] * 3, "accuracy is for labelled .* of the 3 has none"),
        (["reward={self_certainty: {rows: unlabelled}}"], [True], "is for unlabelled .* has a gold"),
        (
            ["reward={accuracy: {rows: unlabelled}}"],
            [True, False],
            "accuracy reads gold answers, and unlabelled problems",
        ),
        (["order=labelled_first"], [True, True], "order labelled_first makes a stage of unlabelled .* has a gold"),
        (["order=unlabelled_first"], [False], "order unlabelled_first makes a stage of labelled .* has none"),
        (["labels=4"], [True, False], "labels limits the gold answers that rewards see, and no reward reads any"),
        (["labels=4", "task=code_contests", "reward=accuracy"], [True], "task code_contests has tests instead"),
    ],
)
def test_rows_and_stages_that_are_not_there_are_refused(overrides, labelled, message):
    recipe = load_recipe("demo", overrides)
    with pytest.raises(rlif.RlifError, match=message):
        check_labels(recipe, rlif.TASKS[recipe.task], labelled)


def test_rows_are_told_apart_without_a_reward_that_reads_gold():
    recipe = load_recipe("demo", ["reward={self_certainty: {rows: unlabelled}}"])
    assert reads_problems(recipe) and not reads_problems(load_recipe("demo"))
    check_labels(recipe, rlif.TASKS["clock"], [True, False])
