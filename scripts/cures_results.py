"""Compares cures for collapse. Writes `cures.json` and `cures.md` in `results` from the runs that are finished.

    python scripts/studies.py cures
    python scripts/studies.py cures-long
    python scripts/studies.py cures-elsewhere
    python scripts/studies.py cures-real
    python scripts/cures_results.py

Reads the run folders of the studies. For runs whose folders are gone, it reads `results/cures.json`. Greedy accuracy
is that on held-out problems. Of each run:

    start       accuracy before training
    peak        the best accuracy of all evaluations
    fall        the largest fall from the best evaluation so far to a later one, in points
    kept        accuracy at the end, as a share of the peak; a run that its guard stopped ends where it stopped
    samples     accuracy of the samples of the last quarter of the updates, where a run logged it

Over seeds: means with Student's 95 % interval, and the difference at the end to the floor's run of the same seed, or to
that of random numbers at the same rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from refusals import call

from rlif.comparison.summary import portable_environment
from rlif.files.atomic import replace_file
from rlif.intervals import t_interval
from rlif.reporting.analysis import accuracies
from rlif.runs.folder import Run

STUDIES = {
    "cures": (
        "One cure each, 100 steps: ten times the steps to the peak",
        "Each row changes the paper's form (self-certainty, group_std) by what it is named after. alternate-gold and"
        " gold read gold answers.",
    ),
    "cures-long": (
        "Likelihood, the floor and a falling rate, apart and together, 200 steps: twenty times the steps to the peak",
        "Rows are named after what they change. likelihood-floor-cosine was chosen on seeds 0 and 10; nobody had looked"
        " at seeds 11 to 20 then. The other rows were added later and run with --seeds 11 12; likelihood-floor ran on"
        " seed 0 before.",
    ),
    "cures-elsewhere": (
        "The three together elsewhere, 200 steps",
        "Each row changes the base, the learning rate or the temperature of likelihood-floor-cosine. Two controls have"
        " the paper's form at a smaller rate, constant or falling.",
    ),
    "cures-real": (
        "Some of them on SmolLM2-135M, 40 updates: five times those of the study of the real model",
        "Sums in words, base (dequantised from 4 bits) and KL weight 0.04 of scripts/real.yaml, 2 problems x 8"
        " completions per step; rate 1e-3 or what the row is named after; greedy accuracy on 64 problems, whose"
        " interval is at most +-12 points. gold reads gold answers; random is rewarded with random numbers. Differences"
        " are to random numbers at the same rate. Samples:"
        " right samples at temperature 1 in the last quarter of a run's updates, in per cent: of ten updates 20"
        " training problems x 8; 10 x 8 where a rollout has two updates (KL-Cov, two-updates), so that a run sees half"
        " of the problems. A run of guard-stop or guard-rollback ends early.",
    ),
}
HELD = 0.95  # of the peak
REFERENCE = {"cures-real": "random"}  # what a study's rows are compared with; of the others the floor
RATE = re.compile(r"-\de-\d$")  # how a row ends that has another learning rate
HEADINGS = ("cure", "seeds", "start", "peak", "at", "fall", "end", "kept", f"kept {HELD:.0%}")
APART, SAMPLES = "end minus {}, points", "samples"


def digest(path: Path) -> dict[str, Any]:
    """Reads what the results keep of a run."""
    run = Run.open(path)
    (evaluations,) = run.evaluations().values()
    shares, metrics = accuracies(evaluations), run.metrics()
    sampled = [row["accuracy"] for row in metrics[-len(metrics) // 4 :] if row.get("accuracy") is not None]
    return {
        "study": path.parent.name,
        "row": path.name.rpartition("-seed")[0],
        "seed": run.recipe().seed,
        "steps": len(metrics),
        "problems": next(iter(shares.values())).n,
        "curve": {step: share.mean for step, share in shares.items()},
        "sampled": fmean(sampled) if sampled else None,
        "alarms": [alarm["step"] for alarm in run.rows("alarms.jsonl") if "step" in alarm],
        "environment": portable_environment(run.environment()),
    }


def kept_runs(file: Path) -> list[dict[str, Any]]:
    """Reads the runs of a results file of this study."""
    runs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return [run | {"curve": {int(step): share for step, share in run["curve"].items()}} for run in runs]


def joined(*parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins runs; of two with the same study, row and seed the later stays."""
    of = {(run["study"], run["row"], run["seed"]): run for part in parts for run in part}
    return [of[key] for key in sorted(of)]


def peak(run: dict[str, Any]) -> tuple[int, float]:
    """Returns the first step with the best accuracy, and that accuracy."""
    step = max(run["curve"], key=lambda step: run["curve"][step])
    return step, run["curve"][step]


def fall(run: dict[str, Any]) -> float:
    """Returns the largest difference of the best accuracy so far and a later one; 0 if accuracy never falls."""
    shares = [run["curve"][step] for step in sorted(run["curve"])]
    return max(best - share for best, share in zip(itertools.accumulate(shares, max), shares, strict=True))


def end(run: dict[str, Any]) -> float:
    return run["curve"][max(run["curve"])]


def kept(run: dict[str, Any]) -> float:
    """Returns accuracy at the end as a share of the peak. A run that never was right has kept nothing."""
    _, best = peak(run)
    return end(run) / best if best else 0.0


def holds(run: dict[str, Any]) -> bool:
    """Tells whether a run gained accuracy and kept `HELD` of its peak."""
    return kept(run) >= HELD and peak(run)[1] > run["curve"][0]


def reference_of(study: str, row: str) -> str:
    """Names the row that a row is compared with; it has the same learning rate."""
    rate = RATE.search(row)
    return REFERENCE.get(study, "floor") + (rate[0] if rate else "")


def line(row: str, runs: Sequence[dict[str, Any]], compared: bool, samples: bool) -> str:
    """Writes the line of one cure, with a column for what any run of the study has."""
    mine = sorted((run for run in runs if run["row"] == row), key=lambda run: run["seed"])
    cells = [
        row,
        ", ".join(str(run["seed"]) for run in mine),
        t_interval([run["curve"][0] for run in mine]).within(0, 1).percent(),
        t_interval([peak(run)[1] for run in mine]).within(0, 1).percent(),
        ", ".join(str(peak(run)[0]) for run in mine),
        ", ".join(f"{100 * fall(run):.0f}" for run in mine),
        ", ".join(f"{100 * end(run):.0f}" for run in mine),
        t_interval([kept(run) for run in mine]).within(0, 1).percent(),
        f"{sum(map(holds, mine))} of {len(mine)}",
    ]
    if compared:
        other = reference_of(mine[0]["study"], row)
        reference = {run["seed"]: run for run in runs if run["row"] == other}
        apart = [end(run) - end(reference[run["seed"]]) for run in mine if run["seed"] in reference]
        difference = f"{t_interval(apart).within(-1, 1).percent('+')}, n = {len(apart)}" if apart else "-"
        cells.append("" if row == other else difference)
    if samples:
        cells.append(", ".join("-" if run.get("sampled") is None else f"{100 * run['sampled']:.0f}" for run in mine))
    return f"| {' | '.join(cells)} |"


def by_share(runs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns what the runs of each row kept, the row that kept most first."""
    shares = {row: [kept(run) for run in runs if run["row"] == row] for row in {run["row"] for run in runs}}
    return dict(sorted(shares.items(), key=lambda item: (-sum(item[1]) / len(item[1]), item[0])))


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Writes the table of one study. Only a study with runs of the floor has differences to it."""
    study, rows = runs[0]["study"], {run["row"] for run in runs}
    compared = any(reference_of(study, row) in rows for row in rows)
    samples = any(run.get("sampled") is not None for run in runs)
    more = [APART.format(reference_of(study, ""))] * compared + [SAMPLES] * samples
    headings = [*HEADINGS, *more]
    lines = [line(row, runs, compared, samples) for row in by_share(runs)]
    return [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", *lines]


def page(runs: Iterable[dict[str, Any]]) -> str:
    """Writes the page of all studies that have runs."""
    of: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        of.setdefault(run["study"], []).append(run)
    return "\n".join(
        [
            "# Cures for collapse",
            "",
            *(f"    python scripts/studies.py {study}" for study in STUDIES if study in of),
            "    python scripts/cures_results.py",
            "",
            "Unless a table says otherwise: tiny-equal on clock, 8 problems x 8 completions per step, temperature 1,"
            " KL weight 0.1, learning rate 3e-4, constant but for the rows with cosine; `scripts/studies.py` has the"
            " keys. Greedy accuracy in per cent, every 10 steps on 256 held-out problems; Wilson's interval of one"
            " value is at most +-6 points. Peak: the best of a run. Fall: the largest from the best so far to a later"
            " evaluation, in points. Kept: accuracy at the end as a share of the peak; a flat curve keeps less than"
            " 100 %, because the best of many noisy values is too high. The last count also asks that accuracy rose."
            " Means over seeds with Student's 95 % interval, which is very wide for two seeds; there is none where"
            " all values are equal. Differences are paired by seed. Rows are ordered by the mean share that they"
            " keep.",
            *(
                text
                for study, (title, about) in STUDIES.items()
                if study in of
                for text in ("", f"## {title}", "", about, "", *table(of[study]))
            ),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the studies")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    folders = [path.parent for study in STUDIES for path in sorted((args.runs / study).glob("*/summary.json"))]
    file = args.out / "cures.json"
    runs = joined(kept_runs(file), [digest(path) for path in folders])
    if not runs:
        parser.error(f"no finished run under {args.runs} and none in {file}: run studies.py cures first")
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(runs) + "\n")
    text = page(runs)
    replace_file(file.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    call(main)
