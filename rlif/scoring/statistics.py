"""Per-token statistics of completions: with `rlif.scoring.taps` the only file that handles hidden states and logits.

With z the logits of a position divided by the temperature and V the vocabulary,

    log p_j       = z_j - logsumexp(z)
    logprob       = log p of the token that came next
    mean_logprob  = mean_j log p_j
    entropy       = -sum_j p_j log p_j

Token i is scored by the distribution that generated it, p(. | prompt, o_<i): i = 1..|o|, the end-of-sequence token
that closes a completion included; prompt and padding excluded (arXiv 2505.19590, eq. 4; the reference TRL fork is one
position late).

Here is the way that needs a pass of its own, one no-grad pass with the head applied to a few positions at a time;
`rlif.scoring.taps` has those that need none. None ever holds [B, T, V]. Heads with a bias, a scale or a soft cap are
exact on all of them; `verify_head` compares with the model's own logits once and refuses a head that does something
else.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rlif.errors import RlifError
from rlif.types import TokenStats

Weights = tuple[torch.Tensor, torch.Tensor | None]  # of the head, whole
LOGITS_HELD = 2**25  # elements of the [chunk, V] logits held at once, 128 MiB in float32: enough to use the head well
LOGITS_CACHED = 2**19  # elements of those that are worked on at once, 2 MiB: few enough for a processor's own cache


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
        RlifError: it has no linear output head, or an adapter on it.
    """
    lm = causal_lm(model)
    module = lm.get_output_embeddings() if hasattr(lm, "get_output_embeddings") else None
    if not isinstance(module, nn.Linear):
        found = "none" if module is None else type(module).__name__
        raise RlifError(
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
        RlifError: they differ, so the head does something this module does not know.
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
    """The same by log-probabilities that somebody else computed; zeros, which stand for masked tokens, say nothing.

    Raises:
        RlifError: they differ by more than rounding to `dtype` explains.
    """
    known, tolerance = theirs != 0, 1e-3 if dtype == torch.float32 else 0.25
    if known.any():
        _verify(lm, bool((ours - theirs.float())[known].abs().max() < tolerance))


def _verify(lm: nn.Module, same: bool) -> None:
    if not same:
        raise RlifError(
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


def score_completions(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    batch_size: int = 8,
    chunk_tokens: int | None = None,
) -> TokenStats:
    """Per-token statistics of B completions under a model, in one no-grad pass in eval mode.

    Args:
        model: a causal language model of transformers, bare or wrapped by PEFT.
        prompt_ids: B prompts as token ids, at least one token each.
        completion_ids: B completions as token ids, the closing end-of-sequence token included, no padding.
        temperature: divides the logits; 1 is the model's own distribution.
        top_k: also give minus the mean of the k largest log-probabilities (DeepConf, arXiv 2508.15260).
        batch_size: rows per forward pass.
        chunk_tokens: positions whose logits are held at once; by default 128 MiB of them.

    Returns:
        `TokenStats` with [B, T] fields in float32 and nats, on the model's device. See `rlif.types.TokenStats`.

    Raises:
        RlifError: lists of unequal length, an empty prompt, an id outside the vocabulary, a head of unknown kind, a
            model in shards.

    Example:
        >>> stats = rlif.score_completions(model, [[5, 6]], [[7, 8, 2]])
        >>> rlif.SIGNALS["self_certainty"](stats)
        [11.84]
    """
    lm = causal_lm(model)
    head = head_of(lm)
    _check_rows(lm, prompt_ids, completion_ids, temperature, top_k, head.vocab_size)
    if any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in lm.parameters()):
        raise RlifError("this model is in shards (FSDP2 or ZeRO-3), and a pass over it needs it whole; load it anew.")
    verify_head(lm)
    chunk_tokens = chunk_tokens or max(1, LOGITS_HELD // head.vocab_size)
    device, lengths = lm.device, [len(ids) for ids in completion_ids]
    shape = (len(lengths), max(lengths, default=0))
    names = ["logprob", "mean_logprob", "entropy", *(["topk_confidence"] if top_k else [])]
    fields = {name: torch.zeros(shape, device=device) for name in names}
    mask_BT = length_mask(lengths, device)

    longest_first = sorted(range(len(lengths)), key=lambda b: -(len(prompt_ids[b]) + lengths[b]))
    with torch.no_grad(), evaluation_mode(lm):
        for start in range(0, len(longest_first), batch_size):
            rows = [b for b in longest_first[start : start + batch_size] if lengths[b]]
            if not rows:
                continue
            hidden_NH, target_N = _hidden_states(lm, [prompt_ids[b] for b in rows], [completion_ids[b] for b in rows])
            chunks = [
                chunk_stats(head, hidden_CH, target_C, temperature, top_k)
                for hidden_CH, target_C in zip(hidden_NH.split(chunk_tokens), target_N.split(chunk_tokens), strict=True)
            ]
            for name in names:
                flat_N = torch.cat([chunk[name] for chunk in chunks])
                for b, row_T in zip(rows, flat_N.split([lengths[b] for b in rows]), strict=True):
                    fields[name][b, : lengths[b]] = row_T
    return TokenStats(
        mask_BT, head.vocab_size, temperature, **{f"{name}_BT": field_BT for name, field_BT in fields.items()}
    )


def _check_rows(
    lm: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    temperature: float,
    top_k: int | None,
    vocab_size: int,
) -> None:
    if len(prompt_ids) != len(completion_ids):
        raise RlifError(f"got {len(prompt_ids)} prompts and {len(completion_ids)} completions; give one each.")
    if temperature <= 0:
        raise RlifError(f"temperature must be above 0, got {temperature}.")
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise RlifError(f"top_k must be from 1 to the {vocab_size} tokens of the vocabulary, got {top_k}.")
    limit = min(vocab_size, lm.get_input_embeddings().weight.shape[0])
    for row, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
        if not prompt:
            raise RlifError(f"prompt {row} has no tokens, so nothing generated its first completion token.")
        for token in (*prompt, *completion):
            if not 0 <= token < limit:
                raise RlifError(f"row {row} holds token id {token}, outside the model's {limit} tokens.")


def _hidden_states(
    lm: Any, prompt_ids: list[Sequence[int]], completion_ids: list[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`hidden_NH` that generated each completion token of the rows, one after the other, and `target_N`, the tokens."""
    rows = [torch.tensor([*p, *c], device=lm.device) for p, c in zip(prompt_ids, completion_ids, strict=True)]
    ids_BL = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask_BL = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    hidden_BLH = lm.base_model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
    spans = [(len(p), len(p) + len(c)) for p, c in zip(prompt_ids, completion_ids, strict=True)]
    hidden_NH = torch.cat([hidden_BLH[b, start - 1 : end - 1] for b, (start, end) in enumerate(spans)])
    return hidden_NH, torch.cat([ids_BL[b, start:end] for b, (start, end) in enumerate(spans)])


def chunk_stats(
    head: Head,
    hidden_NH: torch.Tensor,
    target_N: torch.Tensor,
    temperature: float,
    top_k: int | None = None,
    weights: Weights | None = None,
) -> dict[str, torch.Tensor]:
    """The statistics of N positions, holding their [N, V] logits and little more: O(V) per token."""
    projected_NV = head.projected(hidden_NH, weights)
    rows = max(1, LOGITS_CACHED // head.vocab_size)
    parts = [
        _stats(head.finish(projected_CV), target_C, temperature, top_k)
        for projected_CV, target_C in zip(projected_NV.split(rows), target_N.split(rows), strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _stats(
    logits_NV: torch.Tensor, target_N: torch.Tensor, temperature: float, top_k: int | None
) -> dict[str, torch.Tensor]:
    """The statistics of logits, which are overwritten; holds them once more, and takes one exponential of each."""
    if temperature != 1:
        logits_NV = logits_NV.div_(temperature)
    below_NV = logits_NV.sub_(logits_NV.amax(-1, keepdim=True))  # log p_j, but for the same constant in all
    weight_NV = below_NV.exp()
    sum_N = weight_NV.sum(-1)
    log_sum_N = sum_N.log()
    stats = {
        "logprob": below_NV.gather(-1, target_N.unsqueeze(-1)).squeeze(-1) - log_sum_N,
        "mean_logprob": below_NV.mean(-1) - log_sum_N,
    }
    if top_k:
        stats["topk_confidence"] = log_sum_N - below_NV.topk(top_k, dim=-1).values.mean(-1)
    below_NV.clamp_(min=torch.finfo(torch.float32).min)  # 0 log 0 is 0, and NaN stays
    stats["entropy"] = log_sum_N - weight_NV.mul_(below_NV).sum(-1) / sum_N
    return stats


class ConfidenceTap:
    """Reads the top-k confidence of the latest step of `generate` off its raw logits, `latest_B`; one [B, V] top-k."""

    def __init__(self, model: nn.Module, top_k: int):
        verify_head(model)
        self.head = head_of(model)
        self.top_k = min(top_k, self.head.vocab_size)
        self.latest_B = torch.empty(0)

    def __enter__(self) -> ConfidenceTap:
        self.handle = self.head.module.register_forward_hook(self._tap)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    @torch.no_grad()
    def _tap(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        logits_BV = self.head.finish(output[:, -1])
        self.latest_B = logits_BV.logsumexp(-1) - logits_BV.topk(self.top_k, dim=-1).values.mean(-1)


def length_mask(lengths: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """`mask_BT`, True at the first `lengths[b]` positions of row b."""
    lengths_B = torch.tensor(list(lengths), dtype=torch.long, device=device)
    return torch.arange(int(max(lengths, default=0)), device=device) < lengths_B.unsqueeze(1)
