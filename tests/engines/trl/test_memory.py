"""Tests that taps and scoring make no [B, T, V] tensor, by the largest output of any operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from memory import watch
from support.models import tiny_model
from support.trainers import make_trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rlif
from rlif.engines.trl.rewards import InternalReward
from rlif.scoring import statistics as scoring
from rlif.scoring.head import Head, verify_head
from rlif.scoring.statistics import chunk_stats
from rlif.scoring.taps import BackboneTap, DecodeTap

V = 20_000


class Largest(TorchDispatchMode):
    """Counts the elements of the largest new tensor; views and in-place results are not new."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        output = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
        sizes = [t.numel() for t in made if t.untyped_storage().data_ptr() not in known]
        self.elements = max([self.elements, *sizes])
        return output


def chunks_of(monkeypatch: pytest.MonkeyPatch, positions: int) -> int:
    """Limits scoring to the logits of this many positions; returns their number of elements."""
    monkeypatch.setattr(scoring, "LOGITS_HELD", positions * V)
    return positions * V


def largest_of(work: Any) -> int:
    with Largest() as largest:
        work()
    return largest.elements


def test_scoring_holds_one_chunk_of_logits_whatever_the_batch(monkeypatch):
    held, model = chunks_of(monkeypatch, 4), tiny_model(vocab_size=V)
    verify_head(model)
    found = [
        largest_of(lambda B=B, T=T: rlif.score_completions(model, [[5] * 3] * B, [[7] * T] * B, top_k=5))
        for B, T in ((2, 4), (4, 16), (8, 32))
    ]
    assert found == [held] * 3
    assert largest_of(lambda: model(torch.full((8, 35), 7))) == 8 * 35 * V  # full logits would be seen


class Product(torch.nn.Linear):
    """A head with precomputed products; the temporary memory of a matrix product differs between processors."""

    def __init__(self, projected_NV: torch.Tensor):
        super().__init__(1, projected_NV.shape[1], device="meta")
        self.projected_NV = projected_NV

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.projected_NV.clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_statistics_of_a_chunk_take_little_more_memory_than_its_logits(dtype, monkeypatch):
    """Measured at the allocator, so temporary memory inside operators counts too."""
    monkeypatch.setattr(scoring, "LOGITS_CACHED", V)
    N, size = 40, dtype.itemsize
    head, target_N = Head(Product(torch.randn(N, V).to(dtype))), torch.full((N,), 7)
    with torch.no_grad(), watch() as memory:
        chunk_stats(head, torch.empty(N, 1), target_N, 0.7, top_k=5)
    assert size * N * V <= memory.peak < (size * N + 4 * 4) * V


@pytest.mark.parametrize("wanted", [("mean_logprob",), ("mean_logprob", "entropy", "topk_confidence")])
def test_a_tap_on_a_pass_holds_one_row_of_hidden_states_or_one_chunk(wanted, monkeypatch):
    held, model, T = chunks_of(monkeypatch, 4), tiny_model(vocab_size=V), 24
    ids_BL = torch.full((6, T + 3), 7)
    verify_head(model)
    tap = BackboneTap(model, ids_BL, T, 1.0, wanted, top_k=5)
    hidden = model.base_model(ids_BL)
    largest = largest_of(lambda: tap._read(model, (), hidden))
    assert largest <= (T * 32 if len(wanted) == 1 else held)


def test_a_tap_on_decoding_holds_the_logits_of_one_step():
    model, B = tiny_model(vocab_size=V), 6
    tap, steps = DecodeTap(model, 0.9, ("mean_logprob", "entropy")), [torch.randn(B, 1, V) for _ in range(8)]
    largest = largest_of(lambda: [tap._read(model, (), logits_B1V) for logits_B1V in steps])
    assert largest == B * V


@pytest.mark.parametrize(
    ("changes", "path"), [({}, "decode"), ({"num_iterations": 2}, "policy"), ({"algorithm": "rloo"}, "policy")]
)
def test_taps_and_rewards_make_no_large_tensor_in_training(changes, path, monkeypatch, model_folder):
    """No tensor of taps or reward grows with B times T times V."""
    seen = []

    def watched(method: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            with Largest() as largest:
                output = method(*args, **kwargs)
            seen.append(largest.elements)
            return output

        return run

    for owner, name in ((DecodeTap, "_read"), (BackboneTap, "_read"), (InternalReward, "__call__")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    trainer = make_trainer(model_folder, max_steps=1, **changes)
    trainer.train()
    rows, longest = trainer.rollouts[0]["scored"], trainer.args.max_completion_length
    assert trainer.rollouts[0]["path"] == path and len(seen) > 1
    assert max(seen) <= max(len(rows) * 261, longest * 32) < len(rows) * longest * 261
