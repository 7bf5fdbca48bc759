"""Tests rewards by path, and terms for labelled rows, in trainers and functions that need no recipe."""

from __future__ import annotations

import datasets
import pytest
import trl
from support.models import byte_tokenizer, tiny_model
from support.trainers import OPTIONS, PROMPTS, Lengths

import rlif
from rlif.engines.trl.rewards import InternalReward
from rlif.errors import RecipeError
from rlif.rewards.terms import find_term
from rlif.trl import GRPOTrainer

CODE = """
from rlif.graders import Batch
from rlif.types import Group, TokenStats

def peak(stats: TokenStats):
    return stats.reduce("entropy_BT", lambda entropy_T: -entropy_T.max())

def rarest(group: Group):
    return [float(text == min(group.completions)) for text in group.completions]

def golden(batch: Batch):
    return [float(problem.gold == "1") for problem in batch.problems]

def starred(batch: Batch):
    assert all(set(problem.row) == {"stars"} for problem in batch.problems)
    return [float(problem.row["stars"]) for problem in batch.problems]

def upper(completions, **_):
    return [float(sum(map(str.isupper, text))) for text in completions]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)


def trained(reward_funcs, gold=None, stars=None, **ours):
    columns = {name: column * 4 for name, column in {"gold": gold, "stars": stars}.items() if column is not None}
    rows = {"prompt": PROMPTS * 4} | columns
    trainer = GRPOTrainer(
        model=tiny_model(),
        reward_funcs=reward_funcs,
        args=trl.GRPOConfig(**{**OPTIONS, "max_steps": 2, "output_dir": "out", "remove_unused_columns": False}),
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=byte_tokenizer(),
        **ours,
    )
    trainer.train()
    return trainer


def test_reward_funcs_take_code_by_path(own):
    names = ["own.py:peak", "own.py:rarest", "own.py:golden", "own.py:upper", "self_certainty"]
    trainer = trained(names, gold=["1", "2", "1", None])
    row = trainer.state.log_history[0]
    assert trainer.reward_func_names == [*names[:3], "upper", "self_certainty"]
    assert row["rewards/own.py:peak/mean"] < 0 and row["rewards/own.py:rarest/mean"] >= 1 / 4
    for scored in trainer.reward.scored:
        assert scored.rewards["own.py:golden"] == (scored.prompt in (PROMPTS[0], PROMPTS[2]))
    with pytest.raises(RecipeError, match="has no 'paek'"):
        trained("own.py:paek")


def test_an_own_grader_sees_the_columns_of_the_data(own):
    """Without what TRL adds to them, and without a column of gold answers."""
    stars = dict(zip(PROMPTS, (1, 2, 3, 4), strict=True))
    trainer = trained(["own.py:starred", "self_certainty"], stars=list(stars.values()))
    assert trainer.reward.scored
    assert all(row.rewards["own.py:starred"] == stars[row.prompt] for row in trainer.reward.scored)


def test_score_and_reward_take_a_signal_by_path(own):
    model, tokenizer = tiny_model(), byte_tokenizer()
    (row,) = rlif.score(model, tokenizer, [("Where?", "There.")], ["own.py:peak", "likelihood"], chat=False, end=False)
    completion_ids = [tokenizer.encode("There.")]
    (value,) = rlif.reward("own.py:peak", model=model, tokenizer=tokenizer)(["Where?"], completion_ids)
    assert list(row) == ["own.py:peak", "likelihood"] and row["own.py:peak"] == pytest.approx(value) and value < 0
    for refused in (
        lambda: rlif.score(model, tokenizer, [("a", "b")], "own.py:rarest"),
        lambda: rlif.reward("own.py:upper", model=model, tokenizer=tokenizer),
    ):
        with pytest.raises(RecipeError, match="is not a token signal"):
            refused()


def test_terms_for_labelled_rows_read_gold_from_a_column(own):
    terms = [find_term("accuracy", rows="labelled"), find_term("self_certainty", rows="unlabelled")]
    trainer = trained(InternalReward(terms, task=Lengths()), gold=["1", None, "2", None])
    assert {row.prompt for row in trainer.reward.scored if row.labelled} <= {PROMPTS[0], PROMPTS[2]}
    for row in trainer.reward.scored:
        assert row.labelled == (row.prompt in (PROMPTS[0], PROMPTS[2]))
        assert row.rewards["self_certainty" if row.labelled else "accuracy"] is None
        assert (row.rewards["self_certainty"] is None) == row.labelled


def test_a_signal_refuses_an_argument_that_it_does_not_have():
    with pytest.raises(TypeError, match="takes no argument 'windw'"):
        rlif.SIGNALS["self_certainty"](None, windw=3)
