"""Tests whole runs of the methods: Genius, SPIN, STaR with hints, self-rewarding, deduction. The models are random."""

from __future__ import annotations

import json
import math

import pytest
from support.models import byte_tokenizer
from support.small_rounds import lines, train

import rlif
from rlif.engines.rounds.examples import Round
from rlif.errors import DataError
from rlif.sampling.sampler import Completion
from rlif.tasks import TASKS

DPO = ("algorithm=dpo", "rounds.reference=last")
TOKENIZER = byte_tokenizer()


def facts(run, number=1):
    return json.loads((run.path / f"rounds/round-{number:03d}/round.json").read_text())


def data(run, number=1):
    return lines(run.path / f"rounds/round-{number:03d}/data.jsonl")


def answering(monkeypatch, says):
    """Makes policies answer what a function says of a prompt and a number; None lets them sample."""
    sample = Round.complete

    def complete(self, prompt_ids, decoding):
        prompts = [TOKENIZER.decode(ids) for ids in prompt_ids]
        if any(says(prompt, 0) is None for prompt in prompts):
            return sample(self, prompt_ids, decoding)
        texts = [
            (ids, says(prompt, i)) for ids, prompt in zip(prompt_ids, prompts, strict=True) for i in range(decoding.n)
        ]
        return [Completion(text, list(ids), [*TOKENIZER(text)["input_ids"], 1], truncated=False) for ids, text in texts]

    monkeypatch.setattr(Round, "complete", complete)


def test_genius_trains_by_the_calibrated_loss(model_folder, tmp_path):
    how = "{beams: 1, rollouts: 4, steps: 1, step_end: e, alpha: 0.5}"
    rounds = (
        "rounds.sample=foresight",
        "rounds.samples=null",
        "rounds.choose=soft",
        "rounds.loss=calibrated",
        "rounds.against=random",
    )
    run = train(model_folder, tmp_path, *DPO, *rounds, f"rounds.options={how}", "rounds.number=1")
    rows = [row for batch in lines(run.path / "rounds/round-001/foresight.jsonl") for row in batch["rows"]]
    assert len(rows) == 16 and facts(run)["sampled_tokens"] == sum(row["sampled"] for row in rows)
    examples = data(run)
    by_ids = {(row["id"], tuple(row["completion_ids"])): row for row in rows}
    for example in examples:
        chosen, rejected = (by_ids[example["id"], tuple(example[name])] for name in ("chosen_ids", "rejected_ids"))
        assert chosen["foresight"] == max(row["foresight"] for row in rows if row["id"] == example["id"])
        assert rejected["foresight"] < chosen["foresight"]
        assert example["values"] == [chosen["advantage"], rejected["advantage"]]
    steps = run.metrics()
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the policy still is the reference
    factors = [max(1.0, math.exp((each["values"][0] - each["values"][1]) / 0.5)) for each in examples]
    found = sum(row["rejected_factor"] for row in steps) / len(steps)
    assert len(examples) == 4 and len(steps) == 2 and found == pytest.approx(sum(factors) / 4, rel=1e-5)


@pytest.mark.sweep
def test_spin_prefers_given_answers_and_mixes_two_rounds(model_folder, tmp_path):
    run = train(model_folder, tmp_path, *DPO, "rounds.choose=given", "rounds.samples=1", "rounds.mix=true")
    solutions = {problem.id: problem.solution for problem in TASKS["clock"].load("train", limit=8, seed=3)}
    for number in (1, 2):
        for example in data(run, number):
            assert TOKENIZER.decode(example["chosen_ids"]) in {f"{each}<|end|>" for each in solutions.values()}
    # Four pairs in batches of two make two steps; the second round has those of the first as well.
    assert [row["round"] for row in run.metrics()] == [1, 1, 2, 2, 2, 2]


def test_rationalised_samples_train_without_their_hint(model_folder, tmp_path, monkeypatch):
    def says(prompt, i):
        return (
            rf"\boxed{{{prompt.partition('The answer is ')[2].partition('.')[0]}}}" if "Explain how" in prompt else None
        )

    answering(monkeypatch, says)
    hints = ("rounds.choose=gold", "rounds.rationalise=true", "reward=likelihood")  # another signal than sampling has
    run = train(model_folder, tmp_path, *hints, "rounds.number=1")
    examples = data(run)
    assert len(examples) == 4 and run.metrics()[0]["hinted"] == 4 and run.metrics()[0]["rationalised"] == 12
    for example in examples:
        assert "boxed" in TOKENIZER.decode(example["chosen_ids"])
        assert "Explain how" not in TOKENIZER.decode(example["prompt_ids"])
    tokens = sum(
        row["tokens"] for batch in lines(run.path / "rounds/round-001/rationalised.jsonl") for row in batch["rows"]
    )
    drawn = sum(row["tokens"] for row in lines(run.path / "rounds/round-001/samples.jsonl"))
    assert facts(run)["sampled_tokens"] == drawn + tokens


JUDGE = (*DPO, "rounds.choose=judge", "rounds.number=1", "rounds.options={judge_max_tokens: 8}")


@pytest.mark.sweep
def test_the_policy_judges_its_own_answers(model_folder, tmp_path, monkeypatch):
    def says(prompt, i):
        answer = prompt.partition("Answer:\n")[2].partition("\n\nFirst give")[0]
        return f"Score: {sum(answer.encode()) % 6}" if "Judge an answer" in prompt else None

    answering(monkeypatch, says)
    run = train(model_folder, tmp_path, *JUDGE)
    (first, *_) = run.metrics()
    judged = [row for batch in lines(run.path / "rounds/round-001/judgements.jsonl") for row in batch["rows"]]
    assert first["parsed"] == 1 and len(judged) == 12
    drawn = sum(row["tokens"] for row in lines(run.path / "rounds/round-001/samples.jsonl"))
    assert facts(run)["sampled_tokens"] == drawn + sum(row["tokens"] for row in judged)
    scores = [score for row in judged for score in row["scores"]]
    assert first["judge_score"] == pytest.approx(sum(scores) / len(scores))
    for example in data(run):
        assert example["values"][0] > example["values"][1]


def test_a_policy_that_cannot_judge_is_refused_and_nothing_is_lost(model_folder, tmp_path):
    with pytest.raises(DataError, match="0 of 36 judgements name a score from 0 to 5"):
        train(model_folder, tmp_path, *JUDGE)
    assert len(lines(tmp_path / "run/rounds/round-001/samples.jsonl")) == 12


DEDUCE = (*DPO, "rounds.sample=deduction", "rounds.choose=verified", "rounds.number=1", "rounds.problems=8")


@pytest.mark.sweep
def test_a_policy_learns_from_functions_that_it_proposes(sandbox, model_folder, tmp_path, monkeypatch):
    def says(prompt, i):
        if "Write a new function" in prompt:
            return [f"```python\ndef f(x):\n    return x * {i}\n```\n```input\n7\n```", "nothing"][i == 3]
        return f"<answer>{7 * i}</answer>" if "What does f(" in prompt else None

    answering(monkeypatch, says)
    run = train(model_folder, tmp_path, *DEDUCE)
    kinds = [example["id"].partition("/")[0] for example in data(run)]
    (first, *_) = run.metrics()
    assert kinds == ["propose", "propose", "deduce", "deduce", "deduce"] and first["runnable"] == 0.75
    assert first["predicted"] == pytest.approx(1 / 3) and first["learnability"] == pytest.approx(0.75 * 2 / 3)
    assert len(lines(run.path / "rounds/round-001/buffer.jsonl")) == 3
    assert run.summary()["steps"] == len(run.metrics())


def test_a_policy_that_writes_no_functions_is_refused(sandbox, model_folder, tmp_path):
    with pytest.raises(DataError, match=r"0 of 8 proposals are functions that run .* \(of 8, it lacks a block\)"):
        train(model_folder, tmp_path, *DEDUCE)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("rounds.choose=soft",), "set rounds.sample to foresight"),
        (("rounds.choose=verified",), "set rounds.sample to deduction"),
        (("rounds.choose=judge", "rounds.options={judgements: 0}"), "judgements must be positive"),
        (("rounds.choose=given", "algorithm=sft", "rounds.reference=null"), "is for algorithm dpo"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_folder_is_made(overrides, sentence, model_folder, tmp_path):
    with pytest.raises(rlif.RlifError, match=sentence):
        train(model_folder, tmp_path, *DPO, *overrides)
    assert not (tmp_path / "run").exists()
