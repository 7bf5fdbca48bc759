"""Computes per-token statistics from forward passes that `generate` or a trainer runs anyway, by hooks.

    decode tap     reads the logits that `generate` computes anyway, one reduction over [B, V] a step. The token that is
                   drawn from them is not known yet, so there is no logprob
    backbone tap   reads a trainer's pass for log-probabilities, which give `logprob`. The vocabulary mean of a
                   linear head is linear, mean_j z_j = h . mean_j W_j + mean_j b_j, so `mean_logprob` costs O(H) per
                   token, not O(V); `entropy` and `topk_confidence` are not, and cost the head once more, O(V)

The numbers are those of `rlif.scoring.statistics`, at the temperature of sampling; of the distribution before top-k,
top-p and penalties. Neither ever holds [B, T, V].
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from rlif.scoring.head import (
    Weights,
    causal_lm,
    head_of,
    is_verified,
    verify_head,
    verify_logprobs,
)
from rlif.scoring.statistics import LOGITS_HELD, chunk_stats

CHEAP = ("mean_logprob",)
COSTLY = ("entropy", "topk_confidence")


class BackboneTap:
    """Reads statistics off forward passes that a trainer runs for log-probabilities.

    A hook on the backbone sees each micro-batch's hidden states, keeps `z_y` and `mean_j z_j` of the completion
    positions, O(H) per token, and lets them go. Log z then follows from the log-probabilities the caller gets anyway:
    `mean_logprob = mean_j z_j - z_y + logprob`. A soft-capped head is not linear and takes `chunk_stats` in the hook,
    as do the fields in `COSTLY`.

    Numbers: in float32 exact to rounding; in bfloat16 `z_y` is rounded as the head rounds it, per-token error about
    1e-2 nats against float64, the error of bfloat16 logits themselves.

    Args:
        model: what the passes go through, unwrapped from data-parallel wrappers.
        input_ids_BL: prompts padded on the left, completions on the right.
        completion_length: T; the completions are the last T columns.
        temperature: of the log-probabilities.
        wanted: names of statistics beside logprob, from `CHEAP` and `COSTLY`.
        top_k: of the top-k confidence.
    """

    def __init__(
        self,
        model: nn.Module,
        input_ids_BL: torch.Tensor,
        completion_length: int,
        temperature: float,
        wanted: Collection[str] = CHEAP,
        top_k: int | None = None,
    ):
        self.lm, self.temperature, self.wanted = causal_lm(model), temperature, wanted
        self.head = head_of(self.lm)
        self.top_k = min(top_k, self.head.vocab_size) if top_k and "topk_confidence" in wanted else None
        self.target_BT = input_ids_BL[:, -completion_length:]
        self.gaps: list[torch.Tensor] = []
        self.costly: dict[str, list[torch.Tensor]] = {name: [] for name in COSTLY if name in wanted}
        self.mean_weight_H: torch.Tensor | None = None
        self.first: tuple[torch.Tensor, torch.dtype] | None = None  # two log-probabilities, to verify the head by
        self.rows = 0

    def __enter__(self) -> BackboneTap:
        self.handle = self.lm.base_model.register_forward_hook(self._tap)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    @torch.no_grad()
    def _tap(self, module: nn.Module, args: Any, output: Any) -> None:
        hidden_BTH = output.last_hidden_state[:, -self.target_BT.shape[1] - 1 : -1]
        target_BT = self.target_BT[self.rows : self.rows + hidden_BTH.shape[0]]
        self.rows += hidden_BTH.shape[0]
        device = hidden_BTH.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_BTH.dtype
        with self.head.whole() as weights:
            for hidden_TH, target_T in zip(hidden_BTH, target_BT, strict=True):
                self._row(hidden_TH, target_T, dtype, weights)

    def _row(self, hidden_TH: torch.Tensor, target_T: torch.Tensor, dtype: torch.dtype, weights: Weights) -> None:
        """Keeps what is needed of one row; `dtype` is the head's compute type."""
        if self.first is None and not is_verified(self.lm):
            self.first = self._full(hidden_TH[:2], target_T[:2], weights)["logprob"], dtype
        linear = self.head.softcap is None
        full = {} if linear and not self.costly else self._full(hidden_TH, target_T, weights)
        self.gaps.append(
            self._linear_gap(hidden_TH, target_T, dtype, weights) if linear else full["mean_logprob"] - full["logprob"]
        )
        for name, rows in self.costly.items():
            rows.append(full[name])

    def _linear_gap(
        self, hidden_TH: torch.Tensor, target_T: torch.Tensor, dtype: torch.dtype, weights: Weights
    ) -> torch.Tensor:
        """`mean_j z_j - z_y` of one row, [T], by the linearity of the mean."""
        weight_VH, bias_V = weights
        if self.mean_weight_H is None:
            self.mean_weight_H = weight_VH.mean(0, dtype=torch.float32)
        with torch.autocast(hidden_TH.device.type, enabled=False):
            hidden_TH = hidden_TH.to(dtype).float()
            mean_T = hidden_TH @ self.mean_weight_H
            chosen_T = (hidden_TH * weight_VH[target_T].to(dtype).float()).sum(-1)
        if bias_V is not None:
            mean_T, chosen_T = mean_T + bias_V.float().mean(), chosen_T + bias_V[target_T].float()
        return (mean_T - chosen_T.to(dtype).float()) * (self.head.scale / self.temperature)

    def _full(self, hidden_TH: torch.Tensor, target_T: torch.Tensor, weights: Weights) -> dict[str, torch.Tensor]:
        """All statistics of some positions of a row, through the head, a chunk at a time."""
        chunk = max(1, LOGITS_HELD // self.head.vocab_size)
        pairs = zip(hidden_TH.split(chunk), target_T.split(chunk), strict=True)
        stats = [chunk_stats(self.head, *pair, self.temperature, self.top_k, weights) for pair in pairs]
        return {name: torch.cat([part[name] for part in stats]) for name in stats[0]}

    def fields(self, logprob_BT: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """The statistics by name, [B, T], `logprob` among them; None if the passes did not come by.

        Args:
            logprob_BT: the log-probabilities of the same passes.

        Raises:
            ModelError: they are not those of the head as we know it.
        """
        if self.rows != self.target_BT.shape[0]:
            return None
        if self.first is not None:
            ours, dtype = self.first
            verify_logprobs(self.lm, ours, logprob_BT[0, :2], dtype)
        logprob_BT = logprob_BT.float()
        costly = {name: torch.stack(rows) for name, rows in self.costly.items()}
        return {"logprob": logprob_BT, "mean_logprob": torch.stack(self.gaps) + logprob_BT} | costly


def entropy(logprob_BV: torch.Tensor, buffer_BV: torch.Tensor) -> torch.Tensor:
    """-sum_j p_j log p_j, [B], where 0 log 0 is 0 and NaN stays; overwrites both, so that nothing more is held."""
    p_BV = torch.exp(logprob_BV, out=buffer_BV)
    return -p_BV.mul_(logprob_BV.clamp_(min=torch.finfo(torch.float32).min)).sum(-1)


class DecodeTap:
    """Reads statistics off the logits that `generate` computes at each step: no pass, some [B, V] reductions a step.

    Args:
        model: what generates, unwrapped from data-parallel wrappers.
        temperature: the logits are divided by this.
        wanted: names of statistics, from `CHEAP` and `COSTLY`.
        top_k: of the top-k confidence.
    """

    def __init__(self, model: nn.Module, temperature: float, wanted: Collection[str] = CHEAP, top_k: int | None = None):
        self.head, self.temperature, self.wanted = head_of(model), temperature, wanted
        self.top_k = min(top_k, self.head.vocab_size) if top_k and "topk_confidence" in wanted else None
        self.steps: list[dict[str, torch.Tensor]] = []

    def __enter__(self) -> DecodeTap:
        self.handle = self.head.module.register_forward_hook(self._tap)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    @torch.no_grad()
    def _tap(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        logits_BV = self.head.finish(output[:, -1])  # perhaps those of `generate` itself: not to be written to
        logprob_BV = (logits_BV if self.temperature == 1 else logits_BV / self.temperature).log_softmax(-1)
        step = {"mean_logprob": logprob_BV.mean(-1)}
        if self.top_k:
            step["topk_confidence"] = -logprob_BV.topk(self.top_k, dim=-1).values.mean(-1)
        if "entropy" in self.wanted:
            step["entropy"] = entropy(logprob_BV, torch.empty_like(logprob_BV))
        self.steps.append(step)

    def fields(self, lengths: Sequence[int]) -> dict[str, torch.Tensor] | None:
        """The statistics by name, [B, T]; None if the steps seen are not those of completions of these lengths."""
        sizes = {len(step["mean_logprob"]) for step in self.steps}
        if len(self.steps) != max(lengths, default=0) or sizes - {len(lengths)}:
            return None
        return (
            {name: torch.stack([step[name] for step in self.steps], dim=1) for name in self.steps[0]} if sizes else {}
        )


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
