"""Finds the output head of a causal language model and turns its hidden states into logits exactly.

Heads with a bias, a scale or a soft cap are exact. `verify_head` compares with the model's own logits once and refuses
a head that does something else. Heads in the shards of FSDP2 or ZeRO-3 are gathered while they are used.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rlif.errors import ModelError

Weights = tuple[torch.Tensor, torch.Tensor | None]  # of the head, whole


@dataclass(frozen=True)
class Head:
    """An output head: `logits = softcap(scale * (h W^T + b))`, softcap(z) = cap * tanh(z / cap)."""

    module: nn.Linear
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocab_size(self) -> int:
        weight: Any = self.module.weight
        return getattr(weight, "ds_shape", weight.shape)[0]  # ZeRO-3 leaves none of its own

    @contextmanager
    def whole(self) -> Iterator[Weights]:
        """Weight and bias, gathered inside where FSDP2 or ZeRO-3 hold them in shards; all processes enter together."""
        parameters = (self.module.weight, self.module.bias)
        with gathered(*parameters):
            weight, bias = (p.full_tensor() if isinstance(p, DTensor) else p for p in parameters)
            yield weight.detach(), None if bias is None else bias.detach()

    def projected(self, hidden: torch.Tensor, weights: Weights | None = None) -> torch.Tensor:
        """`h W^T + b`; by `weights` of `whole` where the module's own may be in shards."""
        if weights is None:
            return self.module(hidden)
        weight, bias = weights[0].to(hidden.dtype), None if weights[1] is None else weights[1].to(hidden.dtype)
        return nn.functional.linear(hidden, weight, bias)

    def finish(self, projected: torch.Tensor) -> torch.Tensor:
        """From `h W^T + b` to the logits of the model, in float32; `projected` itself where nothing is to be done."""
        logits = projected.float() if self.scale == 1 else projected.float() * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


@contextmanager
def gathered(*parameters: Any) -> Iterator[None]:
    """Inside, DeepSpeed's ZeRO-3 has these whole on every process; nothing happens to others."""
    shards = [p for p in parameters if getattr(p, "ds_id", None) is not None and p.shape != p.ds_shape]
    if not shards:
        yield
        return
    import deepspeed  # pyright: ignore[reportMissingImports]

    with deepspeed.zero.GatheredParameters(shards):
        yield


def causal_lm(model: nn.Module) -> Any:
    """The transformers model below a PEFT wrapper, if there is one."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def head_of(model: nn.Module) -> Head:
    """The output head of a causal language model.

    Raises:
        ModelError: it has no linear output head, or an adapter on it.
    """
    lm = causal_lm(model)
    module = lm.get_output_embeddings() if hasattr(lm, "get_output_embeddings") else None
    if not isinstance(module, nn.Linear):
        found = "none" if module is None else type(module).__name__
        raise ModelError(
            f"{type(lm).__name__} needs a plain linear output head to be scored, found {found};"
            " leave lm_head out of the adapter's target modules."
        )
    config = lm.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale *= getattr(config, name, None) or 1.0
    divisor = getattr(config, "logits_scaling", None)
    if divisor:
        scale = scale * divisor if config.model_type == "hyperclovax" else scale / divisor
    return Head(module, scale, getattr(config, "final_logit_softcapping", None))


_verified: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@torch.no_grad()
def verify_head(model: nn.Module) -> None:
    """Compares our logits with the model's own on two tokens, once per model.

    A model in ZeRO-3's shards cannot be passed through before training begins: `verify_logprobs` does it then.

    Raises:
        ModelError: they differ, so the head does something unknown to this module.
    """
    lm = causal_lm(model)
    head = head_of(lm)
    if lm in _verified or hasattr(head.module.weight, "ds_id"):
        return
    ids_BL = torch.tensor([[0, 1]], device=lm.device)
    with evaluation_mode(lm):
        ours = head.finish(head.module(lm.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state))
        theirs = lm(input_ids=ids_BL, use_cache=False).logits.float()
    tolerance = 1e-4 if theirs.dtype == lm.dtype else 2e-2
    _verify(lm, ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance))


def is_verified(lm: nn.Module) -> bool:
    """Whether the head of a model is known to be what `head_of` takes it for."""
    return lm in _verified


def verify_logprobs(lm: nn.Module, ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> None:
    """Compares our log-probabilities with those that an engine computed; zeros stand for masked tokens and are skipped.

    Raises:
        ModelError: they differ by more than rounding to `dtype` explains.
    """
    known, tolerance = theirs != 0, 1e-3 if dtype == torch.float32 else 0.25
    if known.any():
        _verify(lm, bool((ours - theirs.float())[known].abs().max() < tolerance))


def _verify(lm: nn.Module, same: bool) -> None:
    if not same:
        raise ModelError(
            f"the logits of {type(lm).__name__} are not scale, soft cap and bias on a linear head,"
            " so they cannot be scored exactly; please report the architecture."
        )
    _verified.add(lm)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside (no dropout), every submodule's own mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def has_active_dropout(model: nn.Module) -> bool:
    """Whether a forward pass of the model, in the mode it is in, drops anything."""
    for module in model.modules():
        if module.training and (
            (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
            or (isinstance(rate := getattr(module, "attention_dropout", 0.0), float) and rate > 0)
        ):
            return True
    return False
