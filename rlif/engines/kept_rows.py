"""Turns scored completions into rows of a run folder, the same for every engine."""

from typing import Any

import torch

from rlif.rewards.measuring import ScoredCompletion
from rlif.sampling.sampler import token_chars


def sampled_row(row: ScoredCompletion) -> dict[str, Any]:
    """Returns a completion as it was sampled, and what it was rewarded."""
    return {
        "prompt": row.prompt,
        "completion": row.text,
        "prompt_ids": row.prompt_ids,
        "completion_ids": row.completion_ids,
        "reward": row.reward,
    }


def scored_row(row: ScoredCompletion, tokenizer: Any) -> dict[str, Any]:
    """Returns a completion with its rewards and its advantage."""
    return sampled_row(row) | {
        "token_chars": token_chars(tokenizer, row.completion_ids, row.text),
        "token_self_certainty": _rounded(row.token_self_certainty),
        "truncated": row.truncated,
        "rewards": dict(row.rewards),
        "advantage": row.advantage,
    }


def _rounded(values_T: torch.Tensor | None) -> list[float] | None:
    return None if values_T is None else [round(value, 2) for value in values_T.tolist()]
