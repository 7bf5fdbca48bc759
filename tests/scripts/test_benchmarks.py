"""Tests that small benchmarks run and compare equal work. No test depends on measured time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gpu
import looking
import pytest
import scoring
import step
import torch
from contestants import Setting
from measure import COMMIT, Lap, growth, ratio, spread, take_turns
from memory import watch
from shapes import body_parameters, build, forward_flops

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; run it where one is")
TINY = Setting(Path(), batch=4, accumulation=1, group=4, tokens=5)


def test_contestants_take_turns_in_every_order():
    turns: list[str] = []
    laps = take_turns({name: lambda name=name: turns.append(name) for name in "abc"}, rounds=6, warm_up=1)
    rounds = ["".join(turns[i : i + 3]) for i in range(0, 21, 3)]
    assert set(rounds[1:]) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert {name: len(of) for name, of in laps.items()} == dict.fromkeys("abc", 6)


def test_ratios_are_taken_within_a_round():
    """A round on a slower machine does not change the ratio."""
    laps = {"ours": [Lap(1.0, 0.5), Lap(4.0, 2.0)], "plain": [Lap(2.0, 0.5), Lap(8.0, 2.0)]}
    found = ratio(laps, "ours", "plain")
    assert (found.median, found.low, found.high) == (0.5, 0.5, 0.5)
    assert ratio(laps, "ours", "plain", "cpu").median == 1.0


def test_spread_and_exponent_of_growth():
    assert (spread([4, 1, 3, 2, 5]).low, spread([4, 1, 3, 2, 5]).median) == (2, 3)
    assert growth([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_memory_is_measured_at_the_allocator():
    with watch() as memory:
        first = torch.zeros(2**20)
        del first
        torch.zeros(2**18).logsumexp(0)
    assert 4 * 2**20 <= memory.peak < 4.1 * 2**20 and memory.largest == 4 * 2**20


def test_number_of_operations_is_the_sum_over_the_layers():
    model = build("tiny")
    attention, head = 2 * 2 * 128 * 10, 2 * 128 * 512
    assert forward_flops(model, 10, 10, 5) == 10 * (2 * body_parameters(model) + attention) + 5 * head


@pytest.mark.sweep
def test_the_reference_method_takes_a_pass_that_rlif_saves():
    """Completions and self-certainty are the same; `compare` stops if they differ."""
    (row,) = step.measure("tiny", ["beta offline"], TINY, rounds=1)
    found = row["contestants"]
    assert found["ours"]["extra_passes"] == 0 and found["reference"]["extra_passes"] == 1
    assert found["plain"]["passes"] == 1  # by the reference model


def test_a_path_without_its_package_is_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: None)
    (row,) = step.measure("tiny", ["vllm"], TINY, rounds=1)
    assert row["skipped"].startswith("skipped: vLLM is not installed")
    assert "vllm: skipped" in step.summary([row])[-1]


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.sweep), pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
)
def test_the_gpu_suite_runs_small(device, tmp_path, monkeypatch):
    out = tmp_path / "bench-gpu"
    options = ["--device", device, "--shapes", "tiny", "--paths", "generate", "--rounds", "1", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options, "--out", str(out)])
    gpu.main()
    found, text = (
        json.loads(out.with_suffix(".json").read_text(encoding="utf-8")),
        out.with_suffix(".md").read_text(encoding="utf-8"),
    )
    assert found["machine"]["commit"] == COMMIT and "folder" not in found["machine"]
    assert found["steps"][0]["contestants"]["ours"]["extra_passes"] == 0
    assert len(found["demo"]) == 1 and "## demo-long, larger" in text and "TFLOP/s" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU; hide it by CUDA_VISIBLE_DEVICES=")
def test_the_gpu_suite_is_skipped_without_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    gpu.main()
    assert capsys.readouterr().out.startswith("skipped: no CUDA device") and not list(tmp_path.iterdir())


@pytest.mark.sweep
def test_the_scoring_benchmark_runs_small(tmp_path, monkeypatch):
    """With larger batches, memory of full logits grows and ours grows less."""
    sizes = {"B": [scoring.Case("tiny", B, 64, 8000) for B in (4, 16)]}
    monkeypatch.setattr(scoring, "cases", lambda *_: sizes)
    monkeypatch.setattr(scoring, "REAL", ("tiny",))
    monkeypatch.setattr(scoring, "LARGEST", (4, 40))
    monkeypatch.setattr(scoring, "V", 8000)
    monkeypatch.setattr("rlif.scoring.statistics.LOGITS_HELD", 16 * 8000)
    monkeypatch.setattr(sys, "argv", ["scoring.py", "--rounds", "1", "--out", str(tmp_path / "scoring")])
    scoring.main()
    found = json.loads((tmp_path / "scoring.json").read_text(encoding="utf-8"))["rows"]
    small, large = found["B"]
    grown = {name: large["peak_mib"][name] / small["peak_mib"][name] for name in ("ours", "full")}
    assert grown["full"] > 3 and grown["ours"] < grown["full"]
    text = (tmp_path / "scoring.md").read_text(encoding="utf-8")
    assert "| B | 4 to 16 |" in text and "of 2 sizes of the small body" in text and "of 1 real shapes" in text


@pytest.mark.sweep
def test_the_benchmark_of_reports_and_votes_runs_small(tmp_path, monkeypatch):
    sizes = ["--rounds", "1", "--completions", "800", "--samples", "500", "--steps", "6"]
    monkeypatch.setattr(sys, "argv", ["looking.py", *sizes, "--out", str(tmp_path / "out")])
    looking.main()
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found["report"]["steps"] == 6 and all(row["per_second"]["median"] > 0 for row in found["votes"])
