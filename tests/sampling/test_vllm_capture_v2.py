"""Tests the processor for vLLM's V2 model runner on a stand-in for it; no CPU build has that runner."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from rlif.sampling import vllm_sampler as rollout_vllm

INTERFACES = {
    "vllm.v1.sample.logits_processor": ("BatchUpdate", "LogitsProcessor", "MoveDirectionality"),
    "vllm.v1.worker.gpu.sample.logits_processor": ("LogitsProcessor",),
}


@pytest.fixture
def capture(monkeypatch):
    """Imports `rlif.sampling.vllm_capture_v2` with stand-ins for what it imports from vLLM."""
    for name, classes in INTERFACES.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            module = ModuleType(".".join(parts[:end]))
            module.__path__ = []  # a package
            monkeypatch.setitem(sys.modules, module.__name__, module)
        for each in classes:
            setattr(sys.modules[name], each, type(each, (), {}))
    ours = ("rlif.sampling.vllm_capture", "rlif.sampling.vllm_capture_v2")
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("rlif.sampling.vllm_capture_v2")
    for name in ours:
        sys.modules.pop(name, None)


def params(number: int | None, **others):
    return SimpleNamespace(extra_args=None if number is None else {"rlif_request": number}, **others)


def context(slots: list[int], seen: list[int]):
    return SimpleNamespace(idx_mapping_np=np.array(slots), seq_lens_upper_bound_np=np.array(seen))


def test_slots_positions_and_temperatures(capture):
    prompt_len = SimpleNamespace(np=np.zeros(8, dtype=np.int32))
    processor = capture.SelfCertainty(None, SimpleNamespace(prompt_len=prompt_len))
    worker = sys.modules["rlif.sampling.vllm_capture"].Worker()

    def add(slot: int, length: int, what) -> bool:
        prompt_len.np[slot] = length
        return processor.add_request(slot, what)

    def step(slots: list[int], seen: list[int], rows: int | None = None) -> torch.Tensor:
        logits_BV = torch.randn(rows or len(slots), 7)
        before = logits_BV.clone()
        assert processor.apply(logits_BV, context(slots, seen)).equal(before)
        return before.log_softmax(-1).mean(-1)

    assert add(5, 4, params(100)) and add(2, 3, params(101)) and not add(7, 2, params(None))
    step([5], [2])  # a piece of a prompt
    first = step([5, 2, 7], [4, 3, 2])
    second = step([2, 5], [4, 5])
    step([2, 5], [5, 6], rows=3)  # drafts among them
    hot = params(102)
    hot.extra_args["rlif_temperature"] = 2.0
    assert add(2, 1, hot)  # the slot of another request before
    logits_BV = torch.randn(2, 7)
    processor.apply(logits_BV, context([5, 2], [6, 1]))
    third = logits_BV[0].log_softmax(-1).mean(), (logits_BV[1] / 2).log_softmax(-1).mean()
    assert worker.take_mean_logprob() == {
        100: pytest.approx([first[0].item(), second[1].item(), third[0].item()]),
        101: pytest.approx([first[1].item(), second[0].item()]),
        102: pytest.approx([third[1].item()]),
    }
    assert worker.take_mean_logprob() == {}


def test_a_preempted_request_continues_in_its_new_slot(capture):
    """It returns in a new slot with its output, and nothing is measured twice."""
    prompt_len = SimpleNamespace(np=np.array([3, 3], dtype=np.int32))
    processor = capture.SelfCertainty(None, SimpleNamespace(prompt_len=prompt_len))
    values = []
    for slot, seen in ((0, 3), (0, 4), (1, 5)):
        if seen in (3, 5):
            processor.add_request(slot, params(1))
        logits_BV = torch.randn(1, 7)
        processor.apply(logits_BV, context([slot], [seen]))
        values.append(logits_BV.log_softmax(-1).mean().item())
    assert sys.modules["rlif.sampling.vllm_capture"].Worker().take_mean_logprob() == {1: pytest.approx(values)}


@pytest.mark.parametrize(
    "changed",
    [
        {"repetition_penalty": 1.1}, {"presence_penalty": 0.5}, {"frequency_penalty": -0.5}, {"min_tokens": 2},
        {"logit_bias": {3: 1.0}}, {"bad_words": ["no"]}, {"allowed_token_ids": [1]}, {"structured_outputs": "json"},
    ],
    ids=str,
)  # fmt: skip
def test_requests_with_changed_logits_are_not_measured(capture, changed):
    processor = capture.SelfCertainty(None, SimpleNamespace(prompt_len=None))
    same = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "bad_words": [], "logit_bias": None, "min_tokens": 0}
    assert processor.add_request(0, params(1, **same))
    assert not processor.add_request(0, params(1, **same | changed)) and not processor.requests


def test_the_processor_depends_on_the_model_runner(monkeypatch):
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    assert rollout_vllm.processor() == "rlif.sampling.vllm_capture:SelfCertainty"
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    assert rollout_vllm.processor() == "rlif.sampling.vllm_capture_v2:SelfCertainty"
    monkeypatch.setattr(rollout_vllm, "find_spec", lambda name: None)
    assert "before vLLM 0.31" in (rollout_vllm.why_no_self_certainty({}) or "")
    monkeypatch.setattr(rollout_vllm, "find_spec", lambda name: name)
    assert rollout_vllm.why_no_self_certainty({}) is None
