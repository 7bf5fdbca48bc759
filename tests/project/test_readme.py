"""Holds the numbers of README.md to the kept results."""

from __future__ import annotations

import json
from statistics import fmean

from support.commands import ROOT

from rlif.comparison.summary import RunSummary
from rlif.comparison.summary_file import read_summaries

PAGE = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def ends(runs: list[RunSummary], task: str) -> tuple[float, list[float]]:
    """Returns accuracy in per cent before training, and after it on each seed."""
    looks = [[look["accuracy"]["mean"] for look in run.evaluations[task].values()] for run in runs]
    (start,) = {values[0] for values in looks}
    return 100 * start, sorted(100 * values[-1] for values in looks)


def test_the_numbers_of_the_demo_are_those_of_the_results():
    kept = [run for name in ("demo", "fresh-seeds/demo") for run in read_summaries(ROOT / f"results/{name}.json")[0]]
    of = {method: [run for run in kept if run.method == method] for method in ("demo", "length", "random")}
    assert {run.seed for run in of["demo"]} == set(range(6)) and "[six seeds](results/demo.md) [of six](" in PAGE
    start, after = ends(of["demo"], "clock")
    assert f"rises from {start:.0f} % to {after[0]:.0f} - {after[-1]:.0f} %" in PAGE and after[0] > start
    start, after = ends(of["demo"], "cups")
    assert f"that it never trained on from {start:.0f} % to more than 99 %" in PAGE and after[0] > 99
    length, chance = (fmean(ends(of[name], "clock")[1]) for name in ("length", "random"))
    assert f"a reward for length ends at {length:.0f} %, a random one at {chance:.0f} %" in PAGE


def test_the_numbers_of_choosing_are_those_of_the_results():
    kept = json.loads((ROOT / "results/selection.json").read_text(encoding="utf-8"))["results"]
    (found,) = (each["scaling"] for each in kept if (each["model"], each["task"]) == ("tiny-reasoner", "clock"))
    one, surest, vote = (
        100 * found["accuracy"][rule][found["n"].index(n)]["mean"]
        for rule, n in (("mean@1", 1), ("self_certainty", 8), ("plurality", 8))
    )
    assert f"is right on {one:.0f} % of clock problems, the surest of 8 on {surest:.0f} %, their most frequent" in PAGE
    assert f"answer on {vote:.0f} %" in PAGE
    families = json.loads((ROOT / "results/real-probe.json").read_text(encoding="utf-8"))["families"]
    (steps,) = (family for family in families if family["family"] == "steps")
    shares = [100 * steps[name]["mean"] for name in ("accuracy", "surest", "maj@8")]
    assert f"there it is {shares[0]:.0f}, {shares[1]:.0f}, {shares[2]:.0f} % (n = {steps['surest']['n']}," in PAGE


def test_the_numbers_of_the_real_model_are_those_of_the_results():
    found = json.loads((ROOT / "results/real.json").read_text(encoding="utf-8"))

    def span(family: str, method: str) -> str:
        runs = [run for run in found["runs"] if (run["family"], run["method"]) == (family, method)]
        shares = [100 * run["sampled"]["mean"] for run in runs]
        assert len(shares) == 3
        return f"{min(shares):.0f} - {max(shares):.0f} %"

    words, steps = (f"{100 * found['bases'][family]['accuracy']['mean']:.0f} %" for family in ("story", "steps"))
    assert f"ends at {span('story', 'intuitor')} right samples of sums in words, from {words}," in PAGE
    assert f"and at {span('story', 'random')} on random rewards" in PAGE
    assert f"Sums step by step end at {span('steps', 'intuitor')}, from {steps}; on random" in PAGE
    assert f"on random rewards at {span('steps', 'random')} (three seeds)" in PAGE
    cooler = [found["bases"][family]["cooler"]["0.5"]["accuracy"]["mean"] for family in ("story", "steps")]
    trained = [
        fmean(r["sampled"]["mean"] for r in found["runs"] if (r["family"], r["method"]) == (family, "intuitor"))
        for family in ("story", "steps")
    ]
    assert "A temperature of 0.5 gives about as much without training" in PAGE
    assert all(a >= b for a, b in zip(cooler, trained, strict=True))
