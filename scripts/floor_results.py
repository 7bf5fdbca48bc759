"""Compares the floor with the paper's normalisation, by signal. Writes `results/floor` or `floor-long`, .json and .md.

    python scripts/studies.py floor
    python scripts/floor_results.py floor
    python scripts/studies.py floor-long
    python scripts/floor_results.py floor-long

Reads the run folders of the study. For runs whose folders are gone, it reads `results/<study>.json`. Each run has

    peak        the highest accuracy in the training batches, as a mean over 5 steps in a row (sampled, 320
                completions), and the first step by which 9/10 of that rise were made; accuracy is never rewarded
    greedy      accuracy on held-out problems, every 20 steps
    spread      mean within-group deviation of the signal, first and last 10 steps

The difference is floor minus paper at the same step, paired by seed, with Student's 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from refusals import call

from rlif.comparison.summary import portable_environment
from rlif.files.atomic import replace_file
from rlif.intervals import t_interval
from rlif.reporting.analysis import accuracies, accuracy_collapse
from rlif.runs.folder import Run
from rlif.signals import RENAMED

FORMS = ("group_std", "group_std_floor")
KEPT = ("accuracy", "reward_spread", "completion_length", "kl")
WINDOW = 5
MARKS = {"floor": (20, 100), "floor-long": (20, 100, 200, 350)}  # steps at which greedy accuracy is shown


def digest(path: Path) -> dict[str, Any]:
    """Reads what the results keep of a run."""
    run = Run.open(path)
    signal, form = path.name.rpartition("-seed")[0].rsplit("-", 1)
    metrics = run.metrics()
    columns = {key: [round(float(row[key]), 4) for row in metrics] for key in KEPT}
    looks = dict(sorted(run.evaluations()["clock"].items()))
    collapse = accuracy_collapse(accuracies(looks))
    means = np.convolve(columns["accuracy"], np.ones(WINDOW) / WINDOW, "valid")
    bound = means[0] + 0.9 * (means.max() - means[0])
    return {
        "signal": RENAMED.get(signal, signal),
        "form": form,
        "seed": run.recipe().seed,
        "steps": len(metrics),
        "peak": round(float(means.max()), 4),
        "peak_step": int(np.argmax(means >= bound)) + WINDOW,
        "curve": {step: look["accuracy"] for step, look in looks.items()},
        "collapsed": collapse.step if collapse else None,
        "spread": [round(float(np.mean(columns["reward_spread"][part])), 4) for part in (slice(10), slice(-10, None))],
        **columns,
        "environment": portable_environment(run.environment()),
    }


def with_kept(runs: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Adds runs from the kept file whose folders are gone."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    for run in kept:
        run["signal"] = RENAMED.get(run["signal"], run["signal"])
        run["curve"] = {int(step): look for step, look in run["curve"].items()}
    of = {_key(run): run for run in [*kept, *runs]}
    return [of[key] for key in sorted(of)]


def _key(run: dict[str, Any]) -> tuple[str, str, int]:
    return run["signal"], run["form"], run["seed"]


def interval(values: list[float]) -> str:
    """Writes the mean with Student's 95 % interval, in percentage points."""
    return t_interval(values).within(-1, 1).percent("+")


def listed(shares: Iterable[float | None]) -> str:
    return ", ".join("-" if share is None else f"{share:.0%}" for share in shares)


def accuracy(run: dict[str, Any], step: int) -> float | None:
    """Returns greedy accuracy after a step; None if the run was shorter."""
    return run["curve"][step]["mean"] if step in run["curve"] else None


def best_step(run: dict[str, Any]) -> int:
    """Finds the evaluated step with the best greedy accuracy."""
    return max(run["curve"], key=lambda step: run["curve"][step]["mean"])


def rows(runs: list[dict[str, Any]], marks: tuple[int, ...]) -> list[str]:
    """Writes one line per signal and form."""
    lines = []
    for signal, form in dict.fromkeys((run["signal"], run["form"]) for run in runs):
        mine = sorted((r for r in runs if (r["signal"], r["form"]) == (signal, form)), key=lambda run: run["seed"])
        cells = [
            f"`{signal}`",
            form,
            ", ".join(str(run["seed"]) for run in mine),
            ", ".join(str(run["peak_step"]) for run in mine),
            listed(run["peak"] for run in mine),
            ", ".join(str(best_step(run)) for run in mine),
            *(listed(accuracy(run, step) for run in mine) for step in marks),
            f"{sum(run['collapsed'] is not None for run in mine)} of {len(mine)}",
            f"{np.mean([run['spread'][0] for run in mine]):.3f} -> {np.mean([run['spread'][1] for run in mine]):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def differences(runs: list[dict[str, Any]], marks: tuple[int, ...]) -> list[str]:
    """Writes one line per signal: floor minus paper, over the seeds that have both forms at that step."""
    lines = []
    for signal in dict.fromkeys(run["signal"] for run in runs):
        of = [{run["seed"]: run for run in runs if (run["signal"], run["form"]) == (signal, form)} for form in FORMS]
        cells = []
        for step in marks:
            both = [(accuracy(of[1][seed], step), accuracy(of[0][seed], step)) for seed in sorted(of[0].keys() & of[1])]
            apart = [floor - paper for floor, paper in both if floor is not None and paper is not None]
            cells.append(f"{interval(apart)}, n = {len(apart)}" if apart else "-")
        lines.append(f"| `{signal}` | {' | '.join(cells)} |")
    return lines


def table(study: str, runs: list[dict[str, Any]]) -> str:
    marks = MARKS[study]
    greedy = [f"greedy at {step}" for step in marks]
    headings = ["signal", "normalisation", "seeds", "steps to the peak", "peak", "greedy best at", *greedy]
    headings += ["collapsed", "spread"]
    return "\n".join(
        [
            "# The floor against the paper's normalisation",
            "",
            f"    python scripts/studies.py {study}",
            f"    python scripts/floor_results.py {study}",
            "",
            f"tiny-reasoner on clock, up to {max(run['steps'] for run in runs)} steps of 8 problems x 8"
            " completions, constant learning rate 3e-4, KL weight 0.1. Peak: accuracy in the training batches (sampled,"
            " 5 steps together, n = 320) and the step by which 9/10 of the rise were made. Greedy: held-out accuracy,"
            " n = 256, every 20 steps, 10 % before training; Wilson's interval is at most +-6 points.",
            "",
            f"| {' | '.join(headings)} |",
            "|---" * len(headings) + "|",
            *rows(runs, marks),
            "",
            "Floor minus paper in points of greedy accuracy, paired by seed: mean with Student's 95 % interval over the"
            " n seeds that reached that step in both forms.",
            "",
            f"| signal | {' | '.join(f'step {step}' for step in marks)} |",
            "|---" * (1 + len(marks)) + "|",
            *differences(runs, marks),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("floor", "floor-long"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the studies")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    found = [digest(path.parent) for path in sorted((args.runs / args.study).glob("*/summary.json"))]
    kept = args.out / f"{args.study}.json"
    runs = with_kept(found, kept)
    if not runs:
        parser.error(f"no finished run under {args.runs} and none in {kept}: run studies.py {args.study} first")
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(kept, json.dumps(runs) + "\n")
    text = table(args.study, runs)
    replace_file(kept.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    call(main)
