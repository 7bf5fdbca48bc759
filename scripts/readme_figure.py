"""Draws the README's figure from the runs of the demo and its controls that results/demo.json keeps.

python scripts/readme_figure.py results/demo.json docs/demo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from rlif.comparison.summary_file import read_summaries

# Okabe and Ito's colours, told apart by colour-blind readers; gold is drawn first, below the others.
METHODS = {
    "gold": ("#E69F00", "gold answers"),
    "random": ("#999999", "random"),
    "length": ("#D55E00", "length"),
    "demo": ("#0072B2", "self-certainty"),
}
PANELS = {
    ("clock", "mean"): "held-out accuracy, trained on",
    ("cups", "mean"): "held-out accuracy, never trained on",
    ("clock", "completion_length"): "tokens per completion",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    runs = read_summaries(args.results)[0]

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axis, ((task, key), title) in zip(axes, PANELS.items(), strict=True):
        for method, (colour, label) in METHODS.items():
            for number, run in enumerate(run for run in runs if run.method == method):
                looks = run.evaluations[task]
                values = [look.get(key, look["accuracy"].get(key)) for look in looks.values()]
                axis.plot([*looks], values, color=colour, label=None if number else label, linewidth=1.6, alpha=0.8)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step")
        axis.set_xticks([*runs[0].evaluations[task]])
        axis.set_ylim(bottom=0)
        if key == "mean":
            axis.set_ylim(0, 1.02)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    handles, labels = axes[0].get_legend_handles_labels()
    legend = {"handles": handles[::-1], "labels": labels[::-1], "title": "reward"}
    figure.legend(**legend, loc="outside lower center", ncols=4, frameon=False)
    args.figure.parent.mkdir(exist_ok=True)
    figure.savefig(args.figure, dpi=160)


if __name__ == "__main__":
    main()
