"""What only vLLM's CPU build needs, around TRL's building of an engine."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def engines_for_tests() -> Iterator[list[weakref.ref]]:
    """Engines in float32 as the trainer is (left to itself vLLM halves it), with a small cache and without compiling;
    weights stay where they are loaded, for oneDNN repacks them and could not take new ones. Gives those that were
    built.
    """
    import vllm._custom_ops as ops
    from trl.generation import vllm_generation
    from vllm import LLM

    built: list[weakref.ref] = []

    def build(*args: Any, **options: Any) -> Any:
        options = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2**25} | options
        llm = LLM(*args, **options)
        built.append(weakref.ref(llm))
        return llm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_supports_onednn", False, raising=False)
        patch.setattr(vllm_generation, "LLM", build)
        yield built
