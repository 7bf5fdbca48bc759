"""Draws what each reward teaches on the four bases, from files of `rlif compare --out`.

    python scripts/bases_figure.py results/miniature.json results/wrong-and-sure.json results/tiny-short.json \
        results/tiny-equal.json docs/bases.png

A point is the gain of held-out accuracy, with Student's 95 % interval over seeds. A small point is a seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from studies import CORE

from rlif.comparison.leaderboard import Board, read_boards
from rlif.comparison.outcomes import run_outcome

NAMES = {"intuitor": "self-certainty", "grpo-gold": "gold", "grpo-pv": "plurality vote"}
OURS = ("intuitor", "likelihood")  # signals of confidence
ABOUT = {
    "tiny-reasoner": "right habit: long, sure",
    "wrong-and-sure-base": "right habit: long, not sure",
    "tiny-short": "right habit: short, sure",
    "tiny-equal": "right habit: as long, sure",
}


def draw(axis: plt.Axes, board: Board) -> None:
    """Draws one base: a line per reward, the first one on top."""
    of = {standing.method: standing for standing in board.standings}
    for place, method in enumerate(reversed(CORE)):
        if method not in of:
            continue
        gain, colour = of[method].gain, "#0072B2" if method in OURS else "#555555"
        if gain.mean is None:
            continue
        if gain.low is not None and gain.high is not None:
            low, high = max(-1.0, gain.low), min(1.0, gain.high)
            axis.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.4)
        axis.plot(100 * gain.mean, place, "o", color=colour, markersize=6)
        found = [run_outcome(run, board.task) for run in board.runs if run.method == method]
        seeds = [100 * (o.end.mean - o.start.mean) for o in found if o.counts and o.end and o.start]
        axis.plot(seeds, [place + 0.25] * len(seeds), ".", color=colour, markersize=3, alpha=0.7)
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set_title(f"{board.base}\n{ABOUT.get(board.base, '')}", loc="left", fontsize=9)
    axis.set_xlim(-25, 102)
    axis.set_yticks(range(len(CORE)), [NAMES.get(method, method) for method in reversed(CORE)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="tables of rlif compare, a file per base")
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    boards = read_boards(args.results, ["intuitor-beta-0", "intuitor-beta-0.005"])
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, len(boards), figsize=(10, 3), layout="constrained", sharey=True, squeeze=False)
    for axis, board in zip(axes[0], boards, strict=True):
        draw(axis, board)
    figure.supxlabel("gain of held-out accuracy, points", fontsize=9)
    figure.savefig(args.figure, dpi=160)


if __name__ == "__main__":
    main()
