"""Independent arithmetic in float64: log_softmax of full logits, one unpadded sequence at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch


def logprobs_TV(model, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """The log-probabilities of the whole vocabulary at each completion token, in float64."""
    ids_1L = torch.tensor([[*prompt, *completion]], device=next(model.parameters()).device)
    clone = copy.deepcopy(model).double().eval()
    if hasattr(clone, "set_experts_implementation"):
        clone.set_experts_implementation("eager")  # the others have no float64
    with torch.no_grad():
        logits_LV = clone(input_ids=ids_1L).logits[0]
    return torch.log_softmax(logits_LV[len(prompt) - 1 : -1].double() / temperature, dim=-1)


def self_certainty(model, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0) -> float:
    """mean_i KL(U || p_i) = mean_i sum_j 1/V (log 1/V - log p_ij)."""
    logp_TV = logprobs_TV(model, prompt, completion, temperature)
    vocab = logp_TV.shape[1]
    return ((-math.log(vocab) - logp_TV) / vocab).sum(1).mean().item()


def group_advantages(rewards: Sequence[float], group: int, least_std: float = 0.0) -> list[float]:
    """(r - mean) / (max(std, least) + 1e-4) within groups, unbiased std, in float64."""
    advantages = []
    for start in range(0, len(rewards), group):
        part = rewards[start : start + group]
        mean = math.fsum(part) / group
        std = math.sqrt(math.fsum((r - mean) ** 2 for r in part) / (group - 1))
        advantages += [(r - mean) / (max(std, least_std) + 1e-4) for r in part]
    return advantages


def leave_one_out(rewards: Sequence[float], group: int) -> list[float]:
    """Each r minus the mean of the others in its group."""
    advantages = []
    for start in range(0, len(rewards), group):
        part = rewards[start : start + group]
        advantages += [r - (math.fsum(part) - r) / (group - 1) for r in part]
    return advantages
