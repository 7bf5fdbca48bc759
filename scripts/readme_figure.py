"""Draws the README's figure from the runs of the demo and its controls that results/demo.json keeps.

python scripts/readme_figure.py results/demo.json docs/demo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
from refusals import call

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
PANELS = (  # task, title, what is read from an evaluation, upper end of the axis
    ("clock", "held-out accuracy, trained on", lambda look: look["accuracy"]["mean"], 1.02),
    ("cups", "held-out accuracy, never trained on", lambda look: look["accuracy"]["mean"], 1.02),
    ("clock", "tokens per completion", lambda look: look["completion_length"], None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    runs = read_summaries(args.results)[0]

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axis, (task, title, read, top) in zip(axes, PANELS, strict=True):
        for method, (colour, label) in METHODS.items():
            for number, run in enumerate(run for run in runs if run.method == method):
                looks = run.evaluations[task]
                values = [read(look) for look in looks.values()]
                axis.plot([*looks], values, color=colour, label=None if number else label, linewidth=1.6, alpha=0.8)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step")
        axis.set_xticks([*runs[0].evaluations[task]])
        axis.set_ylim(0, top)
        if top is not None:
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    handles, labels = axes[0].get_legend_handles_labels()
    where = "outside lower center"
    figure.legend(handles[::-1], labels[::-1], title="reward", loc=where, ncols=4, frameon=False)
    args.figure.parent.mkdir(exist_ok=True)
    figure.savefig(args.figure, dpi=160)


if __name__ == "__main__":
    call(main)
