"""Builds TRL's vLLM engines with settings for vLLM's CPU build."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def engines_for_tests() -> Iterator[list[weakref.ref]]:
    """Makes TRL build engines in float32 with a small cache and without compiling; gives the engines built.

    The trainer is in float32, but vLLM's default is half precision. oneDNN is off, because it repacks weights, and
    repacked weights cannot be updated.
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
