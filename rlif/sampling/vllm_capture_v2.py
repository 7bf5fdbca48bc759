"""Measures self-certainty in vLLM's V2 model runner, as `rlif.sampling.vllm_capture` does in V1; from vLLM 0.31 on.

V2 shows logits in float32, before temperature, top-k and top-p, but after penalties, bias and bad words. A request with
one of these is not measured; its self-certainty takes a pass.

The slot in the runner identifies the request. The tokens seen so far, less those of the prompt, give the position; it
is below 0 during chunks of the prompt. Under speculative decoding a request has several rows, some of them drafts, and
is not measured.

Watch: written from the interface of vLLM 0.32 and tested against a stand-in for it; V2 needs Triton, so no CPU build
runs it, and it has not run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor  # pyright: ignore[reportMissingImports]

from rlif.sampling.vllm_capture import KEY, TEMPERATURE, Measured

# What of SamplingParams changes logits before this processor sees them, and its value where it does not.
CHANGES = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": None,
    "structured_outputs": None,
}


def changes_logits(params: Any) -> bool:
    """Says whether anything but temperature and filters changes a request's logits before sampling."""
    return any((getattr(params, name, neutral) or neutral) != neutral for name, neutral in CHANGES.items())


class SelfCertainty(LogitsProcessor):
    """Implements vLLM's V2 interface: gets each new request, then the logits of a batch and their slots."""

    def __init__(self, vllm_config: Any, req_states: Any):
        self.prompt_len = req_states.prompt_len
        self.requests: dict[int, tuple[int, float]] = {}  # by slot: the request, the temperature to measure at
        self.measured = Measured()

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Stores the request of a slot; returns True if the processor needs its logits."""
        self.requests.pop(req_idx, None)
        arguments = sampling_params.extra_args or {}
        if KEY in arguments and not changes_logits(sampling_params):
            self.requests[req_idx] = arguments[KEY], arguments.get(TEMPERATURE, 1.0)
        return req_idx in self.requests

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Measures [B, V] logits and returns them untouched."""
        slots = ctx.idx_mapping_np.tolist()
        if len(slots) != logits.shape[0]:
            return logits
        places = {}
        for row, (slot, seen) in enumerate(zip(slots, ctx.seq_lens_upper_bound_np.tolist(), strict=True)):
            position = seen - int(self.prompt_len.np[slot])
            if slot in self.requests and position >= 0:
                number, temperature = self.requests[slot]
                places[row] = number, position, temperature
        if places:
            self.measured.add(logits, places)
        return logits
