"""Measures self-certainty inside vLLM, from the logits that each token is sampled from.

    mean_logprob_i = mean_j z_ij - logsumexp(z_i)

with z_i the model's raw logits in float32: a custom logits processor runs before temperature, penalties, top-k and
top-p. `SelfCertainty` returns the logits unchanged. It costs one [B, V] reduction a step and keeps a number per token.
A request may name a temperature that divides z_i; training measures at the temperature of sampling.

The sampler writes a number into `extra_args`, which identifies the request. The length of the request's output
identifies the token. Chunks of a prompt write position 0 repeatedly, and preempted tokens are computed again: the last
value counts.

Watch: masks run earlier (allowed tokens, bad words, grammars, logit bias, min_tokens). They leave logits of minus
infinity, for which there is no self-certainty. This module is imported where vLLM's model runs, which may be another
process. With `vllm_capture_v2` it is the only module that imports vLLM at its top.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality  # pyright: ignore[reportMissingImports]

from rlif.scoring.statistics import LOGITS_HELD

KEY = "rlif_request"  # in SamplingParams.extra_args: the request's number
TEMPERATURE = "rlif_temperature"  # the temperature that divides the logits; 1 if left out
STEPS_HELD = 64  # decoding steps between two copies from the device

Places = dict[int, tuple[int, int, float]]  # by row: the request, the token's position, the temperature to measure at

# `mean_logprob` by request and position: what processors of this process have measured and the sampler not yet taken.
captured: dict[int, list[float]] = {}


class Measured:
    """Holds what a processor has measured on its device, until it is copied to `captured`."""

    def __init__(self) -> None:
        self.steps: list[tuple[torch.Tensor, Places]] = []
        _measured.add(self)

    def add(self, logits_BV: torch.Tensor, places: Places) -> None:
        """Measures the logits of a step. The divisor is a number, or [B, 1] where rows differ."""
        temperatures = {temperature for *_, temperature in places.values()}
        divisor: torch.Tensor | float = temperatures.pop()
        if temperatures:
            rows = [places[row][2] if row in places else 1.0 for row in range(len(logits_BV))]
            divisor = torch.tensor(rows, device=logits_BV.device).unsqueeze(1)
        self.steps.append((mean_logprob(logits_BV, divisor), places))
        if len(self.steps) >= STEPS_HELD:
            self.flush()

    def flush(self) -> None:
        """Copies all measured values from the device at once."""
        if not self.steps:
            return
        values = torch.cat([values_B for values_B, _ in self.steps]).tolist()
        start = 0
        for values_B, places in self.steps:
            for row, (request, position, _) in places.items():
                known = captured.setdefault(request, [])
                known.extend([float("nan")] * (position + 1 - len(known)))
                known[position] = values[start + row]
            start += len(values_B)
        self.steps.clear()


_measured: WeakSet[Measured] = WeakSet()


class SelfCertainty(LogitsProcessor):
    """Implements vLLM's V1 interface: gets the changes of the batch, then its logits."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        self.batch_size = 0
        # By row: the request, its output, which vLLM extends, and the temperature to measure at.
        self.requests: dict[int, tuple[int, list[int], float]] = {}
        self.measured = Measured()

    def is_argmax_invariant(self) -> bool:
        """Returns False: with True, which would be correct, greedy decoding would skip this processor."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Keeps `requests` in step with the rows of the batch; the order removed, added, moved is vLLM's."""
        if batch_update is None:
            return
        self.batch_size = batch_update.batch_size
        for row in batch_update.removed:
            self.requests.pop(row, None)
        for row, params, _, output in batch_update.added:
            self.requests.pop(row, None)
            arguments = params.extra_args or {}
            if KEY in arguments:
                self.requests[row] = (arguments[KEY], output, arguments.get(TEMPERATURE, 1.0))
        for source, target, direction in batch_update.moved:
            moved, replaced = self.requests.pop(source, None), self.requests.pop(target, None)
            if moved is not None:
                self.requests[target] = moved
            if replaced is not None and direction is MoveDirectionality.SWAP:
                self.requests[source] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Measures [B, V] logits and returns them untouched."""
        if self.requests and logits.shape[0] == self.batch_size:
            places = {row: (number, len(output), divisor) for row, (number, output, divisor) in self.requests.items()}
            self.measured.add(logits, places)
        return logits


class Worker:
    """Adds to vLLM's worker what the sampler calls; mixed into its class as `worker_extension_cls`."""

    def take_mean_logprob(self) -> dict[int, list[float]]:
        """Returns and clears all that this process captured, by request."""
        for measured in _measured:
            measured.flush()
        taken = dict(captured)
        captured.clear()
        return taken


def mean_logprob(logits_BV: torch.Tensor, temperature: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Computes `mean_logprob_B` in float32, some rows at a time to avoid a second [B, V]; temperature may be [B, 1]."""
    rows = max(1, LOGITS_HELD // logits_BV.shape[1])
    parts = []
    for start in range(0, len(logits_BV), rows):
        divisor = temperature[start : start + rows] if isinstance(temperature, torch.Tensor) else temperature
        chunk_CV = logits_BV[start : start + rows].float() / divisor
        parts.append(chunk_CV.mean(-1) - chunk_CV.logsumexp(-1))
    return torch.cat(parts)
