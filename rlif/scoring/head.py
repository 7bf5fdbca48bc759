"""Finds the output head of a causal language model and turns its hidden states into logits exactly.

Heads with a bias, a scale or a soft cap are exact. `verify_head` compares with the model's own logits once and refuses
a head that does something else. Heads in the shards of FSDP2 or ZeRO-3 are gathered while they are used.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rlif.errors import ModelError

Weights = tuple[torch.Tensor, torch.Tensor | None]  # weight and bias, whole


@dataclass(frozen=True)
class Head:
    """Describes an output head: `logits = softcap(scale * (h W^T + b))`, softcap(z) = cap * tanh(z / cap)."""

    module: nn.Linear
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocab_size(self) -> int:
        weight: Any = self.module.weight
        return getattr(weight, "ds_shape", weight.shape)[0]  # `shape` is empty under ZeRO-3

    @contextmanager
    def whole(self) -> Iterator[Weights]:
        """Yields weight and bias, gathered where FSDP2 or ZeRO-3 hold them in shards; all processes enter together."""
        parameters: tuple[Any, Any] = (self.module.weight, self.module.bias)
        shards = [p for p in parameters if getattr(p, "ds_id", None) is not None and p.shape != p.ds_shape]
        gathered = nullcontext()
        if shards:
            import deepspeed  # pyright: ignore[reportMissingImports]

            gathered = deepspeed.zero.GatheredParameters(shards)
        with gathered:
            weight, bias = (p.full_tensor() if isinstance(p, DTensor) else p for p in parameters)
            yield weight.detach(), None if bias is None else bias.detach()

    def projected(self, hidden: torch.Tensor, weights: Weights | None = None) -> torch.Tensor:
        """Computes `h W^T + b`, with `weights` of `whole` where the module's own may be in shards."""
        if weights is None:
            return self.module(hidden)
        weight, bias = weights[0].to(hidden.dtype), None if weights[1] is None else weights[1].to(hidden.dtype)
        return nn.functional.linear(hidden, weight, bias)

    def finish(self, projected: torch.Tensor) -> torch.Tensor:
        """Turns `h W^T + b` into the model's logits, in float32; may return `projected` itself."""
        logits = projected.float() if self.scale == 1 else projected.float() * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def causal_lm(model: nn.Module) -> Any:
    """Returns the transformers model, without a PEFT wrapper."""
    return getattr(model, "get_base_model", lambda: model)()


def backbone_of(lm: Any) -> Any:
    """Returns the part of a causal language model whose hidden states its head reads."""
    found = getattr(lm, "get_decoder", lambda: lm.base_model)()
    return lm.model if found is lm else found


def head_of(model: nn.Module) -> Head:
    """Finds the output head of a causal language model."""
    lm = causal_lm(model)
    module = lm.get_output_embeddings() if hasattr(lm, "get_output_embeddings") else None
    if not isinstance(module, nn.Linear):
        found = "none" if module is None else type(module).__name__
        raise ModelError(
            f"{type(lm).__name__} needs a plain linear output head to be scored, found {found}; leave lm_head out of"
            " the adapter's target modules."
        )
    config = lm.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale *= getattr(config, name, None) or 1.0
    divisor = getattr(config, "logits_scaling", None)
    if divisor:
        scale = scale * divisor if config.model_type == "hyperclovax" else scale / divisor
    return Head(module, scale, getattr(config, "final_logit_softcapping", None))


def longest_sequence(config: Any) -> int | None:
    """Returns how many tokens of prompt and completion a model takes; None where it has no such limit.

    Beyond the original positions, `longrope` and `dynamic` change the frequencies of all rows with the longest of a
    pass, and of tokens that are computed already. No number means one thing there.
    """
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    rope = getattr(text, "rope_parameters", None) or {}
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):  # or one for each kind of layer
        if part.get("rope_type") in ("longrope", "dynamic"):
            return part.get("original_max_position_embeddings") or limit
    stretched = (rope.get("original_max_position_embeddings") or 0) * (rope.get("factor") or 0)
    return max(limit, int(stretched)) if isinstance(limit, int) else None


@contextmanager
def without_router_logits(model: nn.Module) -> Iterator[None]:
    """Has a mixture of experts return no router logits, whose loss cannot be computed while it decodes."""
    config = causal_lm(model).config.get_text_config()
    wanted = getattr(config, "output_router_logits", None)
    if wanted:
        config.output_router_logits = False
    try:
        yield
    finally:
        if wanted:
            config.output_router_logits = wanted


LOOKED_AT, LARGE = 8, 50.0  # tokens that `verify_head` looks at; the logits that it makes of them the second time
verified: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models whose head was compared with their logits


@torch.no_grad()
def verify_head(model: nn.Module) -> None:
    """Compares our logits with the model's own on a few tokens, once per model, and looks whether it is causal.

    The second time hidden states are multiplied until logits are large, because a soft cap changes small ones little.
    A model in ZeRO-3's shards cannot run before training begins; `verify_logprobs` checks it then.

    Raises:
        ModelError: they differ, so this module does not describe the head; or a token reads those after it.
    """
    lm = causal_lm(model)
    head = head_of(lm)
    if lm in verified or hasattr(head.module.weight, "ds_id"):
        return
    ids = [n % head.vocab_size for n in range(LOOKED_AT)]
    with evaluation_mode(lm):
        ours_LV, theirs_LV = _both_logits(lm, head, ids)
        if not theirs_LV.isfinite().all():
            damaged = next((name for name, p in lm.named_parameters() if not p.isfinite().all()), None)
            why = f"{damaged} holds values that are not finite" if damaged else "its values are too large for this type"
            raise ModelError(f"the logits of {type(lm).__name__} are not finite in {lm.dtype}: {why}.")
        factor = LARGE / ours_LV.abs().max().clamp(min=0.1).item()
        pairs = (ours_LV, theirs_LV), _both_logits(lm, head, ids, factor)
        half = LOOKED_AT // 2
        changed_LV = _both_logits(lm, head, [*ids[:half], *reversed(ids[half:])])[1]
    tolerance, limit = (1e-4, 1e-3) if lm.dtype == torch.float32 else (2e-2, 0.1)
    same = all(o.shape == t.shape and torch.allclose(o, t, rtol=tolerance, atol=tolerance) for o, t in pairs)
    off = (theirs_LV.log_softmax(-1) - changed_LV.log_softmax(-1))[:half].abs().mean().item()
    if same and off > limit:
        raise not_causal(type(lm).__name__, off)
    _verify(lm, same)


def not_causal(name: str, off: float) -> ModelError:
    """Returns the error for a model that reads what comes after a token; `off` nats depend on it."""
    return ModelError(
        f"{name} reads the tokens that come after: the statistics of a token change by {off:.2g} nats with them; use a"
        " causal language model (some take is_decoder=true)."
    )


def _both_logits(lm: Any, head: Head, ids: list[int], factor: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns our logits of a few tokens and the model's own, [L, V], after multiplying its hidden states."""
    ours: list[torch.Tensor] = []

    def read(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * factor
        if output.last_hidden_state.shape[-1] == head.module.in_features:  # or something lies between
            ours.append(head.finish(head.module(output.last_hidden_state[0])).float())
        return output

    ids_BL, handle = torch.tensor([ids], device=lm.device), backbone_of(lm).register_forward_hook(read)
    try:
        output = lm(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), use_cache=False)
    finally:
        handle.remove()
    return ours[0] if ours else torch.zeros(1), output.logits[0].float()


def verify_logprobs(lm: nn.Module, ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> None:
    """Compares our log-probabilities with an engine's, but for masked tokens, 0 there; refuses more than rounding."""
    known, tolerance = theirs != 0, 1e-3 if dtype == torch.float32 else 0.25
    if known.any():
        _verify(lm, bool((ours - theirs.float())[known].abs().max() < tolerance))


def _verify(lm: nn.Module, same: bool) -> None:
    if not same:
        raise ModelError(
            f"the logits of {type(lm).__name__} are not scale, soft cap and bias on a linear head,"
            " so they cannot be scored exactly; please report the architecture."
        )
    verified.add(lm)


@contextmanager
def training_mode(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Switches to training mode, or to eval mode (no dropout); every submodule's own mode is back afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(on)
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


evaluation_mode = partial(training_mode, on=False)
