"""Tests rewards for labelled and for unlabelled rows in one batch, against advantages computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import oracle
from support.trainers import PROMPTS, Lengths, Spy, make, make_trainer

from rlif.rewards.mixing import Mixer
from rlif.tasks.task import Mark
from rlif.trl import GRPOTrainer, labelled, unlabelled

ALTERNATING = {"accuracy": {"rows": "labelled"}, "self_certainty": {"weight": 2.0, "rows": "unlabelled"}}


class SomeLabels(Lengths):
    """The problems of two prompts in four have a gold answer."""

    def load(self, split, **_):
        return [replace(p, gold=p.gold if p.text in PROMPTS[:2] else None) for p in super().load(split)]

    def mark(self, problems, completions, **_):
        marks = super().mark(problems, completions)
        return [Mark(m.answer, None if p.gold is None else m.right) for m, p in zip(marks, problems, strict=True)]


def trained(folder, reward=ALTERNATING, kind="group_std", **changes):
    task = SomeLabels()
    logged = {"task": task, "problems": task.load("train"), "max_steps": 6, "mixer": Mixer(list(reward), kind)}
    trainer = make_trainer(folder, reward=reward, **logged | changes)
    trainer.train()
    return trainer


def groups(rollout):
    rows = rollout["scored"]
    return [slice(i, i + 4) for i in range(0, len(rows), 4)], rows


def right(task, row):
    gold = {problem.text: problem.gold for problem in task.load("train")}[row.prompt]
    return float(task.extract(row.text) == gold)


@pytest.mark.daily(every=2)
@pytest.mark.parametrize("kind", ["group_std", "none"])
def test_labelled_groups_learn_from_gold_alone_and_others_from_confidence_alone(kind, model_folder):
    trainer, kinds, differ = trained(model_folder, kind=kind), set(), 0
    for rollout in trainer.rollouts:
        parts, rows = groups(rollout)
        for part in parts:
            labelled = rows[part][0].prompt in PROMPTS[:2]
            assert {row.labelled for row in rows[part]} == {labelled}
            golds = [right(trainer.reward.task, row) for row in rows[part]]
            sure = rollout["expected"][part]
            given = golds if labelled else [2 * value for value in sure]
            scaled = oracle.group_advantages(golds if labelled else sure, 4)
            expected = [a * (1 if labelled else 2) for a in scaled]
            if kind == "none":
                expected = [value - sum(given) / 4 for value in given]
            assert rollout["advantages"][part] == pytest.approx(expected, abs=2e-4)
            for row, gold, value in zip(rows[part], golds, given, strict=True):
                name, other = ("accuracy", "self_certainty") if labelled else ("self_certainty", "accuracy")
                assert row.rewards[other] is None and row.reward == pytest.approx(value, abs=2e-4)
                assert row.rewards[name] == pytest.approx(gold if labelled else value / 2, abs=2e-4)
            kinds.add(labelled)
            differ += labelled and len(set(golds)) > 1
    assert kinds == {True, False} and differ, "a rollout has both kinds, and golds that differ"


@pytest.mark.daily(every=2)
@pytest.mark.parametrize("normalisation", [None, "group_std"])
def test_a_script_rewards_labelled_and_unlabelled_rows_of_one_batch(normalisation, tmp_path):
    """TRL scales the weighted reward; a normalisation scales each reward, then weights it."""
    golds, kinds, differ = {PROMPTS[0]: "0", PROMPTS[1]: "1", PROMPTS[2]: None, PROMPTS[3]: ""}, set(), 0
    trainer = make(
        [labelled("accuracy"), unlabelled("self_certainty")],
        type("Spied", (Spy, GRPOTrainer), {}),
        tmp_path,
        rows={"prompt": [*golds] * 4, "answer": [*golds.values()] * 4},
        ours={"task": Lengths(), "normalisation": normalisation},
        reward_weights=[1.0, 2.0],
        max_steps=6,
    )
    trainer.train()
    for rollout in trainer.rollouts:
        parts, rows = groups(rollout)
        for part in parts:
            gold = golds[rows[part][0].prompt]
            assert {row.labelled for row in rows[part]} == {bool(gold)}
            sure = rollout["expected"][part]
            values = [float(Lengths().extract(row.text) == gold) for row in rows[part]] if gold else sure
            if normalisation:
                expected = [(1 if gold else 2) * value for value in oracle.group_advantages(values, 4)]
            else:
                expected = oracle.group_advantages([(1 if gold else 2) * value for value in values], 4)
            assert rollout["advantages"][part] == pytest.approx(expected, abs=5e-4)
            name, other = ("accuracy", "self_certainty") if gold else ("self_certainty", "accuracy")
            for row, value in zip(rows[part], values, strict=True):
                assert row.rewards[other] is None and row.rewards[name] == pytest.approx(value, abs=1e-4)
            kinds.add(bool(gold))
            differ += bool(gold) and len(set(values)) > 1
    assert kinds == {True, False} and differ, "a rollout has both kinds, and golds that differ"
    assert "labelled" in trainer.state.log_history[0]


def test_the_log_has_the_share_of_labelled_rows(model_folder):
    trainer = trained(model_folder)
    logged = [entry for entry in trainer.state.log_history if "labelled" in entry]
    shares = [sum(row.labelled for row in rollout["scored"]) / len(rollout["scored"]) for rollout in trainer.rollouts]
    assert [entry["labelled"] for entry in logged] == pytest.approx(shares)
    assert logged[0]["self_certainty_unscorable"] == pytest.approx(shares[0])
    plain = trained(model_folder, {"self_certainty": 1.0, "accuracy": 0}, max_steps=1)
    assert not any("labelled" in entry for entry in plain.state.log_history)


def test_a_change_of_gold_does_not_change_what_the_unlabelled_learn(model_folder):
    """Advantages of unlabelled groups are the same to the bit with other golds; the first step's, before any update."""
    other = [replace(p, gold=None if p.gold is None else "2") for p in SomeLabels().load("train")]
    first, second = (trained(model_folder, max_steps=1, **changes) for changes in ({}, {"problems": other}))
    for one, two in zip(first.rollouts[:1], second.rollouts[:1], strict=True):
        pairs = zip(one["scored"], one["advantages"], two["advantages"], strict=True)
        assert all(a == b for row, a, b in pairs if not row.labelled)
        assert one["advantages"] != two["advantages"]


@pytest.mark.sweep
def test_a_stage_without_labels_scores_no_accuracy_and_does_not_end_the_run(model_folder):
    """Nor does a stage of labels alone, in which confidence scores nothing."""
    texts = [PROMPTS[0]] * 16 + [PROMPTS[2]] * 16
    golds = {problem.text: problem for problem in SomeLabels().load("train")}
    trainer = trained(
        model_folder,
        prompts=texts,
        problems=[replace(golds[text], id=f"p/{n}") for n, text in enumerate(texts)],
        shuffle_dataset=False,
        max_steps=12,
    )
    shares = [entry["labelled"] for entry in trainer.state.log_history if "labelled" in entry]
    assert shares == [1.0] * 8 + [0.0] * 4
    for share, rollout in zip(shares, trainer.rollouts, strict=True):
        silent = "self_certainty" if share else "accuracy"
        assert {row.rewards[silent] for row in rollout["scored"]} == {None}
