"""Tests that a run is compared with the memory of this machine before its model is loaded. The devices are faked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support.commands import main

from rlif.config.loading import load_recipe
from rlif.errors import MachineError
from rlif.launching import fit
from rlif.launching.fit import check_memory, device_here, strategy_here
from rlif.launching.hardware import config_of

MATH = "intuitor-qwen2.5-3b-math"


def fake(monkeypatch, gibibytes: float, name: str = "RTX 4090") -> None:
    """Makes torch report one CUDA device."""
    found = SimpleNamespace(name=name, total_memory=int(gibibytes * 2**30))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)


def fake_machine(monkeypatch, gibibytes: float, swap: float = 0.0) -> None:
    """Makes the machine report no accelerator and this much memory."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(fit.psutil, "virtual_memory", lambda: SimpleNamespace(total=int(gibibytes * 2**30)))
    monkeypatch.setattr(fit.psutil, "swap_memory", lambda: SimpleNamespace(total=int(swap * 2**30)))
    monkeypatch.setattr(fit, "CGROUP", ())


def check(*overrides: str, recipe: str = MATH, processes: int = 1) -> str | None:
    settings = load_recipe(recipe, list(overrides))
    return check_memory(settings, config_of(settings), processes)


def test_a_run_that_cannot_fit_is_refused_with_the_keys_to_turn(monkeypatch):
    fake(monkeypatch, 24)
    with pytest.raises(MachineError) as refused:
        check()
    said = str(refused.value)
    assert "and vLLM take 64.7 GiB, and RTX 4090 has 24.0;" in said and "check_memory=false" in said
    assert check("check_memory=false") is None
    fake(monkeypatch, 79.6, "H100")
    with pytest.raises(MachineError, match=r"what would help: lora=\{r: 16"):
        check()


@pytest.mark.parametrize(
    ("recipe", "gibibytes"),
    [(f"{MATH}-80gb", 79.2), (f"{MATH}-24gb", 23.5), ("intuitor-qwen2.5-3b-prompts-24gb", 23.5)],
)
def test_recipes_for_one_gpu_pass_on_theirs(recipe, gibibytes, monkeypatch):
    """The sizes are what the drivers of such cards report, or less."""
    fake(monkeypatch, gibibytes)
    assert check(recipe=recipe) is None


def test_a_run_that_is_near_is_warned_of(monkeypatch):
    fake(monkeypatch, 19)
    warning = check(recipe=f"{MATH}-24gb")
    assert warning and warning.startswith("the run probably does not fit: about ") and "RTX 4090 has 19.0" in warning
    assert "what would help: training." in warning
    warning = check("training.vllm_gpu_memory_utilization=0.2", recipe=f"{MATH}-24gb")
    assert warning and "vLLM's share is" in warning
    fake(monkeypatch, 10)
    with pytest.raises(MachineError, match="cannot fit"):
        check(recipe=f"{MATH}-24gb")


def test_shards_of_a_launch_are_counted(monkeypatch):
    fake(monkeypatch, 39.4, "A100-40GB")
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    assert check(processes=8) is None
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    with pytest.raises(MachineError, match="--strategy fsdp2"):
        check(processes=8)


@pytest.mark.parametrize(
    ("environment", "strategy"),
    [
        ({}, "ddp"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, None),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, None),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "own.json"}, None),
    ],
)
def test_the_strategy_is_that_of_the_launcher(environment, strategy, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert strategy_here(load_recipe(MATH)) == strategy


def test_without_a_gpu_the_machines_memory_counts(monkeypatch):
    fake_machine(monkeypatch, 16)
    with pytest.raises(MachineError, match="this machine has 16"):
        check("training.use_vllm=false")
    fake_machine(monkeypatch, 16, swap=200)
    assert check("training.use_vllm=false") is None
    fake_machine(monkeypatch, 4)
    assert check(recipe="demo") is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    found = device_here(load_recipe("demo"))
    assert found and found.memory == 2.0


def test_a_limit_of_the_container_counts(monkeypatch, tmp_path):
    fake_machine(monkeypatch, 16)
    for text, memory in (("max\n", 16.0), (f"{3 * 2**30}\n", 3.0)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(fit, "CGROUP", (str(tmp_path / "memory.max"), str(tmp_path / "none")))
        found = device_here(load_recipe("demo"))
        assert found and found.memory == memory


def test_the_train_command_refuses_before_it_makes_a_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    fake_machine(monkeypatch, 0.001)
    code, _, err = main(monkeypatch, capsys, "train", "demo")
    assert code == 2 and "rlif: the run cannot fit: weights, gradients and optimiser state take" in err
    assert not (tmp_path / "runs").exists()


def test_random_numbers_are_left_alone(monkeypatch):
    fake_machine(monkeypatch, 16)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    check(recipe="demo")
    assert torch.equal(before, torch.get_rng_state())
