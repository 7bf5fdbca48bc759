"""Computes per-token statistics from forward passes that `generate` or a trainer runs anyway, by hooks.

    BackboneTap     reads a trainer's pass for log-probabilities, which give `logprob`. The vocabulary mean of a
                    linear head is linear, mean_j z_j = h . mean_j W_j + mean_j b_j, so `mean_logprob` costs O(H) per
                    token, not O(V). `entropy` and `topk_confidence` need the head once more, O(V)
    DecodeTap       reads the logits of each step of `generate`, by one reduction over [B, V] a step. The token is not
                    drawn yet at that point, so there is no `logprob`
    ConfidenceTap   reads the top-k confidence of the latest step of `generate`

The numbers are those of `rlif.scoring.statistics`, at the temperature of sampling, for the distribution before top-k,
top-p and penalties. No tap holds [B, T, V].
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from rlif.scoring.head import Head, Weights, backbone_of, causal_lm, head_of, verified, verify_head, verify_logprobs
from rlif.scoring.statistics import chunk_stats

CHEAP = ("mean_logprob",)
COSTLY = ("entropy", "topk_confidence")


class Tap(ABC):
    """Reads the output of a module in every forward pass within a `with` block."""

    module: nn.Module

    def __enter__(self) -> Self:
        self._handle = self.module.register_forward_hook(self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    @abstractmethod
    def _read(self, module: nn.Module, args: Any, output: Any) -> None: ...


def _largest(top_k: int | None, wanted: Collection[str], head: Head) -> int | None:
    """Returns the k of the top-k confidence; None where it is not to be computed."""
    return min(top_k, head.vocab_size) if top_k and "topk_confidence" in wanted else None


class BackboneTap(Tap):
    """Reads statistics from forward passes that a trainer runs for log-probabilities.

    The hook on the backbone gets each micro-batch's hidden states. It keeps `z_y` and `mean_j z_j` of the completion
    positions, O(H) per token. Log z then follows from the log-probabilities that the caller computes anyway:
    `mean_logprob = mean_j z_j - z_y + logprob`. A soft-capped head is not linear; there, and for the fields in
    `COSTLY`, the hook calls `chunk_stats`.

    Precision: in float32 exact to rounding. In bfloat16 `z_y` is rounded as the head rounds it: per-token error about
    1e-2 nats against float64, the error of bfloat16 logits themselves.

    Args:
        model: runs the passes, unwrapped from data-parallel wrappers.
        input_ids_BL: prompts padded on the left, completions on the right.
        completion_length: T; the completions are the last T columns.
        temperature: divides the logits.
        wanted: names of statistics beside logprob, from `CHEAP` and `COSTLY`.
        top_k: k of the top-k confidence.
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
        self.lm, self.temperature = causal_lm(model), temperature
        self.module, self.head = backbone_of(self.lm), head_of(self.lm)
        self.top_k = _largest(top_k, wanted, self.head)
        self.target_BT = input_ids_BL[:, -completion_length:]
        self.gaps: list[torch.Tensor] = []
        self.costly: dict[str, list[torch.Tensor]] = {name: [] for name in COSTLY if name in wanted}
        self.mean_weight_H: torch.Tensor | None = None
        self.first: tuple[torch.Tensor, torch.dtype] | None = None  # two log-probabilities that verify the head
        self.rows = 0

    @torch.no_grad()
    def _read(self, module: nn.Module, args: Any, output: Any) -> None:
        hidden_BTH = output.last_hidden_state[:, -self.target_BT.shape[1] - 1 : -1]
        target_BT = self.target_BT[self.rows : self.rows + hidden_BTH.shape[0]]
        self.rows += hidden_BTH.shape[0]
        device = hidden_BTH.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_BTH.dtype
        with self.head.whole() as weights:
            for hidden_TH, target_T in zip(hidden_BTH, target_BT, strict=True):
                self._read_row(hidden_TH, target_T, dtype, weights)

    def _read_row(self, hidden_TH: torch.Tensor, target_T: torch.Tensor, dtype: torch.dtype, weights: Weights) -> None:
        """Keeps the statistics of one row; `dtype` is the head's compute type."""
        full = partial(chunk_stats, self.head, temperature=self.temperature, top_k=self.top_k, weights=weights)
        if self.first is None and self.lm not in verified:
            self.first = full(hidden_TH[:2], target_T[:2])["logprob"], dtype
        linear = self.head.softcap is None
        stats = {} if linear and not self.costly else full(hidden_TH, target_T)
        gap = self._linear_gap(hidden_TH, target_T, dtype, weights) if linear else None
        self.gaps.append(stats["mean_logprob"] - stats["logprob"] if gap is None else gap)
        for name, rows in self.costly.items():
            rows.append(stats[name])

    def _linear_gap(
        self, hidden_TH: torch.Tensor, target_T: torch.Tensor, dtype: torch.dtype, weights: Weights
    ) -> torch.Tensor:
        """Computes `mean_j z_j - z_y` of one row, [T], by the linearity of the mean."""
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

    def fields(self, logprob_BT: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """Returns the statistics by name, [B, T], `logprob` among them; None if not every row passed the backbone."""
        if self.rows != self.target_BT.shape[0]:
            return None
        if self.first is not None:
            ours, dtype = self.first
            verify_logprobs(self.lm, ours, logprob_BT[0, :2], dtype)
        logprob_BT = logprob_BT.float()
        costly = {name: torch.stack(rows) for name, rows in self.costly.items()}
        return {"logprob": logprob_BT, "mean_logprob": torch.stack(self.gaps) + logprob_BT} | costly


def entropy(logprob_BV: torch.Tensor, buffer_BV: torch.Tensor) -> torch.Tensor:
    """Computes -sum_j p_j log p_j, [B], where 0 log 0 is 0 and NaN stays. Overwrites both, to avoid a third [B, V]."""
    p_BV = torch.exp(logprob_BV, out=buffer_BV)
    return -p_BV.mul_(logprob_BV.clamp_(min=torch.finfo(torch.float32).min)).sum(-1)


class DecodeTap(Tap):
    """Reads statistics from the logits that `generate` computes at each step, without a pass of its own.

    Args:
        model: generates, unwrapped from data-parallel wrappers.
        temperature: the logits are divided by this.
        wanted: names of statistics, from `CHEAP` and `COSTLY`.
        top_k: k of the top-k confidence.
    """

    def __init__(self, model: nn.Module, temperature: float, wanted: Collection[str] = CHEAP, top_k: int | None = None):
        self.head, self.temperature, self.wanted = head_of(model), temperature, wanted
        self.module, self.top_k = self.head.module, _largest(top_k, wanted, self.head)
        self.steps: list[dict[str, torch.Tensor]] = []

    @torch.no_grad()
    def _read(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        logits_BV = self.head.finish(output[:, -1])  # may be the tensor of `generate`, so it is not written to
        logprob_BV = (logits_BV if self.temperature == 1 else logits_BV / self.temperature).log_softmax(-1)
        step = {"mean_logprob": logprob_BV.mean(-1)}
        if self.top_k:
            step["topk_confidence"] = -logprob_BV.topk(self.top_k, dim=-1).values.mean(-1)
        if "entropy" in self.wanted:
            step["entropy"] = entropy(logprob_BV, torch.empty_like(logprob_BV))
        self.steps.append(step)

    def fields(self, lengths: Sequence[int]) -> dict[str, torch.Tensor] | None:
        """Returns the statistics by name, [B, T]; None if the steps do not fit completions of these lengths."""
        sizes = {len(step["mean_logprob"]) for step in self.steps}
        if len(self.steps) != max(lengths, default=0) or sizes - {len(lengths)}:
            return None
        names = self.steps[0] if self.steps else ()
        return {name: torch.stack([step[name] for step in self.steps], dim=1) for name in names}


class ConfidenceTap(Tap):
    """Reads the top-k confidence of the latest step of `generate` from its raw logits, as `latest_B`."""

    def __init__(self, model: nn.Module, top_k: int):
        verify_head(model)
        self.head = head_of(model)
        self.module, self.top_k = self.head.module, min(top_k, self.head.vocab_size)
        self.latest_B = torch.empty(0)

    @torch.no_grad()
    def _read(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        logits_BV = self.head.finish(output[:, -1])
        self.latest_B = logits_BV.logsumexp(-1) - logits_BV.topk(self.top_k, dim=-1).values.mean(-1)
