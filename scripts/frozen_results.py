"""Compares an online with a frozen annotator on SmolLM2. Writes `frozen.json`, `.md` and `.png` in `results`.

    python scripts/frozen_base.py draw; python scripts/frozen_base.py teach; python scripts/frozen_base.py measure
    python scripts/studies.py frozen
    python scripts/frozen_results.py

Reads the run folders of the study. For runs whose folders are gone, it reads `results/frozen.json`. Of each run:

    goes on     share of an update's completions that open a next problem after their answer, by the guard's rule
    tokens      mean length of an update's completions
    nats        mean self-certainty of a token by the annotator, which is the reward
    accuracy    greedy, on 32 held-out problems, with Wilson's interval; a next problem changes the answer
    alarm       the first update at which the guard says that completions go on
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from plain_story import PlainStory

from rlif.comparison.summary import portable_environment, rounded
from rlif.files.atomic import replace_file
from rlif.intervals import Interval
from rlif.reporting.analysis import accuracies
from rlif.runs.folder import Run

LOGGED = {"goes_on": "goes on", "completion_length": "tokens", "reward": "nats"}
COLOURS = {"online": "#0072B2", "offline": "#D55E00"}  # Okabe and Ito's


def digest(path: Path) -> dict[str, Any]:
    """Reads what the results keep of a run."""
    run = Run.open(path)
    metrics = run.metrics()
    shares = accuracies(run.evaluations()[PlainStory.name])
    alarms = [row["step"] for row in run.rows("alarms.jsonl") if row["sign"] == "goes_on"]
    return rounded(
        {
            "annotator": path.name.rpartition("-seed")[0],
            "seed": run.recipe().seed,
            "accuracy": {str(step): share.as_dict() for step, share in shares.items()},
            **{name: [row[name] for row in metrics] for name in LOGGED},
            "alarm": min(alarms, default=None),
            "environment": portable_environment(run.environment()),
        }
    )


def joined(*parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins runs; of two with the same annotator and seed the later stays."""
    of = {(run["annotator"], run["seed"]): run for part in parts for run in part}
    return [of[key] for key in sorted(of, reverse=True)]


def line(run: dict[str, Any]) -> str:
    """Writes the line of one run: the first and the last update, and accuracy at each evaluation."""
    cells = [
        run["annotator"],
        str(run["seed"]),
        f"{run['goes_on'][0]:.0%} -> {run['goes_on'][-1]:.0%}",
        f"{run['completion_length'][0]:.0f} -> {run['completion_length'][-1]:.0f}",
        f"{run['reward'][0]:.2f} -> {run['reward'][-1]:.2f}",
        ", ".join(f"{step}: {Interval.read(share)}" for step, share in run["accuracy"].items()),
        "-" if run["alarm"] is None else str(run["alarm"]),
    ]
    return f"| {' | '.join(cells)} |"


def page(runs: Sequence[dict[str, Any]]) -> str:
    """Writes the page."""
    heads = ("annotator", "seed", *LOGGED.values(), "accuracy by update", "alarm")
    return "\n".join(
        [
            "# An online against a frozen annotator, SmolLM2-135M",
            "",
            "    python scripts/studies.py frozen; python scripts/frozen_results.py",
            "",
            "Sums in words as plain text, 32 completions of at most 64 tokens in an update; scripts/frozen.yaml has the"
            " settings, scripts/frozen_base.py the base. First and last update. The script explains the columns.",
            "",
            f"| {' | '.join(heads)} |",
            "|---" * len(heads) + "|",
            *map(line, runs),
            "",
        ]
    )


def draw(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Draws the share that goes on, length and accuracy by update; a line is a seed."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    for run in runs:
        style = {"color": COLOURS[run["annotator"]], "linewidth": 1.2}
        updates = range(1, len(run["goes_on"]) + 1)
        first = next(each for each in runs if each["annotator"] == run["annotator"]) is run
        axes[0].plot(updates, [100 * share for share in run["goes_on"]], label=run["annotator"] * first, **style)
        axes[1].plot(updates, run["completion_length"], **style)
        shares = [100 * share["mean"] for share in run["accuracy"].values()]
        axes[2].plot([*map(int, run["accuracy"])], shares, **style)
    for axis, name in zip(axes, ("goes on after the answer, %", "tokens", "held-out accuracy, %"), strict=True):
        axis.set(xlabel="update", ylabel=name, ylim=(0, None if name == "tokens" else 102))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, dpi=160)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the studies")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    file = args.out / "frozen.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    runs = joined(kept, map(digest, [path.parent for path in sorted((args.runs / "frozen").glob("*/summary.json"))]))
    if not runs:
        parser.error(f"no finished run under {args.runs} and none in {file}: run studies.py frozen first")
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(runs) + "\n")
    replace_file(file.with_suffix(".md"), page(runs))
    draw(runs, file.with_suffix(".png"))
    print(page(runs))


if __name__ == "__main__":
    main()
