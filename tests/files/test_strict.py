"""Tests that true and false are not taken for 1 and 0 where settings have numbers."""

from __future__ import annotations

import pytest

import rlif
from rlif.engines.trl.setup import check_training

OTHERS = {"spread_floor=true", "seed=false", "limit=true", "labels=true", "max_prompt_tokens=true", "task=true"}
INNER = {
    "guard={kl: true}",
    "guard.rollbacks=true",
    "evaluate.limit=true",
    "evaluate={tasks: [true]}",
    "token_update={kind: kl_cov, share: true}",
    "token_update={kind: clip_cov, bounds: [true, 5]}",
    "training.beta=true",
    "training.max_steps=true",
    "training.save_steps=true",
}


@pytest.mark.parametrize("override", sorted(OTHERS | INNER))
def test_a_number_is_not_true_or_false(override):
    with pytest.raises(rlif.RlifError, match=r"in the recipe: input should not be true or false, found "):
        check_training(rlif.load_recipe("demo", [override]), 1)


@pytest.mark.parametrize("override", ["rounds.number=true", "rounds.keep=true"])
def test_nor_in_rounds(override):
    with pytest.raises(rlif.RlifError, match=r"rounds.* input should not be true or false, found True"):
        rlif.load_recipe("star", [override])


def test_the_rank_of_adapters_is_not_true():
    with pytest.raises(rlif.RlifError, match=r"lora.r is True; it must be a whole number from 1"):
        rlif.load_recipe("demo", ["lora={r: true}"])


@pytest.mark.parametrize(
    "override", ["mask_answer=true", "chat=false", "training.bf16=false", "guard={kl: null}", "guard.policy=stop"]
)
def test_what_may_be_true_false_or_null_is_taken(override):
    check_training(rlif.load_recipe("demo", [override]), 1)
