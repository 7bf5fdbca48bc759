"""Measures the memory that code asks the allocator for. This is not what the process holds.

    CPU    from the profiler's record of every allocation and release, temporaries inside operators included
    CUDA   from the caching allocator's own peak

Both leave out what was allocated before. The largest single block is known on the CPU only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


@dataclass
class Memory:
    """Holds the peak and the largest block in bytes, without what was allocated before."""

    peak: int = 0
    largest: int | None = None


@contextmanager
def watch(device: str = "cpu") -> Iterator[Memory]:
    """Measures what the body allocates on this thread. Read it after the body. Slow on the CPU, so do not time it."""
    memory = Memory()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield memory
        torch.cuda.synchronize()
        memory.peak = torch.cuda.max_memory_allocated() - before
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield memory
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events: list[Any] = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = 0
    for _, size in changes:
        held += size
        memory.peak = max(memory.peak, held)
    memory.largest = max((size for _, size in changes), default=0)
