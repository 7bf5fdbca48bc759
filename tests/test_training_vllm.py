"""vLLM inside training runs: self-certainty at no pass, weights in step. `make test-vllm` runs all of it, on the CPU."""

from __future__ import annotations

import gc
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import oracle
import pytest
from conftest import byte_tokenizer, tiny_model
from trainers import make_trainer
from transformers import AutoModelForCausalLM

from rlif.engines.trl_vllm import shut_down

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; `make test-vllm` has it")

COLOCATED = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 128}
UNCORRECTED = COLOCATED | {"vllm_importance_sampling_correction": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with heads of 32, the smallest that vLLM's CPU build takes."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model(hidden_size=64, num_attention_heads=2, num_key_value_heads=1).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def cpu(monkeypatch):
    """What only the CPU build needs: float32 as the trainer has it (bfloat16 is TRL's, by saying nothing), a small
    cache, no compiling, and weights that stay where they were, for oneDNN repacks them and cannot take new ones.
    """
    import vllm._custom_ops as ops
    from trl.generation import vllm_generation
    from vllm import LLM

    monkeypatch.setattr(ops, "_supports_onednn", False)
    options = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2**25}
    monkeypatch.setattr(vllm_generation, "LLM", partial(LLM, **options))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # TRL sets them
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


@pytest.fixture
def trainers(folder, cpu):
    """Makes trainers whose engines end with the test."""
    made: list[Any] = []

    def make(**changes: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(folder)
        made.append(make_trainer(folder, model=model, **changes))
        return made[-1]

    yield make
    for trainer in made:
        shut_down(trainer)
    made.clear()
    gc.collect()


def check(trainer: Any, path: str, passes: int) -> None:
    """Self-certainty is the policy's, at the time; its passes are counted."""
    assert len(trainer.rollouts) > 1
    for rollout in trainer.rollouts:
        assert rollout["path"] == path
        found = [row.rewards["self_certainty"] for row in rollout["scored"]]
        print("max error", max(abs(a - b) for a, b in zip(found, rollout["expected"], strict=True)))
        assert found == pytest.approx(rollout["expected"], abs=1e-4)
    completions = sum(len(rollout["scored"]) for rollout in trainer.rollouts)
    assert trainer.rows["policy"] == passes * completions and trainer.rows["generate"] == 0
    logged = [log["extra_passes"] for log in trainer.state.log_history if "extra_passes" in log]
    assert set(logged) == {float(path == "pass")}


def moved(trainer: Any) -> None:
    """The policy of the last rollout was another than the one of the first, so that stale weights would have shown."""
    rollout = trainer.rollouts[-1]
    old = [oracle.self_certainty(trainer.start, row.prompt_ids, row.completion_ids) for row in rollout["scored"]]
    assert max(abs(a - b) for a, b in zip(old, rollout["expected"], strict=True)) > 0.01


@needs_vllm
@pytest.mark.parametrize(
    "changes",
    [{}, {"num_iterations": 2}, {"algorithm": "rloo"}],
    ids=str,
)
def test_trls_own_pass_serves(trainers, changes):
    trainer = trainers(**COLOCATED, **changes)
    trainer.train()
    check(trainer, "policy", passes=1)
    print([{k: v for k, v in log.items() if "sampling" in k} for log in trainer.state.log_history])


@needs_vllm
def test_captured_inside_vllm(trainers):
    trainer = trainers(**UNCORRECTED, vllm_capture=True)
    trainer.train()
    check(trainer, "vllm", passes=0)
    moved(trainer)
