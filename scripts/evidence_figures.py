"""Draws the figures of docs/evidence.md from the kept results. Writes docs/evidence-FIGURE.png.

python scripts/evidence_figures.py

bases    what each reward teaches on four bases: the gain of held-out accuracy, with Student's 95 % interval over
         seeds; a small point is a seed
cures    on tiny-equal: what each cure keeps at ten times the steps to the peak, and held-out accuracy for twenty
         times; a point or a line is a seed; green points read gold answers
floor    held-out accuracy of self-certainty for 350 steps, by normalisation; a line is a seed
real     SmolLM2-135M trained by several rewards: accuracy of samples on held-out problems, before (line) and after;
         a point is a seed, with its 95 % interval over problems
probe    before any training of SmolLM2-135M-Instruct: how often a right sample has more of a signal than a wrong one
lasting  SmolLM2-135M trained for 40 updates: greedy accuracy, a panel for each learning rate; a line is a seed
keys     the same: where each key against collapse ends; a point is a seed, its colour the learning rate
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import cures_results
import matplotlib
from refusals import call

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from studies import CORE, KL

from rlif.comparison.leaderboard import Board, read_boards
from rlif.comparison.outcomes import run_outcome
from rlif.intervals import Interval

BASES = ("miniature", "wrong-and-sure", "tiny-short", "tiny-equal")
ABOUT = {
    "tiny-reasoner": "right habit: long, sure",
    "wrong-and-sure-base": "right habit: long, not sure",
    "tiny-short": "right habit: short, sure",
    "tiny-equal": "right habit: as long, sure",
}
NAMES = {"intuitor": "self-certainty", "grpo-gold": "gold", "grpo-pv": "plurality vote"}
CONFIDENCE = ("intuitor", "likelihood")
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"  # Okabe and Ito's
FORMS = {"group_std": ("the paper's form", ORANGE), "group_std_floor": ("with a floor", BLUE)}
GOLD = ("gold", "alternate-gold")  # cures that read gold answers
KEPT = {
    "cosine": ("self-certainty, falling rate (the paper's)", ORANGE),
    "floor-cosine": ("self-certainty, floor, falling rate", GREY),
    "likelihood-floor-cosine": ("likelihood, floor, falling rate", BLUE),
}
LASTING = {  # rows of cures-real, without their rates
    "paper": ("self-certainty, the paper's form", ORANGE),
    "floor": ("floor", "#E69F00"),
    "kl-cov-0.1": ("KL-Cov", "#CC79A7"),
    "floor-cosine": ("floor, falling rate", BLUE),
    "likelihood-floor-cosine": ("likelihood, floor, falling rate", "#56B4E9"),
    "random": ("random numbers", GREY),
    "gold": ("gold answers", GREEN),
}
RATES = {"1e-3": "", "3e-4": "-3e-4", "1e-4": "-1e-4"}  # how the rows of a rate end
PROBED = {"self_certainty": BLUE, "mean_token_confidence": ORANGE, "shortness": GREY}


def read_bases(results: Path) -> list[Board]:
    """Reads the boards of the four miniature bases, without the runs of other KL weights."""
    return read_boards([results / f"{name}.json" for name in BASES], [*KL])


def bases(results: Path, file: Path) -> None:
    """Draws a panel for each base, with a line per reward."""
    boards = read_bases(results)
    figure, axes = plt.subplots(1, len(boards), figsize=(10, 3), layout="constrained", sharey=True)
    for axis, board in zip(axes, boards, strict=True):
        base(axis, board)
    figure.supxlabel("gain of held-out accuracy, points", fontsize=9)
    figure.savefig(file, dpi=160)


def base(axis: Axes, board: Board) -> None:
    """Draws one base, the first reward on top."""
    gains = {standing.method: standing.gain for standing in board.standings}
    order = [method for method in reversed(CORE) if method in gains and gains[method].mean is not None]
    for place, method in enumerate(order):
        gain, colour = gains[method], BLUE if method in CONFIDENCE else GREY
        if gain.low is not None and gain.high is not None:
            ends = [100 * gain.low, 100 * gain.high]
            axis.plot(ends, [place, place], color=colour, linewidth=1.4)
        axis.plot(100 * (gain.mean or 0), place, "o", color=colour, markersize=6)
        found = [run_outcome(run, board.task) for run in board.runs if run.method == method]
        seeds = [100 * (o.end.mean - o.start.mean) for o in found if o.counts and o.end and o.start]
        axis.plot(seeds, [place + 0.25] * len(seeds), ".", color=colour, markersize=3, alpha=0.7)
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set_title(f"{board.base}\n{ABOUT[board.base]}", loc="left", fontsize=9)
    axis.set_xlim(-25, 102)
    axis.set_yticks(range(len(order)), [NAMES.get(method, method) for method in order])


def floor(results: Path, file: Path) -> None:
    """Draws the long runs of self-certainty."""
    runs = json.loads((results / "floor-long.json").read_text(encoding="utf-8"))
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    for run in (run for run in runs if run["signal"] == "self_certainty"):
        name, colour = FORMS[run["form"]]
        steps = sorted(map(int, run["curve"]))
        label = name if run["seed"] == 0 else None
        axis.plot(steps, [100 * run["curve"][str(s)]["mean"] for s in steps], color=colour, label=label, linewidth=1.2)
    axis.set(xlabel="step", ylabel="held-out accuracy, %", ylim=(0, 102))
    axis.legend(frameon=False)
    figure.savefig(file, dpi=160)


def cures(results: Path, file: Path) -> None:
    """Draws what each cure keeps after 100 steps, and accuracy over 200 steps of three recipes with a falling rate."""
    runs = cures_results.kept_runs(results / "cures.json")
    if not runs:
        raise SystemExit(f"{results}/cures.json holds no runs: run cures_results.py first")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    single = [run for run in runs if run["study"] == "cures"]
    rows = [*reversed(cures_results.by_share(single))]
    for run in single:
        place, colour = rows.index(run["row"]), GREEN if run["row"] in GOLD else BLUE
        left.plot(100 * cures_results.kept(run), place, "o", color=colour, markersize=4, alpha=0.7)
    left.axvline(100 * cures_results.HELD, color="grey", linewidth=0.8)
    left.set_yticks(range(len(rows)), rows)
    left.set(xlabel="accuracy after 100 steps, or at the stop, as a share of the best, %", xlim=(0, 102))
    for row, (name, colour) in KEPT.items():
        curves = [run["curve"] for run in runs if (run["study"], run["row"]) == ("cures-long", row)]
        for number, curve in enumerate(curves):
            label = None if number else f"{name}: {len(curves)} seeds"
            steps = sorted(curve)
            right.plot(
                steps, [100 * curve[step] for step in steps], color=colour, label=label, linewidth=1.2, alpha=0.8
            )
    right.set(xlabel="step", ylabel="held-out accuracy, %", ylim=(0, 102))
    right.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=160)


def probe(results: Path, file: Path) -> None:
    """Draws how well signals tell right from wrong samples of each family, the most accurate family on top."""
    families = json.loads((results / "real-probe.json").read_text(encoding="utf-8"))["families"]
    families = sorted((f for f in families if f["auroc"]["self_certainty"]), key=lambda f: f["accuracy"]["mean"])
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.26 * len(families)), layout="constrained")
    for number, (signal, colour) in enumerate(PROBED.items()):
        for place, family in enumerate(families):
            found, height = Interval.read(family["auroc"][signal]), place + 0.22 * (1 - number)
            if found is None or found.mean is None:
                continue
            label = signal if place == 0 else None
            axis.plot(found.mean, height, "o", color=colour, markersize=4, label=label)
            if found.low is not None and found.high is not None:
                axis.plot([found.low, found.high], [height, height], color=colour, linewidth=1)
    axis.axvline(0.5, color="grey", linewidth=0.8)
    names = [f"{family['family']} ({family['accuracy']['mean']:.0%})" for family in families]
    axis.set_yticks(range(len(families)), names)
    axis.set(xlabel="P(a right sample has more of the signal than a wrong one)", xlim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, dpi=160)


def real(results: Path, file: Path) -> None:
    """Draws the accuracy of samples of the real model after training on each reward, one family beside the other."""
    found = json.loads((results / "real.json").read_text(encoding="utf-8"))
    figure, axes = plt.subplots(
        1, len(found["bases"]), figsize=(9, 2.8), layout="constrained", squeeze=False, sharey=True
    )
    order = [method for method in reversed(CORE) if any(run["method"] == method for run in found["runs"])]
    for axis, (family, before) in zip(axes[0], found["bases"].items(), strict=True):
        runs = [run for run in found["runs"] if run["family"] == family]
        for run in runs:
            share = run["sampled"]
            height = order.index(run["method"]) - 0.2 * (run["seed"] - 1)
            colour = BLUE if run["method"] in CONFIDENCE else GREY
            axis.plot(100 * share["mean"], height, "o", color=colour, markersize=4)
            axis.plot([100 * share["low"], 100 * share["high"]], [height, height], color=colour, linewidth=1)
        axis.axvline(100 * before["accuracy"]["mean"], color=ORANGE, linewidth=1)
        axis.set_title(f"{family}\nbefore training {before['accuracy']['mean']:.0%}", loc="left", fontsize=9)
        axis.set_yticks(range(len(order)), [NAMES.get(method, method) for method in order])
        axis.set_xlim(0, 100)
    figure.supxlabel("right samples of held-out problems, %", fontsize=9)
    figure.savefig(file, dpi=160)


def real_cures(results: Path) -> list[dict[str, Any]]:
    """Reads the kept runs of the cures on the real model."""
    runs = [run for run in cures_results.kept_runs(results / "cures.json") if run["study"] == "cures-real"]
    if not runs:
        raise SystemExit(f"{results}/cures.json holds no runs of SmolLM2: run cures_results.py first")
    return runs


def lasting(results: Path, file: Path) -> None:
    """Draws greedy accuracy of the real model over 40 updates, a panel for each learning rate."""
    runs = real_cures(results)
    figure, axes = plt.subplots(1, len(RATES), figsize=(9, 3.4), layout="constrained", sharey=True)
    for axis, (rate, ending) in zip(axes, RATES.items(), strict=True):
        for row, (name, colour) in LASTING.items():
            for run in (run for run in runs if run["row"] == row + ending):
                steps = sorted(run["curve"])
                shares = [100 * run["curve"][step] for step in steps]
                axis.plot(steps, shares, ".-", color=colour, label=name, linewidth=1.2, alpha=0.8)
        axis.set_title(f"rate {rate}", loc="left", fontsize=9)
        axis.set(xlabel="update", xlim=(-1, 41), ylim=(0, 102))
    axes[0].set_ylabel("greedy accuracy, held out, %")
    names = {name: line for axis in axes for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(names.values(), names, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, dpi=160)


def keys(results: Path, file: Path) -> None:
    """Draws where each key ends on the real model, the highest mean at the largest rate on top."""
    runs = real_cures(results)
    rows: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        ending = "".join(cures_results.RATE.findall(run["row"]))
        of = rows.setdefault(run["row"].removesuffix(ending), {})
        of.setdefault(ending, []).append(100 * cures_results.end(run))
    order = sorted((row for row in rows if "" in rows[row]), key=lambda row: fmean(rows[row][""]))
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.24 * len(order)), layout="constrained")
    for (rate, ending), colour, lift in zip(RATES.items(), (ORANGE, BLUE, GREY), (0, 0.2, -0.2), strict=True):
        for place, row in enumerate(order):
            for seed, share in enumerate(rows[row].get(ending, [])):  # equal seeds stay apart
                axis.plot(share, place + lift + 0.1 * seed, "o", color=colour, markersize=4, alpha=0.8)
        axis.plot([], [], "o", color=colour, markersize=4, label=f"rate {rate}")
    axis.axvline(100 * runs[0]["curve"][0], color="grey", linewidth=0.8)
    about = dict.fromkeys(GOLD, " (reads gold)") | {"random": " (control)"}
    axis.set_yticks(range(len(order)), [row + about.get(row, "") for row in order])
    axis.set(xlabel="greedy accuracy after 40 updates, or at the stop, %; line: before", xlim=(-2, 102))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, dpi=160)


FIGURES = {
    "bases": bases, "cures": cures, "floor": floor, "probe": probe, "real": real, "lasting": lasting, "keys": keys
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    if unknown := [name for name in args.figures if name not in FIGURES]:
        parser.error(f"no figure is called {unknown[0]!r}; there are {', '.join(FIGURES)}")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for name in args.figures or FIGURES:
        FIGURES[name](args.results, args.out / f"evidence-{name}.png")


if __name__ == "__main__":
    call(main)
