"""Tests the scripts of the real model: columns by hand, choices without labels, the table, and a whole tiny study."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.commands import ROOT
from support.scripts import load

from rlif.comparison.summary_file import format_summaries, read_summaries

sys.path.insert(0, str(ROOT / "scripts"))  # they import each other

import real_probe  # pyright: ignore[reportMissingImports]
import real_results  # pyright: ignore[reportMissingImports]
import real_study  # pyright: ignore[reportMissingImports]


def row(problem: str, sample: int, answer: str | None, right: bool, sure: float, tokens: int) -> dict:
    signals = dict.fromkeys(real_probe.SIGNALS, -sure) | {"self_certainty": sure}
    base = {"id": problem, "sample": sample, "completion": f"{answer}", "answer": answer, "right": right}
    return base | signals | {"tokens": tokens, "truncated": tokens >= 16}


# Two problems of eight samples; sure is the order of confidence.
SAMPLES = [
    *(row("a", i, "1", True, sure, 4) for i, sure in enumerate([8.0, 7.0, 6.0, 1.0])),
    *(row("a", 4 + i, "2", False, sure, 5) for i, sure in enumerate([5.0, 4.0])),
    *(row("a", 6 + i, None, False, sure, 16) for i, sure in enumerate([3.0, 2.0])),
    *(row("b", i, "3", False, float(i), 4) for i in range(8)),
]


def test_the_columns_of_a_family_by_hand():
    found = real_probe.digest("sum", SAMPLES)
    assert (found["answered"], found["cut"], found["disagree"]) == (14 / 16, 2 / 16, 0.5)
    assert found["accuracy"]["mean"] == 4 / 16 and found["pass@8"]["mean"] == 0.5 and found["maj@8"]["mean"] == 0.5
    assert found["surest"]["mean"] == 0.5 and found["surest"]["n"] == 2  # right on a, wrong on b
    # problem a: of 4 x 4 pairs of right and wrong, the surest three win all and the least sure none
    assert found["auroc"]["self_certainty"] == {"n": 1, "mean": 12 / 16, "low": None, "high": None}
    assert found["auroc"]["likelihood"]["mean"] == 4 / 16
    assert found["auroc"]["shortness"]["mean"] == 1.0
    # its answers: four times 1, twice 2, two without; of 4 x 2 pairs six are won
    assert found["pull"]["self_certainty"]["mean"] == 6 / 8 and found["pull"]["self_certainty"]["n"] == 1
    # the longer of a: 5 over 4 tokens (2 of 8), 16 over 4 (2 of 8), 16 over 5 (0 of 4)
    assert found["longer"]["mean"] == 4 / 20


def test_a_tie_has_no_most_frequent_answer():
    group = [row("a", i, answer, False, 1.0, 4) for i, answer in enumerate("1122")]
    assert [real_probe.frequent(each, group) for each in group] == [None] * 4
    same = [row("a", i, "1", False, 1.0, 4) for i in range(4)]
    assert real_probe.higher([same], "self_certainty", real_probe.frequent) is None


def family(name: str, low: float, answered: float = 0.9, disagree: float = 0.8, **gold) -> dict:
    pulls = {"self_certainty": {"n": 9, "mean": low + 0.1, "low": low, "high": low + 0.2}}
    pulls |= {"likelihood": {"mean": 0.6}, "negative_entropy": {"mean": 0.7}, "shortness": {"mean": 0.9}}
    return {
        "family": name,
        "answered": answered,
        "cut": 0.9,
        "disagree": disagree,
        "pull": pulls,
        "tokens": 9.0,
        **gold,
    }


def test_families_and_the_second_signal_are_chosen_without_labels():
    rows = [
        family("where", 0.5),
        family("sum", 0.6, answered=0.4),
        family("item", 0.55),
        family("copy", 0.7, disagree=0.4),
    ]
    assert real_probe.chosen(rows) == ["item", "where"]
    assert real_probe.other_signal(rows[0]) == "negative_entropy"
    with_gold = [each | {"accuracy": {"mean": i / 4}, "auroc": {}} for i, each in enumerate(rows)]
    assert real_probe.chosen(with_gold) == ["item", "where"]


def test_the_plan_runs_all_methods_of_the_shorter_family_first(tmp_path):
    probe = tmp_path / "probe.json"
    rows = [family("where", 0.5), family("item", 0.55) | {"tokens": 4.0}]
    probe.write_text(json.dumps({"families": rows}))
    runs = real_study.plan(probe)
    assert (
        len(runs) == 36 and runs[0].folder(tmp_path) == tmp_path / "item/intuitor-seed0" and runs[6].family == "where"
    )
    assert {run.seed for run in runs[:12]} == {0}
    rewards = {run.method: run.reward for run in runs}
    assert rewards["negative-entropy"] == "negative_entropy" and rewards["grpo-pv"] == "plurality_vote"
    gold = next(run for run in runs if run.method == "grpo-gold")
    assert 'reward={"accuracy": 1}' in gold.overrides
    assert 'reward={"accuracy": 0, "self_certainty": 1}' in runs[0].overrides


def finished(method: str, reward: str, seed: int, sampled: float) -> dict:
    share = {"n": 32, "mean": sampled, "low": None, "high": None}
    looks = {"0": {"n": 64, "mean": 0.25}, "12": {"n": 64, "mean": 0.5}}
    names = {"family": "item", "method": method, "reward": reward, "seed": seed, "steps": 6, "learning_rate": 1e-5}
    columns = {"completion_length": [9.0, 9, 9, 6, 6, 6], "kl": [0.0, 0, 0, 0.1, 0.2, 0.3], "accuracy": [0.5] * 6}
    scores = {"sampled": share, "pass@8": share, "greedy": looks, "kept": looks}
    return names | columns | scores | {"beta": 0.04, "seconds": 120.0}


def test_the_table_pairs_changes_with_random_by_seed():
    base = {"item": {"accuracy": {"mean": 0.3}, "pass@k": {"8": {"mean": 0.6}}}}
    runs = [finished("intuitor", "self_certainty", seed, 0.5 + seed / 10) for seed in (0, 1)]
    runs += [finished("random", "random", seed, 0.3) for seed in (0, 1)]
    lines = real_results.table({"bases": base, "runs": runs})
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    # 0.2 and 0.3: mean 0.25, and with one degree of freedom t = 12.706 times the error 0.05
    assert cells[:5] == ["item", "intuitor", "`self_certainty`", "0, 1", "30.0% -> 55.0%"]
    assert cells[5].startswith("+25.0") and "-38.5" in cells[5] and "+88.5" in cells[5]
    assert cells[6] == cells[5] and cells[7] == "60% -> 55%, -5.0 [-68.5, +58.5]"
    assert cells[8] == "25% -> 50%, +25.0" and cells[10:] == ["9.0 -> 6.0", "0.200", "2"]


def test_the_leaderboards_files_get_pass_at_8_of_the_runs_that_the_study_has(tmp_path):
    runs, made = read_summaries(ROOT / "results/real-steps.json")
    file, rows = tmp_path / "real-steps.json", json.loads((ROOT / "results/real-steps.json").read_text())["rows"]
    file.write_text(format_summaries([replace(run, pass_at={"other": {"8": [0.5, 0.6]}}) for run in runs], rows, made))
    ends = [{"family": "steps", "method": runs[0].method, "seed": runs[0].seed, "pass@8": {"mean": 0.7}}]
    real_results.add_passes(tmp_path, {"bases": {"steps": {"pass@k": {"8": {"mean": 0.9}}}, "story": {}}, "runs": ends})
    first, *others = read_summaries(file)[0]
    assert first.pass_at == {"other": {"8": [0.5, 0.6]}, "easy-steps.alone": {"8": [0.9, 0.7]}}
    assert all(run.pass_at == {"other": {"8": [0.5, 0.6]}} for run in others)


def test_the_base_is_sampled_once_at_each_temperature_and_tabulated(tmp_path, monkeypatch):
    def accuracy(mean: float) -> dict:
        return {"accuracy": {"n": 8, "mean": mean}, "pass@k": {"8": {"n": 8, "mean": 1.0}}}

    drawn = []

    def evaluate(model, task, limit, temperature):
        drawn.append(temperature)
        return SimpleNamespace(as_dict=lambda: accuracy(0.5))

    monkeypatch.setattr(real_study.rlif, "evaluate", evaluate)
    for _ in range(2):
        real_study.sample_base("steps", tmp_path)
    assert drawn == [1.0, *real_study.COOLER]
    base = {"item": accuracy(0.3) | {"cooler": {"0.25": accuracy(0.7), "0.5": accuracy(0.6)}}}
    runs = [finished("intuitor", "self_certainty", 0, 0.5)]
    lines = real_results.cooler_table({"bases": base, "runs": runs})[4:]
    assert [line.split("|")[3].strip() for line in lines] == ["1", "0.5", "0.25", "1"]
    assert "30.0%" in lines[0] and "70.0%" in lines[2] and "self-certainty, 1 seeds" in lines[3]


def test_the_plans_criteria_by_hand():
    base = {"item": {"accuracy": {"mean": 0.3}, "pass@k": {"8": {"mean": 0.6, "low": 0.48}}}}
    runs = [finished("intuitor", "self_certainty", seed, 0.5 + seed / 100) for seed in (0, 1)]
    runs += [finished("random", "random", seed, 0.5) for seed in (0, 1)] + [finished("length", "length", 0, 0.1)]
    rows = real_results.criteria({"bases": base | {"other": base["item"]}, "runs": runs})
    assert {row["family"] for row in rows} == {"item"}, "there is no run of the other"
    found = {row["what"]: row for row in rows}
    assert found["samples, end minus start"]["holds"]  # 0.20 and 0.21
    assert not found["samples, minus random"]["holds"]  # 0 and 0.01: zero is in the interval
    assert found["samples, minus length"]["found"] == "+40.0 (one seed)" and not found["samples, minus length"]["holds"]
    assert not found["pass@8, end minus start"]["holds"]  # -0.10 and -0.09
    assert found["pass@8, minus the lower end of the base's interval"]["holds"]  # 0.02 and 0.03
    assert found["other families, end minus start"]["found"] == "+25.0"
    assert found["samples, minus the base's greedy answers"]["holds"]  # 0.25 and 0.26
    assert real_results.fulfilled(rows, "item") == [4]
    assert len(real_results.criteria_table(rows)) == 2 + 7


@pytest.mark.sweep
def test_a_study_runs_resumes_samples_and_is_tabulated(tmp_path, model_folder, monkeypatch):
    recipe = tmp_path / "real.yaml"
    recipe.write_text(
        f"base: {ROOT / 'scripts/real.yaml'}\nmodel: {model_folder}\nproblems_per_update: 2\nmax_prompt_tokens: 1024\n"
        "evaluate: {every: 1, limit: 25}\n"
        "training: {max_steps: 2, save_steps: 1, num_generations: 2, per_device_train_batch_size: 4,"
        " max_completion_length: 4}\n"
    )
    monkeypatch.setattr(real_study, "RECIPE", recipe)
    monkeypatch.setattr(real_study, "SAMPLED", 2)
    runs = tmp_path / "runs"
    planned = [
        real_study.Planned("item", "intuitor", "self_certainty", 0),
        real_study.Planned("item", "grpo-gold", "accuracy", 0),
    ]
    runs.mkdir()
    real_study.sample(str(model_folder), "item", runs / "base-item.json")
    for each in planned:
        real_study.carry_out(each, runs)
    path = runs / "item/intuitor-seed0"
    assert (path / "sampled.json").is_file() and not (path / "model").exists() and not (path / "checkpoints").exists()
    made = (path / "sampled.json").stat().st_mtime_ns
    real_study.carry_out(planned[0], runs)
    assert (path / "sampled.json").stat().st_mtime_ns == made
    out = tmp_path / "results"
    out.mkdir()
    (out / "real-base-probe.json").write_text(
        json.dumps({"weights": "a file", "families": [family("item", 0.5, auroc={"self_certainty": {"mean": 0.5}})]})
    )
    monkeypatch.setattr(sys, "argv", ["real_results.py", "--runs", str(runs), "--out", str(out)])
    real_results.main()
    first = (out / "real.md").read_text()
    assert "Finished runs: 2." in first and "| item | intuitor |" in first and "kept" in first
    monkeypatch.setattr(sys, "argv", ["real_results.py", "--runs", str(tmp_path / "gone"), "--out", str(out)])
    real_results.main()
    assert (out / "real.md").read_text() == first  # from the kept file alone
    kept = json.loads((out / "real.json").read_text())["runs"][0]["kept"]["0"]
    assert kept["n"] == 4 * 25  # the families of the base, without the one trained on


def test_the_shipped_recipes_of_the_real_model_are_whole():
    import rlif

    for name in ("demo-real", ROOT / "scripts/real.yaml"):
        recipe = rlif.load_recipe(name)
        batch = recipe.resolved_training["per_device_train_batch_size"] * recipe.accumulation(1)
        assert batch == recipe.problems_per_update * recipe.resolved_training["num_generations"]
    assert rlif.load_recipe("demo-real").model == "smollm2-135m"
    assert load("scripts/real_study.py").FAMILIES == 2


def test_the_page_says_where_training_did_not_raise_its_own_reward():
    page = " ".join((ROOT / "docs/evidence.md").read_text(encoding="utf-8").split())
    runs = json.loads((ROOT / "results/real.json").read_text(encoding="utf-8"))["runs"]
    found = {}
    for run in runs:
        if run["method"] == "intuitor":
            found.setdefault(run["family"], []).append(real_results.first_to_last(run["self_certainty"]))
    risen = {family: all(last > first for first, last in ends) for family, ends in found.items()}
    assert risen == {"steps": True, "story": True, "larger": True, "capital_city": False}
    first, last = (sum(values) / 3 for values in zip(*found["capital_city"], strict=True))
    assert f"self-certainty of the batches fell from {first:.1f} to {last:.1f} nats" in page
