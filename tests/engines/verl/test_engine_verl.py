"""Tests statistics from verl's own FSDP2 engine against float64: one and two processes, padded and unpadded."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import oracle
from support.models import tiny_model
from support.verl_environment import environment, needs_verl

pytestmark = needs_verl
SCRIPT = Path(__file__).parents[2] / "support" / "verl_engine.py"
HEAT, TOP_K = 0.9, 20
# nats: float32 rounds, and bfloat16, verl's default, has logits near 4 that are 0.016 apart
EXACT = {"mean_logprob": 1e-5, "entropy": 1e-5, "topk_confidence": 1e-5, "logprob": 2e-5, "self-certainty": 5e-6}
MIXED = {"mean_logprob": 0.05, "entropy": 0.1, "topk_confidence": 0.05, "logprob": 0.3, "self-certainty": 0.01}


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def found(request, tmp_path_factory, model_folder) -> list[dict]:
    """What each process found."""
    out = tmp_path_factory.mktemp("out")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(request.param)]
    command = [sys.executable, "-W", "ignore", *torchrun, str(SCRIPT), str(model_folder), str(out)]
    variables = environment(VERL_USE_EXTERNAL_MODULES="support.verl_on_cpu")
    done = subprocess.run(command, env=variables, capture_output=True, encoding="utf-8", timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(request.param)]


def expected(ids: list[int]) -> dict[str, torch.Tensor]:
    """Statistics of every token but the first of a row, in float64."""
    logp_TV = oracle.logprobs_TV(tiny_model(), ids[:1], ids[1:], HEAT)
    return {
        "mean_logprob": logp_TV.mean(-1),
        "entropy": -(logp_TV.exp() * logp_TV).sum(-1),
        "topk_confidence": -logp_TV.topk(TOP_K, dim=-1).values.mean(-1),
        "logprob": logp_TV.gather(-1, torch.tensor(ids[1:]).unsqueeze(-1)).squeeze(-1),
    }


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("layout", ["padded", "unpadded"])
def test_statistics_equal_float64(found, layout, precision):
    limits = EXACT if precision == "float32" else MIXED
    for process in found:
        case = process[f"{layout} {precision}"]
        assert case["engine"] == "InternalFSDPEngine" and len(case["ids"]) == 4
        for row, ids in enumerate(case["ids"]):
            wanted = expected(ids)
            for name, values_T in wanted.items():
                assert case[name][row][:-1] == pytest.approx(values_T.tolist(), abs=limits[name]), name
            mean = statistics.fmean(case["mean_logprob"][row][:-1])
            assert mean == pytest.approx(wanted["mean_logprob"].mean().item(), abs=limits["self-certainty"])


def test_processes_have_rows_of_their_own(found):
    rows = [process["padded float32"]["ids"] for process in found]
    assert all(rows.count(each) == 1 for each in rows)


def test_log_probabilities_are_verls_own(found):
    """Position t describes the distribution that generated token t + 1, as verl's log-probabilities do."""
    for case in (process["unpadded float32"] for process in found):
        for ours, theirs in zip(case["logprob"], case["verl"], strict=True):
            assert ours[:-1] == pytest.approx(theirs[:-1], abs=1e-5)


def test_a_pass_that_is_not_asked_gives_verls_output_alone(found):
    for process in found:
        assert process["padded float32"]["unasked"] == ["entropy", "log_probs"]


def test_training_moves_the_weights(found):
    assert len({process["moved"] for process in found}) == 1 and found[0]["moved"] > 1e-5
