"""Signals and graders of one's own."""

from __future__ import annotations

import pytest
import torch

from rlif.config.passes import needs_of
from rlif.errors import RecipeError, RewardError
from rlif.rewards.terms import find_term, kind_of
from rlif.rewards.time_limit import RewardFailed
from rlif.signals import SIGNALS, find_signal
from rlif.types import Group, TokenStats

CODE = """
import torch
from rlif.graders import Batch
from rlif.types import Group, TokenStats

def peak(stats: TokenStats) -> list[float | None]:
    return stats.reduce("entropy_BT", lambda t: -t.max())

def two(stats: "TokenStats"):
    return [a and a + b for a, b in zip(stats.reduce("entropy_BT", torch.mean), stats.reduce("logprob_BT", torch.sum))]

def rare(group: Group):
    return [float(group.answers.count(a)) for a in group.answers]

def short(group: Group):
    return [1.0]

def late(group: Group):
    raise KeyError("x")

def shown(batch: Batch):
    return [float(bool(p.gold)) for p in batch.problems]

def plain(completions, **_):
    return [0.0 for _ in completions]

def few(stats: TokenStats):
    return [1.0]

def nan(stats: TokenStats):
    return ((stats.entropy_BT * stats.mask_BT).sum(1) / stats.mask_BT.sum(1)).tolist()

def broken(stats: TokenStats):
    return 1 / 0

def nothing(stats: TokenStats):
    return [None] * len(stats.mask_BT)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)


def test_the_kind_follows_from_the_annotation_of_the_first_parameter():
    kinds = {"peak": "token", "two": "token", "rare": "group", "shown": "grader", "plain": "function"}
    assert {name: kind_of(f"mine.py:{name}") for name in kinds} == kinds


def test_the_fields_that_a_signal_reads_are_found():
    assert find_term("mine.py:peak").needs == ("entropy_BT",)
    assert find_term("mine.py:two").needs == ("entropy_BT", "logprob_BT")
    assert needs_of(["mine.py:two", "self_certainty", "mine.py:plain", "mine.py:rare"]) == {
        "entropy", "logprob", "mean_logprob",
    }  # fmt: skip


def test_a_signal_of_ones_own_is_called_like_those_that_ship():
    mask_BT = torch.tensor([[True, True], [False, False]])
    stats = TokenStats(mask_BT, 8, entropy_BT=torch.tensor([[1.0, 2.0], [3.0, 3.0]]))
    assert SIGNALS["mine.py:peak"](stats) == find_signal("mine.py:peak")(stats) == [-2.0, None]
    assert find_term("mine.py:rare").measure(Group("?", ["a"] * 3, ["4", "4", None])) == [2.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few", "the signal mine.py:few returned 1 rewards for 3 completions"),
        ("nan", "the signal mine.py:nan returned nan; rewards are finite numbers, or None"),
        ("broken", r"the signal mine.py:broken raised ZeroDivisionError: division by zero at .*mine\.py, line 34"),
        ("nothing", "the signal mine.py:nothing reads no field of TokenStats; there are logprob_BT"),
        ("pek", "did you mean 'peak'"),
    ],
)
def test_a_signal_that_fails_is_refused_before_anything_is_loaded(name, message):
    with pytest.raises(RecipeError, match=message):
        find_term(f"mine.py:{name}")


def test_a_group_signal_that_fails_in_the_run_is_named():
    with pytest.raises(RewardError, match=r"the signal mine\.py:short returned 1 rewards for 2 completions"):
        find_term("mine.py:short").measure(Group("?", ["a", "b"], ["4", None]))
    with pytest.raises(RewardFailed, match=r"the signal mine.py:late raised KeyError: 'x' at .*mine\.py, line 19"):
        find_term("mine.py:late").measure(Group("?", ["a", "b"], ["4", None]))


def test_a_signal_of_another_kind_is_refused_where_a_token_signal_is_read():
    with pytest.raises(RecipeError, match=r"is not a token signal; its first parameter must be annotated"):
        find_signal("mine.py:rare")
    with pytest.raises(RecipeError, match="unknown signal 'self_certanty'; did you mean 'self_certainty'"):
        find_signal("self_certanty")
