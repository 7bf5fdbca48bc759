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

from rlif.scoring.statistics import length_mask

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.1}
"""Nats a token that rounding explains, by the coarsest type of a pass."""


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
