"""Tells whether statistics are those of a model alone: no dropout, no padding, no other rows, no later tokens.

Statistics can differ from these because a pass in training mode drops values, because positions shift under padding,
or because rows influence each other. No list of architectures is needed: `rlif.engines.trl` compares a few rows before
a run, and looks whether its passes draw random numbers, which finds dropout that has no effect yet (a new adapter's).
"""

import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch

from rlif.scoring.head import not_causal
from rlif.scoring.statistics import length_mask

Measure = Callable[[list[list[int]], list[list[int]]], dict[str, torch.Tensor]]  # of prompts and completions

TOLERANCE = {torch.float32: 2e-4, torch.float16: 0.04, torch.bfloat16: 0.3}
"""Nats a token that rounding explains, by the coarsest type of a pass: means over a completion of absolute values.

In bfloat16 SmolLM2-135M is 0.06 off when padded, 0.14 when it decodes in batches, and 1 where it attends to padding
(results/padding-error.md, docs/log.md). float16 has three bits more.
"""
TOLERANCE_OF_MEANS = {torch.float32: 2e-4, torch.float16: 0.03, torch.bfloat16: 0.1}
"""The same for the mean of a completion, in which errors of both signs cancel."""


def deviation(found: Mapping[str, torch.Tensor], alone: Mapping[str, torch.Tensor], lengths: Sequence[int]) -> float:
    """Computes how far statistics are off, in nats a token, in the row and the statistic where this is largest.

    Args:
        found: statistics by name, [B, T] or wider.
        alone: the same from passes over one sequence at a time; rows and names that `found` lacks are not compared.
        lengths: tokens of each row.
    """
    largest = 0.0
    for name, found_BT in found.items():
        mask_BT = length_mask(lengths, found_BT.device)
        alone_BT = alone[name][: len(lengths), : mask_BT.shape[1]]
        off_BT = (found_BT[:, : mask_BT.shape[1]].float() - alone_BT).abs().masked_fill(~mask_BT, 0)
        off_B = off_BT.sum(1) / mask_BT.sum(1).clamp(min=1)
        largest = max(largest, off_B.max().item()) if off_B.isfinite().all() else torch.inf
    return largest


def causal(
    name: str, measure: Measure, prompts: list[list[int]], completions: list[list[int]], tolerance: float
) -> dict[str, torch.Tensor]:
    """Measures rows alone, and the longest completion once more without its second half.

    Returns:
        Statistics by name, [B, T], of every row and of the one that was cut.

    Raises:
        ModelError: the statistics of the first half change, so the model reads what comes after a token.
    """
    longest = max(range(len(completions)), key=lambda row: len(completions[row]))
    half = (len(completions[longest]) + 1) // 2
    alone = measure([*prompts, prompts[longest]], [*completions, completions[longest][:half]])
    cut, whole = ({name: rows_BT[[row]] for name, rows_BT in alone.items()} for row in (-1, longest))
    if (off := deviation(cut, whole, [half])) > tolerance:
        raise not_causal(name, off)
    return alone


def ragged(prompts: Sequence[Any], count: int) -> list[Any]:
    """Chooses prompts from the shortest to the longest, as far apart as they are."""
    ordered = sorted(prompts, key=lambda prompt: len(str(prompt)))
    return [ordered[n * (len(ordered) - 1) // (count - 1)] for n in range(count)]


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[Callable[[], bool]]:
    """Puts the random states of Python, NumPy and torch back; yields what tells whether numbers were drawn so far."""
    sources: list[Any] = [torch] if device.type == "cpu" else [torch, torch.get_device_module(device)]
    theirs, python, vectors = [each.get_rng_state() for each in sources], random.getstate(), numpy.random.get_state()

    def drew() -> bool:
        same = (torch.equal(before, each.get_rng_state()) for before, each in zip(theirs, sources, strict=True))
        others = pickle.dumps((python, vectors)) == pickle.dumps((random.getstate(), numpy.random.get_state()))
        return not (others and all(same))

    try:
        yield drew
    finally:
        random.setstate(python)
        numpy.random.set_state(vectors)
        for before, each in zip(theirs, sources, strict=True):
            each.set_rng_state(before)


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Sets attributes of an object for a while."""
    before = {name: getattr(owner, name) for name in values}
    vars(owner).update(values)
    try:
        yield
    finally:
        vars(owner).update(before)
