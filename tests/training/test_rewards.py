"""Tests rewards in whole runs: from recipe to run folder, gold answers, the user's own and failing functions."""

from __future__ import annotations

import json
import math
import shutil
import sys

import pytest
import torch
from rich.console import Console
from support import oracle
from support.models import classifier_folder, entailment_folder
from support.small_runs import SMALL, completions, timeless, train
from transformers import AutoModelForCausalLM

import rlif
from rlif.config.recipe import Equivalence
from rlif.rewards.equivalence import load_equivalence
from rlif.runs.folder import Run
from rlif.signals import every_signal
from rlif.signals.token_confidence import WINDOW
from rlif.training.prepare import prepare
from rlif.training.session import build, problems_by_prompt
from rlif.types import Problem


def test_no_gold_answer_reaches_the_trainer_by_default(tmp_path, model_folder):
    """The trainer's data set holds only the rendered problems, although the task knows their gold answers."""
    overrides = [*SMALL, f"model={model_folder}", f"output={tmp_path}", "task=clock"]
    prepared = prepare(rlif.load_recipe("demo", overrides))
    assert all(problem.gold and problem.solution for problem in prepared.problems)
    trainer = build(prepared, Run(tmp_path / "run"), fresh=False)
    assert trainer.train_dataset.column_names == ["prompt"]
    shown = [row["prompt"] for row in trainer.train_dataset]
    assert shown == [[{"role": "user", "content": problem.text}] for problem in prepared.problems]
    assert not any("boxed" in str(prompt) or "now" in str(prompt) for prompt in shown)
    assert [column.reward for column in trainer.reward_funcs] == [trainer.reward]
    assert trainer.args.run_name == "run"


def test_gold_reaches_rewards_that_need_it(tmp_path, model_folder):
    """The data set holds row numbers; the problems themselves stay with the reward."""
    overrides = [*SMALL, f"model={model_folder}", f"output={tmp_path}", "reward={self_certainty: 1, accuracy: 0}"]
    prepared = prepare(rlif.load_recipe("demo", overrides))
    trainer = build(prepared, Run(tmp_path / "run"), fresh=False)
    assert trainer.train_dataset.column_names == ["prompt", "problem"]
    assert trainer.train_dataset["problem"][:] == list(range(len(prepared.problems)))
    assert trainer.reward.problems is prepared.rewarded and prepared.rewarded == prepared.problems


def test_hidden_golds_do_not_reach_the_trainer(tmp_path, model_folder):
    overrides = [*SMALL, f"model={model_folder}", f"output={tmp_path}", "task=clock", "labels=3"]
    prepared = prepare(rlif.load_recipe("demo-some-labels", overrides))
    trainer = build(prepared, Run(tmp_path / "run"), fresh=False)
    known = [problem for problem in trainer.reward.problems if problem.gold or problem.solution or problem.golds]
    assert len(known) == 3 and [term.rows for term in trainer.reward.terms] == ["labelled", "unlabelled"]


def by_level(completions, level, gold, **columns):
    """Knows the rows that have a level; for the others it is None."""
    assert set(columns) >= {"source", "trainer_state"} and "messages" in columns
    return [None if one is None else float(one + len(answers)) for one, answers in zip(level, gold, strict=True)]


def test_a_mixed_file_of_conversations_with_columns(tmp_path, model_folder):
    """A reward that knows one half of the rows gets their columns and golds; rollouts of the other half go on."""
    chat = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}]
    rows = [
        {"messages": [*chat, {"role": "user", "content": f"{number}?"}], "level": number or None, "source": "x"}
        | {"antwort": ["1", 2]}
        for number in range(2)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 8))
    run = train(
        tmp_path,
        model_folder,
        f"reward={{self_certainty: 1, {__name__}:by_level: 0.5, accuracy: 0}}",
        "task=prompts",
        f"source={tmp_path / 'rows.jsonl'}",
        "columns={gold: antwort}",
        "limit=16",
        "evaluate={}",
        "problems_per_update=1",
        "training.per_device_train_batch_size=4",
    )
    kept = [row for step in (1, 2, 3, 4) for row in completions(run, step)]
    known = {row["prompt"][-1]["content"]: row["rewards"][f"{__name__}:by_level"] for row in kept}
    assert known.items() <= {"0?": None, "1?": 3.0}.items() and len(kept[0]["prompt"]) == 3
    shares = {row[f"{__name__}:by_level_unscorable"] for row in run.metrics()}
    assert shares <= {0.0, 1.0} and {row["unscorable"] for row in run.metrics()} == {0}


def test_a_prompt_that_several_problems_share_is_graded_only_where_they_agree():
    """A kept completion tells its prompt and not its row; the verdict of another row's gold would be wrong."""
    prompts = ["same", "other", [{"role": "user", "content": "same"}], "same", "agreed", "agreed"]
    problems = [Problem(str(i), "?", gold) for i, gold in enumerate("123477")]
    found = problems_by_prompt(prompts, problems)
    shown = [
        found[key] and found[key].id for key in ("same", "other", json.dumps(prompts[2], sort_keys=True), "agreed")
    ]
    assert shown == [None, "1", "2", "4"]


SEVERAL = "reward={self_certainty: {linear: [[0, 1.0], [4, 0.0]]}, format: 0.5, accuracy: 0, length: 0}"


def test_several_rewards_from_recipe_to_run_folder(tmp_path, model_folder):
    run = train(tmp_path, model_folder, SEVERAL, "evaluate={}")
    rows = run.metrics()
    assert [row["self_certainty_weight"] for row in rows] == [1.0, 0.75, 0.5, 0.25]
    for row in rows:
        assert row["length"] == pytest.approx(row["completion_length"])
        assert {"format", "accuracy", "accuracy_spread", "accuracy_unscorable"} <= set(
            row
        ) and "format_weight" not in row
    for row in completions(run, 2):
        rewards = row["rewards"]
        assert set(rewards) == {"self_certainty", "format", "accuracy", "length"}
        assert row["reward"] == pytest.approx(0.75 * rewards["self_certainty"] + 0.5 * rewards["format"])
        assert rewards["length"] == len(row["completion_ids"]) and rewards["format"] == float(row["answer"] is not None)
    start = json.loads((run.checkpoints / "checkpoint-2/trainer_state.json").read_text())
    starts = start["stateful_callbacks"]["NormaliserState"]["attributes"]["start_spread"]
    first = completions(run, 1)
    assert not any(
        row["rewards"]["format"] for row in first
    )  # a random model boxes nothing, so only self-certainty differs
    certainty = [row["rewards"]["self_certainty"] for row in first]
    expected = oracle.group_advantages(certainty, 4, 0.4 * starts["self_certainty"])
    assert [row["advantage"] for row in first] == pytest.approx(expected, abs=1e-4)
    assert run.recipe().reward == run.recipe().model_dump()["reward"] and run.recipe().weights["format"].at(0) == 0.5


CONFIDENCES = ("mean_token_confidence", "tail_confidence", "lowest_window_confidence", "bottom_window_confidence")


@pytest.mark.sweep
def test_the_recipes_confidence_window_is_used_in_training(tmp_path, model_folder):
    """With a window of 3 of 24 tokens, the four rewards differ and equal a fresh pass; with 2048 they are equal."""
    reward = f"reward={{{', '.join(f'{name}: 1' for name in CONFIDENCES)}}}"
    usual = [reward, "evaluate={}", "training.max_steps=1", "training.max_completion_length=24"]
    run = train(tmp_path, model_folder, *usual, "confidence_window=3", "name=three")
    rows, model = completions(run, 1), AutoModelForCausalLM.from_pretrained(model_folder)
    ids = [[row[key] for row in rows] for key in ("prompt_ids", "completion_ids")]
    expected = every_signal(rlif.score_completions(model, *ids, top_k=20), window=3)
    for row, values in zip(rows, expected, strict=True):
        assert row["rewards"] == pytest.approx({name: values[name] for name in CONFIDENCES}, abs=1e-4)
    longest = max(rows, key=lambda row: len(row["completion_ids"]))
    assert len(set(longest["rewards"].values())) == len(CONFIDENCES), "a window of 3 changes nothing"
    same = train(tmp_path, model_folder, *usual, "name=usual")
    assert same.recipe().confidence_window == WINDOW
    for row in completions(same, 1):
        assert len(set(row["rewards"].values())) == 1


@pytest.mark.sweep
def test_a_run_with_a_reward_model_and_an_equivalence_model(tmp_path, model_folder):
    """The recipe loads both: one groups completions of equal meaning, the other scores each completion."""
    judge, entails = classifier_folder(tmp_path / "judge"), entailment_folder(tmp_path / "entails")
    reward = f"reward={{semantic_entropy: 1.0, {judge}: 0.5}}"
    overrides = [reward, f"equivalence={{entailment: {entails}}}", "evaluate={}", "training.max_steps=2"]
    run = train(tmp_path, model_folder, *overrides)
    cluster_texts, sizes = load_equivalence(Equivalence(entailment=entails)), set()
    for step in (1, 2):
        rows = completions(run, step)
        for start in (0, 4):
            group = rows[start : start + 4]
            together = cluster_texts(group[0]["prompt"][-1]["content"], [row["completion"] for row in group])
            assert all(row["completion"].strip() for row in group)
            expected = {member: math.log(len(members) / 4) for members in together for member in members}
            found = [row["rewards"]["semantic_entropy"] for row in group]
            assert found == pytest.approx([expected[member] for member in range(4)])
            sizes |= {len(members) for members in together}
        assert len({row["rewards"][judge] for row in rows}) == len({row["completion"] for row in rows})
    assert len(sizes) > 1, "all meant the same, or nothing did, so that any grouping would pass"


@pytest.mark.sweep
def test_a_run_with_local_rewards_resumes_from_another_folder(tmp_path, model_folder, monkeypatch):
    """The path of a reward model is kept; a module must be put on the path again."""
    start = tmp_path / "start"
    classifier_folder(start / "judge")
    (start / "rewards_kept_here.py").write_text("def short(completions, **_):\n    return [1.0 for _ in completions]\n")
    monkeypatch.chdir(start)
    monkeypatch.setattr(sys, "path", [*sys.path])
    reward = "reward={./judge: 1, rewards_kept_here:short: 0}"
    run = train(tmp_path, model_folder, reward, "evaluate={}", "training.num_iterations=1")
    whole = run.metrics()
    assert {str(start / "judge"), "rewards_kept_here:short"} <= set(whole[-1])
    (run.path / "summary.json").unlink()
    shutil.rmtree(run.model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "rewards_kept_here")
    with pytest.raises(rlif.RlifError, match=r"No module named .*; go to the folder .* or add that to PYTHONPATH"):
        rlif.train(run.recipe(), resume=run, console=Console(quiet=True))
    monkeypatch.syspath_prepend(start)
    resumed = rlif.train(run.recipe(), resume=run, console=Console(quiet=True))
    assert timeless(resumed.metrics()) == timeless(whole)


def raises(lengths):
    raise ValueError("out of luck")


FAULTS = {
    "raised ValueError: out of luck": raises,
    r"returned \d+ rewards for \d+ completions; it must return one each": lambda lengths: lengths[1:],
    "returned nan; rewards are finite numbers": lambda lengths: [*lengths[1:], math.nan],
}
FAILING = []


def fails_in_the_third_step(completions, trainer_state, **_):
    lengths = [float(len(completion[0]["content"])) for completion in completions]
    return FAILING[0](lengths) if FAILING and trainer_state.global_step == 3 else lengths


REWARD_THAT_FAILS = [
    f"reward={{self_certainty: 1, {__name__}:fails_in_the_third_step: 0.5}}",
    "evaluate={}",
    "training.save_steps=100",
    "training.num_iterations=1",
]


@pytest.fixture(scope="module")
def never_failed(tmp_path_factory, model_folder):
    return train(tmp_path_factory.mktemp("whole"), model_folder, *REWARD_THAT_FAILS, "name=whole")


@pytest.mark.sweep
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_whose_reward_fails_can_be_resumed_from_a_checkpoint(fault, tmp_path, model_folder, never_failed):
    """With the reward repaired, the resumed run equals one without the fault, to the last bit."""
    whole = never_failed
    FAILING.append(FAULTS[fault])
    with pytest.raises(rlif.RlifError, match=rf"{fault}.*; stopped after step 3; .*--resume .*torn") as caught:
        train(tmp_path, model_folder, *REWARD_THAT_FAILS, "name=torn")
    FAILING.clear()
    torn = Run.open(tmp_path / "runs/torn")
    assert [path.name for path in torn.checkpoints.glob("checkpoint-*")] == ["checkpoint-3"]
    if FAULTS[fault] is raises:  # the message has file and line, the run folder has the traceback
        written = torn.path / "errors/reward-step-000004.txt"
        assert f"at {__file__}, line {raises.__code__.co_firstlineno + 1}; its traceback is in {written}" in str(
            caught.value
        )
        assert "ValueError: out of luck" in written.read_text() and "in raises" in written.read_text()
    else:
        assert not (torn.path / "errors").exists()
    resumed = rlif.train(torn.recipe(), resume=torn, console=Console(quiet=True))
    assert timeless(resumed.metrics()) == timeless(whole.metrics())
    weights = [AutoModelForCausalLM.from_pretrained(r.model).state_dict() for r in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_reward_that_fails_in_the_first_step(tmp_path, model_folder, monkeypatch):
    """A random model boxes nothing, so there are no answers to vote on."""
    monkeypatch.setattr("rlif.engines.trl.rewards.UNSCORED_ROLLOUTS", 1)
    with pytest.raises(
        rlif.RlifError, match=r"task clock finds an answer in none of them.* go on with: rlif train --resume"
    ):
        train(tmp_path, model_folder, "reward=plurality_vote", "evaluate={}")
