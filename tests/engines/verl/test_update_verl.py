"""Tests whole updates through verl's own processes: Ray, TransferQueue, agent loop, FSDP2 workers, weight transfer.

`rlif launch --engine verl` runs them on the CPU. Only the rollout server is a stand-in: it returns fixed completions.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from support import oracle
from support.models import chatml_tokenizer, tiny_model
from support.updates import Descent
from support.verl_environment import environment, needs_verl

import rlif
from rlif.comparison.summary import summarise_run
from rlif.files.jsonl import read_lines
from rlif.guard.monitor import replay
from rlif.runs.folder import Run

pytestmark = needs_verl
GROUP, RATE, BETA, HEAT = 3, 0.01, 0.2, 0.9
ON_CPU = {
    "ray_kwargs.ray_init.num_cpus": 12,
    "+ray_kwargs.ray_init.num_gpus": 1,
    "+ray_kwargs.ray_init.include_dashboard": False,
    "+ray_kwargs.ray_init.object_store_memory": 10**8,
    "trainer.device": "cpu",
    "actor_rollout_ref.rollout.name": "fixed",
    "actor_rollout_ref.rollout.agent.num_workers": 1,
    "actor_rollout_ref.model.use_remove_padding": False,
    "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
    "actor_rollout_ref.actor.use_torch_compile": False,
    "actor_rollout_ref.actor.optim.optimizer": "SGD",
    "data.dataloader_num_workers": 0,
    "reward.num_workers": 1,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
}
CRITIC = {
    "critic.model.use_remove_padding": False,
    "+critic.model.override_config.attn_implementation": "sdpa",
    "critic.model.enable_gradient_checkpointing": False,
    "critic.fsdp.use_torch_compile": False,
}
TRAINING = {
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "num_generations": GROUP,
    "per_device_train_batch_size": GROUP,
    "max_completion_length": 16,
    "max_steps": 2,
    "max_grad_norm": 1e9,
    "beta": BETA,
    "temperature": HEAT,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_steps": 2,
    "vllm_enable_sleep_mode": False,
}


def write(folder: Path, **keys) -> str:
    """Writes a tiny model and a recipe; returns the recipe's path."""
    tiny_model().save_pretrained(folder / "model")
    chatml_tokenizer().save_pretrained(folder / "model")
    recipe = {"engine": "verl", "model": str(folder / "model"), "task": "clock", "limit": 4, "output": str(folder)}
    recipe |= {"problems_per_update": 2, "training": TRAINING, "verl": ON_CPU} | keys
    YAML().dump(recipe, folder / "recipe.yaml")
    (folder / "weights").mkdir()
    return str(folder / "recipe.yaml")


def train(folder: Path, **keys) -> Run:
    """Trains a tiny model for two steps by `rlif launch`."""
    done = launch(folder, write(folder, **keys))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return Run.open(folder / "recipe")


def launch(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "rlif", "launch", "--processes", "1", *words],
        env=environment(VERL_WEIGHTS=str(folder / "weights"), **variables),
        capture_output=True,
        encoding="utf-8",
        timeout=1500,
    )


def rollouts(run: Run) -> dict[int, list[SimpleNamespace]]:
    """The completions of each step, group by group."""
    paths = run.files("completions/step-*.jsonl")
    return {int(path.stem[5:]): [SimpleNamespace(**row) for _, row in read_lines(path)] for path in paths}


def policies(folder: Path) -> dict[int, torch.nn.Module]:
    """The weights that the rollout server got after each step; 0 are those of the start."""
    found = {}
    for path in (folder / "weights").glob("step-*.safetensors"):
        model = tiny_model()
        model.load_state_dict(load_file(path), strict=False)
        found[int(path.stem[5:])] = model
    return found


@pytest.fixture(scope="module")
def grpo(tmp_path_factory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("grpo")
    return folder, train(folder, reward={"self_certainty": 1.0, "accuracy": 0.0})


def test_self_certainty_of_each_completion_equals_float64(grpo):
    folder, run = grpo
    models, found = policies(folder), rollouts(run)
    assert sorted(found) == [1, 2] and sorted(models) == [0, 1, 2]
    for step, rows in found.items():
        assert len(rows) == 2 * GROUP
        for row in rows:
            expected = oracle.self_certainty(models[step - 1], row.prompt_ids, row.completion_ids, HEAT)
            assert row.rewards["self_certainty"] == pytest.approx(expected, abs=1e-5)
            assert statistics.fmean(row.token_self_certainty) == pytest.approx(expected, abs=0.01)  # kept rounded
            assert row.completion == chatml_tokenizer().decode(row.completion_ids, skip_special_tokens=True)


def test_advantages_of_grpo_equal_float64(grpo):
    for rows in rollouts(grpo[1]).values():
        certainties = [row.rewards["self_certainty"] for row in rows]
        expected = oracle.group_advantages(certainties, GROUP)
        assert [row.advantage for row in rows] == pytest.approx(expected, abs=1e-4)
        assert any(abs(advantage) > 0.1 for advantage in expected)


def test_two_updates_equal_gradient_descent_in_float64(grpo):
    """The same loss as TRL's, which `tests/engines/trl/test_updates.py` compares with the same arithmetic."""
    folder, run = grpo
    descent, models = Descent(tiny_model(), RATE, BETA, HEAT), policies(folder)
    for step, rows in rollouts(run).items():
        descent.step(rows, [row.advantage for row in rows])
        assert descent.difference(dict(models[step].named_parameters())) < 1e-4
        assert descent.moved() > 3e-3


def test_the_run_folder_is_that_of_any_run(grpo):
    run = grpo[1]
    summary, metrics = run.summary(), run.metrics()
    assert summary["steps"] == 2 and summary["path"] == "verl" and summary["extra_passes"] == 0
    assert [row["step"] for row in metrics] == [1, 2]
    for name in ("loss", "grad_norm", "entropy", "kl", "completion_length", "truncated", "self_certainty", "reward"):
        assert all(math.isfinite(row[name]) for row in metrics), name
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-6) and metrics[1]["kl"] > 1e-6
    lengths = [len(row.completion_ids) for row in rollouts(run)[1]]
    assert metrics[0]["completion_length"] == pytest.approx(statistics.fmean(lengths))
    assert {row.right for row in rollouts(run)[1]} == {False} and metrics[0]["accuracy"] == 0.0
    assert load_file(next(run.model.glob("*.safetensors")))
    replay(run.recipe().guard, metrics)
    compared = summarise_run(run.path)
    assert compared.steps == 2
    assert compared.metrics["kl"] == pytest.approx([row["kl"] for row in metrics], rel=1e-2, abs=1e-6)
    rlif.report(run.path)
    assert "self_certainty" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ppo(tmp_path_factory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("ppo")
    keys = {"algorithm": "ppo", "token_reward": "spread", "normalisation": "none"}
    return folder, train(folder, **keys, verl=ON_CPU | CRITIC)


def test_ppo_trains_policy_and_critic(ppo):
    """The reward is spread over the tokens, so the sum of a completion is its self-certainty."""
    folder, run = ppo
    models, metrics = policies(folder), run.metrics()
    assert [row["step"] for row in metrics] == [1, 2]
    for step, rows in rollouts(run).items():
        for row in rows:
            expected = oracle.self_certainty(models[step - 1], row.prompt_ids, row.completion_ids, HEAT)
            assert row.reward == pytest.approx(expected, abs=1e-5) and row.advantage is not None
    for row in metrics:
        assert row["critic/vf_loss"] > 0 and row["critic/grad_norm"] > 0
        score = statistics.fmean(each.reward for each in rollouts(run)[row["step"]])
        assert row["critic/score/mean"] == pytest.approx(score, abs=1e-5)
    start = dict(models[0].named_parameters())
    moved = max((p - start[name]).abs().max().item() for name, p in models[2].named_parameters())
    assert moved > 1e-5


def test_a_failed_run_goes_on_with_its_frozen_annotator(tmp_path):
    """The server fails after the second step. Resumed, the weights are those of three steps of gradient descent."""
    keys = {"annotator": "offline", "training": TRAINING | {"max_steps": 3, "save_steps": 1}}
    failed = launch(tmp_path, write(tmp_path, **keys), VERL_FAIL_AT="2")
    run = Run.open(tmp_path / "recipe")
    assert failed.returncode == 2, failed.stderr[-3000:]
    assert f"go on with: rlif launch --resume {run.path} --processes 1" in failed.stderr
    assert not run.is_finished
    again = launch(tmp_path, "--resume", str(run.path))
    assert again.returncode == 0, again.stdout[-6000:] + again.stderr[-6000:]
    assert [row["step"] for row in run.metrics()] == [1, 3]  # verl had saved step 2 and not yet logged it
    assert run.summary()["steps"] == 3
    start, descent, found = tiny_model(), Descent(tiny_model(), RATE, BETA, HEAT), rollouts(run)
    assert sorted(found) == [1, 2, 3]
    sampled = sum(len(row.prompt_ids) + len(row.completion_ids) for rows in found.values() for row in rows)
    assert run.metrics()[-1]["tokens"] == sampled
    for rows in found.values():
        for row in rows:
            expected = oracle.self_certainty(start, row.prompt_ids, row.completion_ids, HEAT)
            assert row.rewards["self_certainty"] == pytest.approx(expected, abs=1e-5)
        descent.step(rows, [row.advantage for row in rows])
    trained = tiny_model()
    trained.load_state_dict(load_file(next(run.model.glob("*.safetensors"))), strict=False)
    assert descent.difference(dict(trained.named_parameters())) < 1e-4 and descent.moved() > 3e-3
