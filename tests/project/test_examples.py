"""Tests that the example from scratch agrees with the library on the same completions."""

from __future__ import annotations

import pytest
import torch
from support import oracle
from support.commands import ROOT
from support.models import byte_tokenizer, tiny_model
from support.scripts import load

import rlif
from rlif.rewards.mixing import Normaliser

EXAMPLE = "examples/intuitor_from_scratch.py"


@pytest.fixture(scope="module")
def example():
    return load(EXAMPLE)


def test_the_example_has_at_most_200_lines_and_no_trl():
    source = (ROOT / EXAMPLE).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 200
    assert "import trl" not in source and "from trl" not in source


@pytest.mark.parametrize("floor", [0.0, 0.4])
def test_example_and_library_give_equal_self_certainty_and_advantages(example, monkeypatch, floor):
    monkeypatch.setattr(example, "MAX_TOKENS", 10)
    model, tokenizer = tiny_model(), byte_tokenizer()
    torch.manual_seed(3)
    ids_BL, mask_BL, mask_BT = example.sample(model, tokenizer, ["Go.", "Count the cups."])
    with torch.no_grad():
        logprobs_BTV = example.logprobs(model, ids_BL, mask_BL, mask_BT.shape[1])
    theirs_B = example.self_certainty(logprobs_BTV, mask_BT)

    prompt_BL, completion_BT = ids_BL[:, : -mask_BT.shape[1]], ids_BL[:, -mask_BT.shape[1] :]
    prompt_mask_BL = mask_BL[:, : prompt_BL.shape[1]]
    prompts = [row[mask].tolist() for row, mask in zip(prompt_BL, prompt_mask_BL, strict=True)]
    completions = [row[mask].tolist() for row, mask in zip(completion_BT, mask_BT, strict=True)]
    ours = rlif.SIGNALS["self_certainty"](rlif.score_completions(model, prompts, completions))
    assert theirs_B.tolist() == pytest.approx(ours, abs=1e-4)

    normaliser = Normaliser("group_std_floor", floor=floor)
    rewards_PG = normaliser(torch.tensor(ours).view(-1, example.GROUP))
    found = (rewards_PG - rewards_PG.mean(1, keepdim=True)).flatten().tolist()
    assert normaliser.start_spread is not None
    least = floor * normaliser.start_spread
    assert example.advantages(theirs_B, least).tolist() == pytest.approx(found, abs=1e-4)
    assert found == pytest.approx(oracle.group_advantages(ours, example.GROUP, least), abs=1e-4)
