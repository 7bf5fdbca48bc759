"""Computes per-token statistics of completions in a forward pass of its own.

With z the logits of a position divided by the temperature and V the vocabulary,

    log p_j       = z_j - logsumexp(z)
    logprob       = log p of the token that came next
    mean_logprob  = mean_j log p_j
    entropy       = -sum_j p_j log p_j

Token i is scored by the distribution that generated it, p(. | prompt, o_<i): i = 1..|o|, the end-of-sequence token
that closes a completion included; prompt and padding excluded (arXiv 2505.19590, eq. 4; the reference TRL fork is one
position late).

The pass takes no gradients and applies the head to a few positions at a time, so [B, T, V] is never held.
`rlif.scoring.taps` reads the same statistics from passes that run anyway.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rlif.errors import DataError, ModelError, RecipeError
from rlif.scoring.head import (
    Head,
    Weights,
    backbone_of,
    causal_lm,
    evaluation_mode,
    head_of,
    longest_sequence,
    verify_head,
)
from rlif.types import TokenStats

LOGITS_HELD = 2**25  # elements of the [chunk, V] logits held at once: 128 MiB in float32, enough to keep the head busy
LOGITS_CACHED = 2**19  # elements of them reduced at once: 2 MiB, which fits into a processor's cache


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
    """Computes per-token statistics of B completions under a model, in eval mode and without gradients.

    Args:
        model: a causal language model of transformers, bare or wrapped by PEFT.
        prompt_ids: B prompts as token ids, at least one token each.
        completion_ids: B completions as token ids, the closing end-of-sequence token included, no padding.
        temperature: divides the logits; 1 is the model's own distribution.
        top_k: adds minus the mean of the k largest log-probabilities (DeepConf, arXiv 2508.15260).
        batch_size: rows per forward pass.
        chunk_tokens: positions whose logits are held at once; by default 128 MiB of them.

    Returns:
        `TokenStats` with [B, T] fields in float32 and nats, on the model's device. See `rlif.types.TokenStats`.

    Raises:
        RecipeError: lists of unequal length, or an option out of range.
        DataError: an empty prompt, a row beyond the model's positions, or an id outside the vocabulary.
        ModelError: a head of unknown kind, or a model in shards.

    Example:
        >>> stats = rlif.score_completions(model, prompt_ids, completion_ids)
        >>> rlif.SIGNALS["self_certainty"](stats)
        [5.94..., 5.93...]
    """
    _check_arguments(model, {"prompt": prompt_ids, "completion": completion_ids})
    for name, number in (("batch_size", batch_size), ("chunk_tokens", chunk_tokens)):
        if number is not None and number < 1:
            raise RecipeError(f"{name} must be from 1, got {number}.")
    lm = causal_lm(model)
    head = head_of(lm)
    _check_rows(lm, prompt_ids, completion_ids, temperature, top_k, head.vocab_size)
    if any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in lm.parameters()):
        raise ModelError("this model is in shards (FSDP2 or ZeRO-3), and a pass over it needs it whole; load it anew.")
    verify_head(lm)
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
            stats = chunk_stats(head, hidden_NH, target_N, temperature, top_k, chunk_tokens=chunk_tokens)
            for name in names:
                for b, row_T in zip(rows, stats[name].split([lengths[b] for b in rows]), strict=True):
                    fields[name][b, : lengths[b]] = row_T
    return TokenStats(
        mask_BT, head.vocab_size, temperature, **{f"{name}_BT": field_BT for name, field_BT in fields.items()}
    )


def _check_arguments(model: Any, ids: Mapping[str, Any]) -> None:
    """Refuses a name in place of a model, and text in place of token ids."""
    if not isinstance(model, nn.Module):
        found = f"the name {str(model)!r}" if isinstance(model, str | PathLike) else f"a {type(model).__name__}"
        raise RecipeError(f"score_completions takes a loaded model, got {found}; rlif.score loads models by name.")
    for kind, rows in ids.items():
        if isinstance(rows, str) or not isinstance(rows, Sequence):
            raise RecipeError(f"the {kind}s are a {type(rows).__name__}; give a list with the token ids of each.")
        for number, row in enumerate(rows):
            if isinstance(row, str) or (isinstance(row, Sequence) and any(isinstance(each, str) for each in row)):
                raise RecipeError(f"{kind} {number} is text; score_completions takes token ids, rlif.score takes text.")
            if not isinstance(row, Sequence) or not all(isinstance(each, Integral) for each in row):
                raise RecipeError(f"{kind} {number} is {row!r:.40}; expected a list of token ids, whole numbers.")


def _check_rows(
    lm: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    temperature: float,
    top_k: int | None,
    vocab_size: int,
) -> None:
    if len(prompt_ids) != len(completion_ids):
        raise RecipeError(f"got {len(prompt_ids)} prompts and {len(completion_ids)} completions; give one each.")
    if not 0 < temperature < math.inf:
        raise RecipeError(f"temperature must be above 0, got {temperature}.")
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise RecipeError(f"top_k must be from 1 to the {vocab_size} tokens of the vocabulary, got {top_k}.")
    limit, most = min(vocab_size, lm.get_input_embeddings().weight.shape[0]), longest_sequence(lm.config)
    for row, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
        if not prompt:
            raise DataError(f"prompt {row} has no tokens, so nothing generated its first completion token.")
        if most is not None and len(prompt) + len(completion) > most:
            tokens = len(prompt) + len(completion)
            raise DataError(f"row {row} has {tokens} tokens of prompt and completion, but the model takes {most}.")
        for token in (*prompt, *completion):
            if not 0 <= token < limit:
                raise DataError(f"row {row} holds token id {token}, outside the model's {limit} tokens.")


def _hidden_states(
    lm: Any, prompt_ids: list[Sequence[int]], completion_ids: list[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns two tensors: `hidden_NH`, and `target_N`, the completion tokens they generated; row after row."""
    ids_BL, mask_BL = padded([[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)], lm.device)
    hidden_BLH = backbone_of(lm)(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
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
    chunk_tokens: int | None = None,
) -> dict[str, torch.Tensor]:
    """Computes the statistics of N positions through the head, O(V) per token, holding the logits of one chunk.

    Args:
        weights: from `head.whole`, where the module's own may be in shards.
        chunk_tokens: positions of a chunk; by default 128 MiB of logits.
    """
    chunk, rows = chunk_tokens or max(1, LOGITS_HELD // head.vocab_size), max(1, LOGITS_CACHED // head.vocab_size)
    parts: list[dict[str, torch.Tensor]] = []
    for hidden_CH, target_C in zip(hidden_NH.split(chunk), target_N.split(chunk), strict=True):
        projected_CV = head.projected(hidden_CH, weights)
        parts += [
            _stats(head.finish(projected_RV), target_R, temperature, top_k)
            for projected_RV, target_R in zip(projected_CV.split(rows), target_C.split(rows), strict=True)
        ]
        del projected_CV  # before the next chunk is computed
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def logits_stats(
    logits_NV: torch.Tensor, target_N: torch.Tensor, temperature_N: torch.Tensor, top_k: int | None = None
) -> dict[str, torch.Tensor]:
    """Computes the statistics of N positions from logits that another pass holds, which stay as they are.

    It copies a chunk of them at a time, in float32.

    Args:
        temperature_N: divides the logits of each position.
    """
    rows = max(1, LOGITS_HELD // logits_NV.shape[-1])
    chunks = zip(logits_NV.split(rows), target_N.split(rows), temperature_N.float().split(rows), strict=True)
    parts = [
        _stats(logits_CV.to(torch.float32, copy=True).div_(heat_C.unsqueeze(-1)), target_C, 1.0, top_k)
        for logits_CV, target_C, heat_C in chunks
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _stats(
    logits_NV: torch.Tensor, target_N: torch.Tensor, temperature: float, top_k: int | None
) -> dict[str, torch.Tensor]:
    """Overwrites the logits; holds them once more, and takes one exponential of each."""
    if temperature != 1:
        logits_NV = logits_NV.div_(temperature)
    below_NV = logits_NV.sub_(logits_NV.amax(-1, keepdim=True))  # log p_j up to a constant
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


def padded(
    rows: Sequence[Sequence[int]], device: torch.device, padding: int = 0, side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads rows of token ids on one side; returns them and their attention mask."""
    ids = [torch.tensor(row, dtype=torch.long, device=device) for row in rows]
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    return pad(ids, padding_value=float(padding)), pad([torch.ones_like(row) for row in ids])


def length_mask(lengths: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """Returns `mask_BT`, True at the first `lengths[b]` positions of row b."""
    lengths_B = torch.tensor(list(lengths), dtype=torch.long, device=device)
    return torch.arange(int(max(lengths, default=0)), device=device) < lengths_B.unsqueeze(1)
