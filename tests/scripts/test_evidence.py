"""Holds docs/evidence.md, and the log's table of bases, to the kept results; draws the figures."""

from __future__ import annotations

import json
import re
from statistics import fmean

import pytest
from support.commands import ROOT
from support.scripts import load

from rlif.comparison.leaderboard import Board, read_boards
from rlif.comparison.outcomes import run_outcome
from rlif.intervals import Interval, proportion, t_interval

PAGE = " ".join((ROOT / "docs/evidence.md").read_text(encoding="utf-8").split())
LOG = (ROOT / "docs/log.md").read_text(encoding="utf-8")
NAMES = {"self-certainty": "intuitor", "gold": "grpo-gold", "plurality vote": "grpo-pv"}


@pytest.fixture(scope="module")
def boards() -> dict[str, Board]:
    figures = load("scripts/evidence_figures.py")
    files = [ROOT / f"results/{name}.json" for name in figures.BASES]
    return {board.base: board for board in read_boards(files, ["intuitor-beta-0", "intuitor-beta-0.005"])}


def gains(board: Board, method: str) -> dict[int, float]:
    found = {run.seed: run_outcome(run, board.task) for run in board.runs if run.method == method}
    return {seed: o.end.mean - o.start.mean for seed, o in found.items()}


def points(found: Interval) -> str:
    """Writes a gain as the page does: whole points and their bounds."""
    return f"{100 * found.mean:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]".replace("[", "points [", 1)


def bounds(found: Interval) -> str:
    return points(found).replace("points ", "")


def test_the_gains_of_the_page_are_those_of_the_results(boards):
    sure = ("tiny-reasoner", "tiny-short", "tiny-equal")
    own = [t_interval([*gains(boards[base], "intuitor").values()]).within(-1, 1) for base in sure]
    assert f"by {points(own[0])}, {bounds(own[1])} and {bounds(own[2])}" in PAGE
    gold = [t_interval([*gains(boards[base], "grpo-gold").values()]).mean for base in sure]
    assert f"with gold answers by {100 * min(gold):.0f} to {100 * max(gold):.0f}" in PAGE
    unsure = boards["wrong-and-sure-base"]
    assert f"Gold gains {points(t_interval([*gains(unsure, 'grpo-gold').values()]).within(-1, 1))}" in PAGE
    internal = {s.method for s in unsure.standings} - {"grpo-gold", "seed-grpo", "length"}
    assert all(set(gains(unsure, method).values()) == {0.0} for method in internal)


def test_the_differences_to_length_and_the_gains_of_format_are_those_of_the_results(boards):
    apart = {}
    for base in ("tiny-reasoner", "tiny-short", "tiny-equal"):
        own, length = (gains(boards[base], method) for method in ("intuitor", "length"))
        apart[base] = t_interval([own[seed] - length[seed] for seed in sorted(own)]).within(-1, 1)
    low, high = (100 * bound for bound in (apart["tiny-reasoner"].low, apart["tiny-reasoner"].high))
    assert f"{100 * apart['tiny-reasoner'].mean:.0f} points less [{-high:.0f}, {-low:+.0f}]" in PAGE
    for base in ("tiny-short", "tiny-equal"):
        mean, both = bounds(apart[base]).split(" ", 1)
        assert re.search(rf"{mean} (points )?more (than length )?{re.escape(both)}", PAGE), base
    shown = [
        t_interval([*gains(boards[base], "format").values()]).within(-1, 1) for base in ("tiny-short", "tiny-equal")
    ]
    assert f"does, too: {points(shown[0])} and {bounds(shown[1])}" in PAGE


def test_the_logs_table_of_bases_is_that_of_the_results(boards):
    table = LOG.partition("| reward | tiny-short | tiny-equal |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) == 8
    for name, *cells in rows:
        for base, cell in zip(("tiny-short", "tiny-equal"), cells, strict=True):
            values = gains(boards[base], NAMES.get(name, name))
            found = t_interval([*values.values()]).within(-1, 1)
            if "0 % on three seeds" in cell:
                assert len(set(values.values())) == 1 and cell.startswith(f"{100 * found.mean:+.1f}"), (name, base)
            else:
                assert cell == found.percent("+"), (name, base)


def test_the_numbers_of_the_floor_are_those_of_the_results():
    runs = json.loads((ROOT / "results/floor-long.json").read_text(encoding="utf-8"))
    curves = {
        form: [
            {int(step): 100 * look["mean"] for step, look in run["curve"].items()}
            for run in runs
            if (run["signal"], run["form"]) == ("self_certainty", form)
        ]
        for form in ("group_std", "group_std_floor")
    }
    held = [curve[200] for curve in curves["group_std_floor"]]
    assert f"all five are at {min(held):.0f} to {max(held):.0f} % at step 200" in PAGE
    falls = sorted(curve[200] - curve[350] for curve in curves["group_std_floor"])
    assert f"two of five fall by {falls[-2]:.0f} and {falls[-1]:.0f} points" in PAGE and falls[-3] < 6
    assert all(curve[200] < 0.7 * max(curve.values()) for curve in curves["group_std"])


def test_the_counts_of_the_limit_on_kl_are_those_of_the_results():
    rows = json.loads((ROOT / "results/guard-relative.json").read_text(encoding="utf-8"))["limits"]
    (row,) = [row for row in rows if (row["reading"], row["limit"]) == ("nats", 0.045)]
    for a, b, words in (
        ("false_stops", "kept", "stops {} of {} runs that kept their accuracy ({})"),
        ("hits", "lost", "finds {} of {} that lost it ({})"),
    ):
        share = proportion(row[a], row[b])
        said = f"{100 * share.mean:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
        assert words.format(row[a], row[b], said) in PAGE


def test_the_figures_are_drawn(tmp_path):
    figures = load("scripts/evidence_figures.py")
    for name, draw in figures.FIGURES.items():
        draw(ROOT / "results", tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_the_numbers_of_the_probe_are_those_of_the_results():
    probe = load("scripts/real_probe.py")
    families = json.loads((ROOT / "results/real-probe.json").read_text(encoding="utf-8"))["families"]
    of = {family["family"]: family for family in families}

    def percent(found: dict) -> str:
        return f"{100 * found['mean']:.0f} % [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"

    def split(found: dict) -> tuple[str, str]:
        return f"{100 * found['mean']:.0f} %", f"[{100 * found['low']:.0f}, {100 * found['high']:.0f}]"

    share, both = split(of["steps"]["accuracy"])
    assert f"On sums step by step {share} of the samples are right {both}" in PAGE
    assert f"has more self-certainty in {percent(of['steps']['auroc']['self_certainty'])}" in PAGE
    (surest, first), (most, second) = split(of["steps"]["surest"]), split(of["steps"]["maj@8"])
    assert f"is right on {surest} of the problems {first}, the most frequent answer on {most} {second}" in PAGE
    assert f"the surer one in {percent(of['yes_no']['auroc']['self_certainty'])}" in PAGE
    assert f"is right on {percent(of['yes_no']['surest'])}, one sample on {percent(of['yes_no']['accuracy'])}" in PAGE
    own, other = (probe.over_families(families, name).within(0, 1) for name in ("self_certainty", "likelihood"))
    assert f"AUROC is {own.mean:.2f} [{own.low:.2f}, {own.high:.2f}] for self-certainty and {other.mean:.2f}" in PAGE
    correlation, count = probe.pull_and_auroc(families, "self_certainty")
    assert f"families is {correlation:+.2f} (n = {count})" in PAGE
    alone = json.loads((ROOT / "results/real-probe-alone.json").read_text(encoding="utf-8"))["families"]
    before, number = probe.pull_and_auroc(alone, "self_certainty")
    assert f"it was {before:+.2f} (n = {number})" in PAGE


def real_runs(found: dict, family: str) -> dict[str, dict[int, dict]]:
    """Gives the runs of one family by method, then by seed."""
    of: dict[str, dict[int, dict]] = {}
    for run in found["runs"]:
        if run["family"] == family:
            of.setdefault(run["method"], {})[run["seed"]] = run
    return of


def test_the_numbers_of_the_real_model_are_those_of_the_results():
    found = json.loads((ROOT / "results/real.json").read_text(encoding="utf-8"))
    table = PAGE.partition("| held-out problems | ")[2].partition(" | |---")[0]
    columns = [name.strip() for name in table.split("|")]
    assert columns == ["before", "self-certainty", "random", "length", "gold"]
    assert {run["method"] for run in found["runs"]} >= {NAMES.get(name, name) for name in columns[1:]}
    for family, words in (("steps", "sums step by step"), ("story", "sums in words")):
        base, of = found["bases"][family], real_runs(found, family)
        before = base["accuracy"]
        cells = [f"{100 * before['mean']:.0f} % [{100 * before['low']:.0f}, {100 * before['high']:.0f}]"]
        for name in columns[1:]:
            by_seed = of[NAMES.get(name, name)]
            assert sorted(by_seed) == [0, 1, 2], (family, name)
            cells.append(", ".join(f"{100 * by_seed[seed]['sampled']['mean']:.0f}" for seed in range(3)) + " %")
        assert f"| {words} | {' | '.join(cells)} |" in PAGE, " | ".join(cells)
        ends = {name: {seed: run["sampled"]["mean"] for seed, run in of[name].items()} for name in of}
        gained = [ends["intuitor"][seed] - before["mean"] for seed in range(3)]
        apart = {"the start": gained} | {
            said: [ends["intuitor"][seed] - ends[other][seed] for seed in range(3)]
            for other, said in (("random", "random"), ("length", "length"), ("grpo-gold", "gold"))
        }
        for said, values in apart.items():
            told = points(t_interval(values).within(-1, 1))
            assert re.search(rf"minus {said}\*?: [^;.]*{re.escape(told)} on {words}", PAGE), (family, said, told)


def test_what_the_page_says_the_real_model_loses_and_keeps_is_that_of_the_results():
    found = json.loads((ROOT / "results/real.json").read_text(encoding="utf-8"))
    for family, words in (("steps", "sums step by step"), ("story", "sums in words")):
        own = real_runs(found, family)["intuitor"].values()
        passed = fmean(run["pass@8"]["mean"] for run in own)
        looks = [[share["mean"] for share in run[name].values()] for name in ("greedy", "kept") for run in own]
        greedy, kept = looks[: len(own)], looks[len(own) :]
        before = found["bases"][family]["pass@k"]["8"]["mean"]
        changes = [(before, passed), *((fmean(v[0] for v in of), fmean(v[-1] for v in of)) for of in (greedy, kept))]
        for (start, end), said in zip(changes, (words, words, f"after training on {words}"), strict=True):
            assert f"from {100 * start:.0f} to {100 * end:.0f} % {said if said != words else f'on {words}'}" in PAGE
    falls = [
        100 * (found["bases"][run["family"]]["accuracy"]["mean"] - run["sampled"]["mean"])
        for run in found["runs"]
        if run["method"] == "random"
    ]
    assert len(falls) == 6 and f"takes {min(falls):.0f} to {max(falls):.0f} points of the base away" in PAGE
    (run,) = (r for r in found["runs"] if (r["family"], r["method"], r["seed"]) == ("steps", "intuitor", 1))
    right = [100 * share for share in run["accuracy"]]
    assert f"from {right[0]:.0f} to {max(right):.0f} % right at the fifth update and back to {right[-1]:.0f} %" in PAGE
    assert right[4] == max(right)
    first, last = run["self_certainty"][0], run["self_certainty"][-1]
    assert f"from {first:.1f} to {last:.1f} nats" in PAGE


def test_the_criteria_of_the_page_are_those_of_the_results():
    found = json.loads((ROOT / "results/real.json").read_text(encoding="utf-8"))
    rows = load("scripts/real_results.py").criteria(found)
    for family, words in (("steps", "sums step by step"), ("story", "sums in words")):
        mine = [row for row in rows if row["family"] == family]
        held = sum(row["holds"] for row in mine)
        assert f"{held} of {len(mine)} on {words}" in PAGE, (family, held, len(mine))
