"""Tests the study of training in rounds beside online training: its recipes, costs and table."""

from __future__ import annotations

import pytest
from support.commands import ROOT
from support.scripts import load

import rlif
from rlif.config.rounds import in_rounds, online_recipe
from rlif.config.steps import plan_rounds, plan_steps
from rlif.engines.rounds.choices import most_of
from rlif.intervals import t_interval
from rlif.training.prepare import check_settings


class FakeRun:
    """What `costs` reads of a run."""

    def __init__(self, recipe, rows):
        self._recipe, self._rows = recipe, rows

    def recipe(self):
        return self._recipe

    def metrics(self):
        return self._rows


def test_methods_of_the_study_sample_as_much():
    """Online: 50 updates of 8 x 8. Rounds: as many completions; Genius samples candidates of steps instead."""
    studies = load("scripts/studies.py")
    study = studies.STUDIES["relatives"]
    for row, overrides in study.rows.items():
        recipe = rlif.load_recipe(study.recipe(row), overrides)
        assert recipe.model == "tiny-reasoner" and recipe.task == "clock", row
        check_settings(recipe, 1)
        assert recipe.resolved_training["temperature"] == 1.0 and recipe.evaluate.every == 10, row
        if not in_rounds(recipe):
            assert plan_steps(recipe, 2048, 1).completions == 50 * 64, row
        elif not row.startswith("genius"):
            online = online_recipe(recipe)
            number = recipe.rounds.number if online and recipe.online.after == "each" else 1
            later = plan_steps(online, 2048, 1).completions * number if online else 0
            assert plan_rounds(recipe, 2048, most_of(recipe)).completions + later == 50 * 64, row


def test_costs_count_the_samples_of_a_round_once_and_online_rollouts_each():
    results = load("scripts/relatives_results.py")
    recipe = rlif.load_recipe("hybrid", ["rounds.samples=4", "online.problems_per_update=2"])
    rows = [
        {"step": 1, "round": 1, "sampled_tokens": 100, "sampling_seconds": 5.0, "step_seconds": 1.0},
        {"step": 2, "round": 1, "sampled_tokens": 100, "sampling_seconds": 5.0, "step_seconds": 1.0},
        {"step": 3, "completion_length": 10.0, "step_seconds": 2.0},
        {"step": 4, "round": 2, "sampled_tokens": 260, "step_seconds": 1.0},
    ]
    spent = results.costs(FakeRun(recipe, rows))
    assert [each["tokens"] for each in spent] == [100, 100, 180, 260]
    assert [each["seconds"] for each in spent] == [6, 7, 9, 10]


def run(method: str, seed: int, accuracies: list[float]) -> dict:
    curve = [
        {"step": i, "accuracy": accuracy, "tokens": 1000.0 * i, "seconds": 10.0 * i}
        for i, accuracy in enumerate(accuracies)
    ]
    return {"method": method, "seed": seed, "curve": curve, "cups": [0.2, 0.5], "pass": {"1": 0.5, "4": 0.7, "16": 0.9}}


def test_the_table_has_gains_and_what_it_cost_to_reach_the_threshold():
    results = load("scripts/relatives_results.py")
    runs = [run("a", 0, [0.1, 0.8, 0.6]), run("a", 1, [0.1, 0.75, 0.8]), run("b", 0, [0.1, 0.2, 0.9])]
    best, second = results.rows(runs)
    assert best.startswith("| b | 1 | +80.0 | +30.0 | 20% | 90% | 90% | 100% | 50% | 70% | 90% | 2 k | 20 | 2 k | 20 |")
    assert second.startswith("| a | 2 | +60.0 [-67.1, +100.0] | +30.0 | 78% | 70% | 80% | 88% |")
    assert second.endswith("| 2 k | 20 | 1 k | 10 |")
    assert "| 1 of 2 | - |" in results.rows([*runs[:1], run("a", 1, [0.1, 0.2])])[0]
    assert results.reached(runs[0]) == {"step": 1, "accuracy": 0.8, "tokens": 1000.0, "seconds": 10.0}
    assert results.numbers(runs[0])["kept"] == pytest.approx(0.75)


def test_runs_whose_folders_are_gone_are_kept(tmp_path):
    import json

    results, old = load("scripts/relatives_results.py"), [run("a", 0, [0.1, 0.2])]
    (tmp_path / "relatives.json").write_text(json.dumps(old))
    again = run("a", 0, [0.1, 0.3])
    assert results.with_kept([again, run("b", 0, [0.1, 0.2])], tmp_path / "relatives.json")[0] == again
    assert results.with_kept([], tmp_path / "relatives.json") == old


def test_a_round_is_drawn_by_its_last_evaluation():
    results = load("scripts/relatives_results.py")
    curve = [{"accuracy": accuracy, "tokens": tokens} for accuracy, tokens in ((0.1, 0), (0.2, 5), (0.9, 5), (0.4, 8))]
    assert [look["accuracy"] for look in results.by_round(curve)] == [0.1, 0.9, 0.4]


def test_the_page_says_what_the_kept_results_say():
    results = load("scripts/relatives_results.py")
    runs = results.with_kept([], ROOT / "results/relatives.json")
    page = (ROOT / "docs/relatives.md").read_text(encoding="utf-8").partition("## Compared")[2]
    table = {row.split("|")[1].strip(): row for row in results.rows(runs)}
    assert (ROOT / "results/relatives.md").read_text(encoding="utf-8") == results.table(runs)
    shown = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(shown) == len(table) == 13
    for line in shown:
        name, first, end, gain, tokens, seconds = (cell.strip(" `") for cell in line.strip("|").split("|"))
        cells = [cell.strip() for cell in table[name].split("|")]
        assert [first, end, gain] == [cells[5], cells[6], cells[3]], name
        assert [tokens, seconds] == cells[-3:-1], name


def test_the_evidence_on_rounds_is_that_of_the_results():
    results = load("scripts/relatives_results.py")
    page = " ".join((ROOT / "docs/evidence.md").read_text(encoding="utf-8").split())
    runs, curves, falls = results.with_kept([], ROOT / "results/relatives.json"), {}, {}
    for name in ("best-of-n-sft", "star-plurality", "intuitor"):
        mine = sorted((run for run in runs if run["method"] == name), key=lambda run: run["seed"])
        curves[name] = [[100 * look["accuracy"] for look in results.by_round(run["curve"])] for run in mine]
        fall = t_interval([curve[1] - curve[-1] for curve in curves[name]])
        falls[name] = f"{fall.mean:.0f} points [{fall.low:.0f}, {fall.high:.0f}]"
    first = ", ".join(f"{curve[1]:.0f}" for curve in curves["best-of-n-sft"])
    best = ", ".join(f"{max(curve):.0f}" for curve in curves["intuitor"])
    assert "It reaches 70 % after 8 seconds" in page
    assert f"goes from {curves['intuitor'][0][0]:.0f} to {first} % in one round" in page
    assert f"its best is {best} %" in page
    assert f"best-of-n-sft lose {falls['best-of-n-sft']}" in page
    assert f"which restarts from the base, loses {falls['star-plurality']}" in page
