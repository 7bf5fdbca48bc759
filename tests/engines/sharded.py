"""Statistics of a model that torch's fully_shard keeps in shards, against those of the whole one. Two processes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import tiny_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from rlif.errors import RlifError
from rlif.scoring import head_of, score_completions
from rlif.taps import BackboneTap

TEMPERATURE, TOP_K, PROMPT, COMPLETION = 0.7, 5, 4, 6
NAMES = ("logprob", "mean_logprob", "entropy", "topk_confidence")


def in_shards(model: nn.Module, head_apart: bool) -> nn.Module:
    """Each layer a shard group of its own, the head too if asked, the rest in the root's: what accelerate makes."""
    for layer in model.model.layers:
        fully_shard(layer)
    if head_apart:
        fully_shard(model.lm_head)
    return fully_shard(model, reshard_after_forward=not head_apart)


def tapped(model: nn.Module, ids_BL: torch.Tensor) -> dict[str, torch.Tensor]:
    """The statistics off somebody's pass for log-probabilities."""
    with torch.no_grad(), BackboneTap(model, ids_BL, COMPLETION, TEMPERATURE, NAMES, TOP_K) as tap:
        logprobs_BLV = (model(input_ids=ids_BL, use_cache=False).logits / TEMPERATURE).log_softmax(-1)
        logprob_BT = logprobs_BLV[:, -COMPLETION - 1 : -1].gather(-1, ids_BL[:, -COMPLETION:, None]).squeeze(-1)
    fields = tap.fields(logprob_BT)
    assert fields is not None
    return fields


def step(model: nn.Module, optimizer: torch.optim.Optimizer, ids_BL: torch.Tensor) -> None:
    """One step of training, after which the parameters are others and in shards again."""
    model(input_ids=ids_BL, labels=ids_BL).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def differences() -> dict[str, Any]:
    """Largest difference from the whole model by case: never passed through, passed through, trained a step."""
    found: dict[str, Any] = {}
    ids_BL = torch.randint(5, 261, (3, PROMPT + COMPLETION), generator=torch.Generator().manual_seed(1))
    rows = [row[:PROMPT].tolist() for row in ids_BL], [row[PROMPT:].tolist() for row in ids_BL]
    for case, tied, head_apart in (("tied", True, False), ("untied", False, False), ("head apart", False, True)):
        whole = tiny_model(tie_word_embeddings=tied)
        model = in_shards(copy.deepcopy(whole), head_apart)
        assert isinstance(head_of(model).module.weight, DTensor)
        optimizers = {each: torch.optim.SGD(each.parameters(), lr=0.1) for each in (whole, model)}
        for when in ("new", "passed", "trained"):
            if when == "trained":
                for each, optimizer in optimizers.items():
                    step(each, optimizer, ids_BL)
            stats = score_completions(whole, *rows, temperature=TEMPERATURE, top_k=TOP_K)
            with pytest.raises(RlifError, match="is in shards"):
                score_completions(model, *rows)
            ours = tapped(model, ids_BL)
            found[f"{case}, {when}"] = max(
                float((ours[name] - getattr(stats, f"{name}_BT")).abs().max()) for name in NAMES
            )
    return found
