"""Draws the README's figure from the runs of demo that results/demo.json keeps.

python scripts/readme_figure.py results/demo.json docs/demo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from rlif.comparison.summary_file import read_summaries

# Okabe and Ito's colours, told apart by colour-blind readers.
TASKS = {"clock": ("#0072B2", "clock (trained on)"), "cups": ("#D55E00", "cups (never trained on)")}
PANELS = {
    "mean": "held-out accuracy, greedy",
    "completion_length": "tokens per completion",
    "self_certainty": "self-certainty, nats",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    runs = [run for run in read_summaries(args.results)[0] if run.method == "demo"]

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        for task, (colour, label) in TASKS.items():
            for number, run in enumerate(runs):
                looks = run.evaluations[task]
                shares = [look["accuracy"] for look in looks.values()]
                steps, values = list(looks), [look.get(key, look["accuracy"].get(key)) for look in looks.values()]
                axis.plot(steps, values, color=colour, label=None if number else label, linewidth=1.6, alpha=0.8)
                if key == "mean":
                    low, high = [share["low"] for share in shares], [share["high"] for share in shares]
                    axis.fill_between(steps, low, high, color=colour, alpha=0.08, linewidth=0)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0 if key != "self_certainty" else None)
    axes[0].set_ylim(0, 1.02)
    axes[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    args.figure.parent.mkdir(exist_ok=True)
    figure.savefig(args.figure, dpi=160)


if __name__ == "__main__":
    main()
