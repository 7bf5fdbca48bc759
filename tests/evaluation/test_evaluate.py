"""Tests evaluations and their scores: resumed, with n and intervals, with several samples per problem."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar

import pytest
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.evaluation.evaluate import check_gold, evaluate
from rlif.evaluation.records import Records
from rlif.evaluation.scores import Scores, summarise
from rlif.files.lock import alone
from rlif.intervals import proportion
from rlif.sampling.protocol import Setup, render_problems, setup_of
from rlif.sampling.sampler import Decoding, TransformersSampler
from rlif.signals import SIGNALS
from rlif.tasks.prompts import PROMPTS
from rlif.types import Problem

CUPS = rlif.TASKS["cups"]


def problems(n: int = 10) -> list[Problem]:
    return CUPS.load("test", limit=n)


def setup_for(decoding: Decoding) -> Setup:
    return setup_of(CUPS, byte_tokenizer(), decoding=decoding)


class Killed(BaseException):
    pass


class Fragile(TransformersSampler):
    """Raises at the start of a batch, where a process may be killed."""

    def __init__(self, dies_at: int | None = None):
        super().__init__(tiny_model(), byte_tokenizer(), batch_size=4)
        self.dies_at, self.batches = dies_at, 0

    def sample(self, prompt_ids, decoding):
        if self.batches == self.dies_at:
            raise Killed
        self.batches += 1
        return super().sample(prompt_ids, decoding)


@pytest.mark.parametrize("decoding", [Decoding(6), Decoding(6, temperature=1.0, n=2)])
def test_a_resumed_evaluation_writes_the_same_bytes(tmp_path, decoding):
    whole = evaluate(Fragile(), CUPS, problems(), setup_for(decoding), path=tmp_path / "whole" / "cups")
    with pytest.raises(Killed):
        evaluate(Fragile(dies_at=2), CUPS, problems(), setup_for(decoding), path=tmp_path / "killed" / "cups")
    part = tmp_path / "killed" / "cups.part.jsonl"
    part.write_bytes(part.read_bytes() + b'{"batch": 2, "rec')
    second = Fragile()
    again = evaluate(second, CUPS, problems(), setup_for(decoding), path=tmp_path / "killed" / "cups")
    assert again == whole and second.batches == (3 if decoding.n == 1 else 5) - 2
    for name in ("cups.json", "cups.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not part.exists()


def test_what_a_kill_left_of_a_finished_evaluation_is_removed(tmp_path):
    """A kill between the scores and the removal; records of other settings are not this evaluation's and stay."""
    path, part = tmp_path / "cups", tmp_path / "cups.part.jsonl"
    scores = evaluate(Fragile(), CUPS, problems(), setup_for(Decoding(6)), path=path)
    for settings, stays in ((scores.settings, False), (dict(scores.settings) | {"chat": None}, True)):
        part.write_text(json.dumps({"settings": settings}) + "\n" + '{"batch": 0, "rec')
        assert Records.finished(path, scores.settings) is not None
        assert part.exists() is stays


def test_records_are_complete_and_in_the_order_of_the_problems(tmp_path):
    scores = evaluate(Fragile(), CUPS, problems(), setup_for(Decoding(6, temperature=1.0, n=2)), path=tmp_path / "cups")
    rows = [json.loads(line) for line in (tmp_path / "cups.jsonl").read_bytes().splitlines()]
    assert [(row["id"], row["sample"]) for row in rows] == [(p.id, i) for p in problems() for i in (0, 1)]
    assert set(rows[0]) == {
        *("id", "sample", "completion", "answer", "right"),
        *("self_certainty", "tokens", "truncated"),
    }
    assert scores.completions == 20 and scores.n == 2 and scores.accuracy.clusters == 10
    assert scores.settings["protocol"]["extract"] == "last_boxed"
    assert scores.settings["decoding"]["temperature"] == 1.0
    written = json.loads((tmp_path / "cups.json").read_text())
    assert Scores.read(written).as_dict() == written and Scores.read(written).accuracy == scores.accuracy
    assert list(written)[-9:] == [
        *("n", "completions", "accuracy", "self_certainty@2", "pass@k"),
        *("completion_length", "self_certainty", "truncated", "unanswered"),
    ]


def test_resuming_with_other_settings_is_refused(tmp_path):
    with pytest.raises(Killed):
        evaluate(Fragile(dies_at=1), CUPS, problems(), setup_for(Decoding(6)), path=tmp_path / "cups")
    with pytest.raises(rlif.RlifError, match=r"was begun with other settings \(decoding\)"):
        evaluate(Fragile(), CUPS, problems(), setup_for(Decoding(7)), path=tmp_path / "cups")
    changed = [replace(problems()[0], text="Another?"), *problems()[1:]]
    with pytest.raises(rlif.RlifError, match=r"was begun with other settings \(data\)"):
        evaluate(Fragile(), CUPS, changed, setup_for(Decoding(6)), path=tmp_path / "cups")
    with pytest.raises(rlif.RlifError, match="two problems have the id"):
        evaluate(Fragile(), CUPS, [changed[0], *problems()], setup_for(Decoding(6)))
    with alone(tmp_path / "cups.part.jsonl"), pytest.raises(rlif.RlifError, match=r"another process is writing .*cups"):
        evaluate(Fragile(), CUPS, problems(), setup_for(Decoding(6)), path=tmp_path / "cups")
    lines = (tmp_path / "cups.part.jsonl").read_text().splitlines(keepends=True)
    begun = json.loads(lines[0])
    del begun["settings"]["data"]  # as an earlier version wrote it
    (tmp_path / "cups.part.jsonl").write_text("".join([json.dumps(begun) + "\n", *lines[1:]]))
    assert evaluate(Fragile(), CUPS, problems(), setup_for(Decoding(6)), path=tmp_path / "cups").completions == 10
    for settings in ("1", '""', "[[null, false]]"):
        (tmp_path / "cups.part.jsonl").write_text(f'{{"settings": {settings}}}\n')
        with pytest.raises(rlif.RlifError, match="damaged"):
            evaluate(Fragile(), CUPS, problems(), setup_for(Decoding(6)), path=tmp_path / "cups")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(rlif.RlifError, match="cannot write"):
        evaluate(Fragile(), CUPS, problems(), setup_for(Decoding(6)), path=tmp_path / "file" / "cups")


def test_self_certainty_of_decoding_is_that_of_scoring():
    model, tokenizer = tiny_model(), byte_tokenizer()
    sampler = TransformersSampler(model, tokenizer, batch_size=3)
    prompts = [[5, 6, 7], [8] * 9, [9, 10], [11]]
    found = sampler.sample(prompts, Decoding(12, temperature=1.3, n=2, seed=3))
    assert [c.prompt_ids for c in found] == [prompt for prompt in prompts for _ in (0, 1)]
    stats_ = rlif.score_completions(model, [c.prompt_ids for c in found], [c.completion_ids for c in found])
    assert [c.self_certainty for c in found] == pytest.approx(SIGNALS["self_certainty"](stats_), abs=1e-5)
    assert sampler.sample(prompts, Decoding(12, temperature=1.3, n=2, seed=3)) == found
    assert sampler.sample(prompts, Decoding(12, temperature=1.3, n=2, seed=4)) != found


def test_stop_strings_end_a_completion():
    model, tokenizer = tiny_model(), byte_tokenizer()
    sampler = TransformersSampler(model, tokenizer)
    prompts = [[5, 6, 7], [20, 30, 40]]
    free = sampler.sample(prompts, Decoding(20))
    stop = '"'
    stopped, other = sampler.sample(prompts, Decoding(20, stop=(stop,)))
    assert stopped.text == free[0].text.partition(stop)[0] and not stopped.truncated
    assert stopped.completion_ids == free[0].completion_ids[: len(stopped.completion_ids)]
    assert len(stopped.completion_ids) < len(free[0].completion_ids)
    assert other.text == free[1].text.partition(stop)[0]
    expected = rlif.score_completions(model, [stopped.prompt_ids], [stopped.completion_ids])
    assert stopped.self_certainty == pytest.approx(SIGNALS["self_certainty"](expected)[0], abs=1e-5)


def test_several_greedy_completions_are_refused():
    with pytest.raises(rlif.RlifError, match="would be the same"):
        Decoding(5, n=2)


def test_scores_of_several_samples():
    """Two problems, three samples each, by hand."""
    rows = [
        ("a", "1", True, 5.0),
        ("a", "2", False, 9.0),
        ("a", "1.0", True, 1.0),
        ("b", "3", False, 1.0),
        ("b", "4", True, 2.0),
        ("b", None, False, 3.0),
        ("c", "no gold", None, 3.0),
    ]
    records = [
        {"id": key, "answer": answer, "right": right, "self_certainty": sure, "tokens": 4, "truncated": False}
        for key, answer, right, sure in rows
    ]
    scores = summarise(records, lambda a, b: float(a) == float(b))
    assert scores.n == 3 and scores.accuracy.n == 6
    assert scores.accuracy.mean == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert scores.chosen["maj@3"] == proportion(1, 2)  # a: {1, 1.0}; b: a tie, the first
    assert scores.chosen["self_certainty@3"] == proportion(1, 2)  # a: "2"; b: "4", the surest that answers
    assert scores.pass_at[1].mean == pytest.approx(0.5)
    assert scores.pass_at[2].mean == pytest.approx((1 + 2 / 3) / 2)
    assert scores.unanswered == pytest.approx(1 / 7)
    assert Scores.read(json.loads(json.dumps(scores.as_dict()))) == scores


def test_scores_without_graded_records():
    assert summarise([]).as_dict()["accuracy"]["mean"] is None
    unlabelled = [{"id": "a", "answer": None, "right": None}] * 2
    found = summarise(unlabelled).as_dict()
    assert found["accuracy"] == {"n": 0, "mean": None, "low": None, "high": None}
    assert Scores.read(found).as_dict() == found


def test_shots_are_dropped_from_the_end_until_the_prompt_fits():
    class Short(type(CUPS)):
        protocols: ClassVar = {"default": replace(CUPS.protocol, max_prompt_tokens=17)}

    tokenizer, problem = byte_tokenizer(), Problem("a", "now?", preamble="0. ", shots=("one. ", "two. ", "six. "))
    text = tokenizer.decode(*render_problems(tokenizer, PROMPTS["plain"], [problem], False, Short()))
    assert text == "0. one. now?\n"
    assert "0. one. two. six. now?" in tokenizer.decode(
        *render_problems(tokenizer, PROMPTS["plain"], [problem], False, CUPS)
    )


def test_chat_templates():
    with_template, without = byte_tokenizer(), byte_tokenizer(chat=False)
    assert setup_of(CUPS, with_template).chat and not setup_of(CUPS, without).chat
    assert not setup_of(CUPS, with_template, chat=False).chat
    with pytest.raises(rlif.RlifError, match="needs a chat template"):
        setup_of(CUPS, without, chat=True)


def test_golds_are_checked():
    rows = [Problem("a", "?", "7"), Problem("b", "?", None), Problem("c", "?", "\\boxed{")]
    assert check_gold(rlif.TASKS["gsm8k"], rows) == {"wrong": ["c"], "none": ["b"]}
