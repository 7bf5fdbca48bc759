"""Compares online with frozen annotators on bases that can go on. Writes `frozen.json`, `.md`, `.png` in `results`.

    python scripts/pretrain_reasoner.py --from rlif/models/tiny-equal --writers goes-on \
        --steps 600 --batch 64 --lr 5e-4 --out runs/goes-on-base
    python scripts/studies.py frozen-miniature
    python scripts/studies.py frozen-slow
    python scripts/frozen_results.py

`studies.py frozen` does the same on SmolLM2, on the base of frozen_base.py. Reads the run folders of these studies. For
runs whose folders are gone, it reads `results/frozen.json`. Of each run:

    goes on     share of an update's completions that open a next problem after their answer, by the guard's rule
    tokens      mean length of an update's completions
    nats        mean self-certainty of a token by the annotator, which is the reward
    accuracy    greedy, on held-out problems, in per cent at each evaluation; a next solution changes the answer
    alarm       the first update at which the guard, as it ships, says that completions go on, and accuracy at the
                last evaluation until then
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from refusals import call

from rlif.comparison.summary import portable_environment, rounded
from rlif.files.atomic import replace_file
from rlif.guard.limits import Guard
from rlif.guard.monitor import replay
from rlif.intervals import proportion
from rlif.reporting.analysis import accuracies
from rlif.runs.folder import Run

STUDIES = ("frozen-miniature", "frozen-slow", "frozen")
LOGGED = {"goes_on": "goes on", "completion_length": "tokens", "reward": "nats"}
NAMES = {"online": "online", "offline": "frozen"}
COLOURS = {"online": "#0072B2", "offline": "#D55E00"}  # Okabe and Ito's


def digest(path: Path) -> dict[str, Any]:
    """Reads what the results keep of a run."""
    run = Run.open(path)
    recipe, metrics = run.recipe(), run.metrics()
    (evaluations,) = run.evaluations().values()
    return rounded(
        {
            "base": Path(recipe.model).name,
            "rate": recipe.resolved_training["learning_rate"],
            "annotator": recipe.annotator,
            "seed": recipe.seed,
            "accuracy": {str(step): share.as_dict() for step, share in accuracies(evaluations).items()},
            **{name: [row[name] for row in metrics] for name in LOGGED},
            "environment": portable_environment(run.environment()),
        }
    )


def joined(*parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins runs; of two with the same base, rate, annotator and seed the later stays."""
    of = {(*setting(run), run["annotator"], run["seed"]): run for part in parts for run in part}
    return [of[key] for key in sorted(of)]


def setting(run: dict[str, Any]) -> tuple[str, float]:
    return run["base"], run["rate"]


def short(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")


def alarm(run: dict[str, Any]) -> int | None:
    """Returns the first update at which the guard says that completions go on."""
    rows = [{"step": step, "goes_on": share} for step, share in enumerate(run["goes_on"], start=1)]
    return next((found.step for found in replay(Guard(), rows) if found.sign == "goes_on"), None)


def until(run: dict[str, Any], step: int) -> float:
    """Returns the accuracy at the last evaluation until a step, its own included."""
    return run["accuracy"][str(max(int(at) for at in run["accuracy"] if int(at) <= step))]["mean"]


def line(run: dict[str, Any]) -> str:
    """Writes the line of one run: the first and the last update, and accuracy at each evaluation."""
    at = alarm(run)
    cells = [
        run["base"],
        short(run["rate"]),
        run["annotator"],
        str(run["seed"]),
        f"{run['goes_on'][0]:.0%} -> {run['goes_on'][-1]:.0%}",
        f"{run['completion_length'][0]:.0f} -> {run['completion_length'][-1]:.0f}",
        f"{run['reward'][0]:.2f} -> {run['reward'][-1]:.2f}",
        ", ".join(f"{100 * share['mean']:.0f}" for share in run["accuracy"].values()),
        "-" if at is None else f"{at}, at {until(run, at):.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def evaluated(runs: Sequence[dict[str, Any]]) -> str:
    """Says on how many problems accuracy is measured, and how wide its interval is at most."""
    fewest = min(share["n"] for run in runs for share in run["accuracy"].values())
    half = proportion(fewest // 2, fewest)
    assert half.low is not None and half.high is not None
    every = {b - a for run in runs for a, b in itertools.pairwise(map(int, run["accuracy"]))}
    widest = f"Wilson's 95 % interval is at most +-{50 * (half.high - half.low):.0f} points."
    return f"Accuracy is that at every {min(every)} updates, n >= {fewest}; {widest}"


def page(runs: Sequence[dict[str, Any]]) -> str:
    """Writes the page."""
    heads = ("base", "rate", "annotator", "seed", *LOGGED.values(), "accuracy", "alarm")
    return "\n".join(
        [
            "# An online against a frozen annotator",
            "",
            "    python scripts/studies.py frozen-miniature; python scripts/studies.py frozen-slow",
            "    python scripts/frozen_results.py",
            "",
            "goes-on-base is made by scripts/pretrain_reasoner.py, frozen-base, of SmolLM2-135M, by scripts/"
            f"frozen_base.py. First and last update. {evaluated(runs)} The script explains the columns.",
            "",
            f"| {' | '.join(heads)} |",
            "|---" * len(heads) + "|",
            *map(line, runs),
            "",
        ]
    )


def draw(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Draws the share that goes on, length and accuracy by update; a row is a base and a rate, a line a seed."""
    all_of = sorted({setting(run) for run in runs}, reverse=True)
    figure, rows = plt.subplots(len(all_of), 3, figsize=(10, 2.8 * len(all_of)), layout="constrained", squeeze=False)
    named = set()
    for run in runs:
        axes, annotator = rows[all_of.index(setting(run))], run["annotator"]
        style = {"color": COLOURS[annotator], "linewidth": 1.2}
        updates = range(1, len(run["goes_on"]) + 1)
        axes[0].plot(updates, [100 * share for share in run["goes_on"]], **style)
        axes[1].plot(updates, run["completion_length"], **style)
        shares = [100 * share["mean"] for share in run["accuracy"].values()]
        label = "" if annotator in named else f"{NAMES[annotator]} annotator"
        axes[2].plot([*map(int, run["accuracy"])], shares, label=label, **style)
        named.add(annotator)
    for (base, rate), axes in zip(all_of, rows, strict=True):
        for axis, name in zip(axes, ("goes on after the answer, %", "tokens", "held-out accuracy, %"), strict=True):
            axis.set(
                xlabel=f"update of {base}, rate {short(rate)}", ylabel=name, ylim=(0, None if name == "tokens" else 102)
            )
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
    found = [path.parent for study in STUDIES for path in sorted((args.runs / study).glob("*/summary.json"))]
    runs = joined(kept, map(digest, found))
    if not runs:
        parser.error(f"no finished run under {args.runs} and none in {file}: run studies.py frozen-miniature first")
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(runs) + "\n")
    replace_file(file.with_suffix(".md"), page(runs))
    draw(runs, file.with_suffix(".png"))
    print(page(runs))


if __name__ == "__main__":
    call(main)
