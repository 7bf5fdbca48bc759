"""Compares statistics of a model sharded by torch's fully_shard with the whole model, on two processes."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from trl.trainer import utils

from rlif.errors import RlifError
from rlif.scoring.head import head_of
from rlif.scoring.statistics import score_completions
from rlif.scoring.taps import BackboneTap
from support.models import tiny_model

ADD_FUSED_HEAD = getattr(utils, "add_fused_lm_head", None)  # older TRL has none, and trains from logits
TEMPERATURE, TOP_K, PROMPT, COMPLETION = 0.7, 5, 4, 6
NAMES = ("logprob", "mean_logprob", "entropy", "topk_confidence")


def in_shards(model: nn.Module, head_apart: bool) -> nn.Module:
    """Shards each layer as its own group, the head too if asked, and the rest in the root's group."""
    for layer in model.model.layers:
        fully_shard(layer)
    if head_apart:
        fully_shard(model.lm_head)
    return fully_shard(model, reshard_after_forward=not head_apart)


def by_accelerate(model: nn.Module) -> nn.Module:
    """Shards a model by accelerate's own function: final norm, head and tied embedding are one group.

    The model has TRL's fused head where training has it. A real Accelerator has no FSDP on the CPU, so its attributes
    are given here.
    """
    if ADD_FUSED_HEAD is not None:
        ADD_FUSED_HEAD(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="no",
        is_main_process=PartialState().is_main_process,
        device=torch.device("cpu"),
        torch_device_mesh=None,
    )
    model = fsdp2_prepare_model(accelerator, model)
    assert has_fused_head(model) == (ADD_FUSED_HEAD is not None)
    return model


def has_fused_head(model: nn.Module) -> bool:
    return "fused_lm_head" in inspect.signature(model.forward, follow_wrapped=False).parameters


def logprobs(model: nn.Module, ids_BL: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of completion tokens, [B, T]: by TRL's fused head if the model has it, else from logits."""
    if has_fused_head(model):
        labels_BL = ids_BL.clone()
        labels_BL[:, :PROMPT] = -100
        return model(input_ids=ids_BL, labels=labels_BL, fused_lm_head=True, use_cache=False).log_probs[:, -COMPLETION:]
    logprobs_BLV = (model(input_ids=ids_BL, use_cache=False).logits / TEMPERATURE).log_softmax(-1)
    return logprobs_BLV[:, -COMPLETION - 1 : -1].gather(-1, ids_BL[:, -COMPLETION:, None]).squeeze(-1)


def tapped(model: nn.Module, ids_BL: torch.Tensor) -> dict[str, torch.Tensor]:
    """Taps the statistics from a pass for log-probabilities."""
    with torch.no_grad(), BackboneTap(model, ids_BL, COMPLETION, TEMPERATURE, NAMES, TOP_K) as tap:
        logprob_BT = logprobs(model, ids_BL)
    fields = tap.fields(logprob_BT)
    assert fields is not None
    return fields


def step(model: nn.Module, optimizer: torch.optim.Optimizer, ids_BL: torch.Tensor) -> None:
    """Makes one step of training; afterwards the parameters have changed and are sharded again."""
    (-logprobs(model, ids_BL).mean()).backward()
    optimizer.step()
    optimizer.zero_grad()


LAYOUTS = {
    "tied": (True, partial(in_shards, head_apart=False)),
    "untied": (False, partial(in_shards, head_apart=False)),
    "head apart": (False, partial(in_shards, head_apart=True)),
    "accelerate's, tied": (True, by_accelerate),
    "accelerate's, untied": (False, by_accelerate),
}


def differences() -> dict[str, Any]:
    """Largest difference from the whole model, by case: before a pass, after a pass, after a training step."""
    found: dict[str, Any] = {}
    ids_BL = torch.randint(5, 261, (3, PROMPT + COMPLETION), generator=torch.Generator().manual_seed(1))
    rows = [row[:PROMPT].tolist() for row in ids_BL], [row[PROMPT:].tolist() for row in ids_BL]
    for case, (tied, shard) in LAYOUTS.items():
        whole = tiny_model(tie_word_embeddings=tied)
        model = shard(copy.deepcopy(whole))
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
