"""Tabulates the study of a real model from what is finished. Writes results/real.json and results/real.md.

    python scripts/real_study.py
    python scripts/real_results.py
    rlif compare runs/real/steps --against grpo-gold --out results/real-steps.json  # and the other families
    python scripts/real_results.py    # again: adds pass@8 to those files, for `rlif leaderboard`

Reads the run folders of the study; for runs whose folders are gone, results/real.json. Of each run:

    sampled     accuracy of eight samples of each of 32 held-out problems at temperature 1, and their pass@8
    greedy      accuracy on 32 held-out problems, at the start and at the end
    kept        greedy accuracy on the other families that the base was taught
    tokens, KL  of the training batches, mean of the first and of the last three steps; KL to the start, nats a token

A change is the end minus the base, in points, over seeds with Student's 95 % interval; there is none where all seeds
are equal. "minus random" is paired by seed. Problems and the samples of the base count as fixed. The table of criteria
has self-certainty's differences in points; the numbers are those of the plan in docs/log.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from real_study import PROBE, SAMPLED, task_of
from refusals import call

from rlif.comparison.summary import portable_environment, rounded
from rlif.comparison.summary_file import format_summaries, read_summaries
from rlif.files.atomic import replace_file
from rlif.intervals import Interval, t_interval
from rlif.runs.folder import Run
from rlif.tasks.easy import ALONE, PREFIX

Row = Mapping[str, Any]
FEW = 3  # steps at either end that length and KL are averaged over
LOGGED = ("accuracy", "kl", "completion_length", "pull", "entropy", "self_certainty", "truncated")  # each step


def digest(path: Path) -> dict[str, Any]:
    """Reads what the results keep of a finished run."""
    run = Run.open(path)
    recipe, metrics = run.recipe(), run.metrics()
    family, evaluations = recipe.task.removeprefix(PREFIX).removesuffix(f".{ALONE}"), run.evaluations()
    own = task_of(family).replace("/", "-")
    sampled = json.loads((path / "sampled.json").read_text(encoding="utf-8"))
    columns = {name: [row.get(name) for row in metrics] for name in LOGGED}
    return rounded(
        {
            "family": family,
            "method": path.name.rpartition("-seed")[0],
            "reward": next(name for name, weight in recipe.weights.items() if weight.ever),
            "seed": recipe.seed,
            "steps": len(metrics),
            "learning_rate": recipe.resolved_training["learning_rate"],
            "beta": recipe.resolved_training["beta"],
            "seconds": run.summary()["seconds"],
            "sampled": sampled["accuracy"],
            "pass@8": sampled["pass@k"]["8"],
            "sampled_tokens": sampled["completion_length"],
            "sampled_truncated": sampled["truncated"],
            "greedy": {step: found["accuracy"] for step, found in sorted(evaluations[own].items())},
            "kept": {step: kept(evaluations, step, own) for step in sorted(evaluations[own])},
            **columns,
            "environment": portable_environment(run.environment()),
        }
    )


def kept(evaluations: Mapping[str, Any], step: int, own: str) -> dict[str, Any]:
    """Averages greedy accuracy over the other families, each of as many problems."""
    found = [of[step]["accuracy"] for task, of in evaluations.items() if task != own]
    return {"n": sum(each["n"] for each in found), "mean": float(np.mean([each["mean"] for each in found]))}


def with_kept(runs: Iterable[dict[str, Any]], file: Path) -> dict[str, Any]:
    """Adds the runs and bases of the kept file whose folders are gone."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"bases": {}, "runs": []}
    of = {
        (run["family"], run["method"], run["seed"]): run for run in [*before["runs"], *json.loads(json.dumps([*runs]))]
    }
    return {"bases": before["bases"], "runs": [of[key] for key in sorted(of)]}


def runs_of(runs: Iterable[Row], family: str, method: str) -> list[Row]:
    """Returns the runs of one method on one family."""
    return [run for run in runs if (run["family"], run["method"]) == (family, method)]


def change(run: Row, base: Row) -> float:
    """Returns the sampled accuracy that a run gained."""
    return run["sampled"]["mean"] - base["accuracy"]["mean"]


def first_to_last(values: Sequence[float | None]) -> tuple[float, float]:
    """Averages the first and the last steps that have a number; nan without any."""
    known = [value for value in values if value is not None]
    return (float(np.mean(known[:FEW])), float(np.mean(known[-FEW:]))) if known else (np.nan, np.nan)


def over_seeds(values: Sequence[float]) -> str:
    """Writes a mean of differences in points, with Student's interval where there are seeds for one."""
    if not values:
        return "-"
    found = t_interval(values).within(-1, 1)
    return f"{100 * values[0]:+.1f} (one seed)" if len(values) == 1 else found.percent("+")


def before_and_after(firsts: Sequence[float], lasts: Sequence[float]) -> str:
    """Writes the means of shares before and after, and the mean change in points with its interval over seeds."""
    changes = [last - first for first, last in zip(firsts, lasts, strict=True)]
    return f"{np.mean(firsts):.0%} -> {np.mean(lasts):.0%}, {over_seeds(changes)}"


def mean_and_interval(values: Sequence[float], digits: int) -> str:
    """Writes a mean of what cannot be negative, with its interval over seeds from 0 on."""
    if not np.isfinite(values).all():
        return "-"  # not logged
    found = t_interval(values)
    if found.low is None or found.high is None:
        return f"{found.mean:.{digits}f}" + (" (one seed)" if len(values) == 1 else "")
    return f"{found.mean:.{digits}f} [{max(0, found.low):.{digits}f}, {found.high:.{digits}f}]"


def table(found: Row) -> list[str]:
    """Writes one line per family and method."""
    heads = ["family", "method", "reward", "seeds", "sampled, base -> end", "change", "minus random", "pass@8"]
    heads += ["greedy", "kept", "tokens", "KL", "minutes"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for family, base in found["bases"].items():
        random = {run["seed"]: run for run in runs_of(found["runs"], family, "random")}
        for method in dict.fromkeys(run["method"] for run in found["runs"]):
            runs = runs_of(found["runs"], family, method)
            if runs:
                lines.append(f"| {' | '.join(_cells(family, method, runs, base, random))} |")
    return lines


def _cells(family: str, method: str, runs: Sequence[Row], base: Row, random: Mapping[int, Row]) -> list[str]:
    mean = np.mean([run["sampled"]["mean"] for run in runs])
    apart = [run["sampled"]["mean"] - random[run["seed"]]["sampled"]["mean"] for run in runs if run["seed"] in random]
    tokens, kl = ([first_to_last(run[name]) for run in runs] for name in ("completion_length", "kl"))
    greedy, others = ([[*run[name].values()] for run in runs] for name in ("greedy", "kept"))
    return [
        family,
        method,
        f"`{runs[0]['reward']}`",
        ", ".join(str(run["seed"]) for run in runs),
        f"{base['accuracy']['mean']:.1%} -> {mean:.1%}",
        over_seeds([change(run, base) for run in runs]),
        over_seeds(apart if method != "random" else []),
        before_and_after([base["pass@k"]["8"]["mean"]] * len(runs), [run["pass@8"]["mean"] for run in runs]),
        *(
            before_and_after([g[0]["mean"] for g in looks], [g[-1]["mean"] for g in looks])
            for looks in (greedy, others)
        ),
        f"{np.mean([t[0] for t in tokens]):.1f} -> {mean_and_interval([t[1] for t in tokens], 1)}",
        mean_and_interval([k[1] for k in kl], 3),
        f"{np.mean([run['seconds'] for run in runs]) / 60:.0f}",
    ]


def criteria(found: Row) -> list[dict[str, Any]]:
    """Tests the plan's four criteria of success for self-certainty (docs/log.md) on each family.

    A part that compares with a reward without runs is left out. "above zero" and "not below zero" are of Student's
    interval over the seeds that there are. The plan's third criterion can be read in two ways, by the interval over
    seeds or by that of the base. It needs both.
    """
    rows = []
    for family, base in found["bases"].items():
        runs = runs_of(found["runs"], family, "intuitor")
        parts = [part for part in _parts(runs, found["runs"], base) if part[2]] if runs else []
        for number, what, values, needed, holds in parts:
            told = {"number": number, "what": what, "found": over_seeds(values), "needed": needed}
            rows.append({"family": family, **told, "holds": holds(t_interval(values))})
    return rows


def _parts(runs: Sequence[Row], others: Sequence[Row], base: Row) -> list[tuple[int, str, list[float], str, Any]]:
    """Lists the parts of the criteria: number, what is compared, the differences by seed, what they need to be."""

    def minus(method: str) -> list[float]:
        by_seed = {run["seed"]: run for run in runs_of(others, runs[0]["family"], method)}
        return [
            run["sampled"]["mean"] - by_seed[run["seed"]]["sampled"]["mean"] for run in runs if run["seed"] in by_seed
        ]

    def ends(run: Row, name: str) -> tuple[float, float]:
        looks = [share["mean"] for share in run[name].values()]
        return looks[0], looks[-1]

    passed = [run["pass@8"]["mean"] - base["pass@k"]["8"]["mean"] for run in runs]
    low = base["pass@k"]["8"]["low"]
    above_low = [run["pass@8"]["mean"] - low for run in runs if low is not None]
    kept = [last - first for first, last in (ends(run, "kept") for run in runs)]
    greedy = [run["sampled"]["mean"] - ends(run, "greedy")[0] for run in runs]
    return [
        (1, "samples, end minus start", [change(run, base) for run in runs], "above zero", _above),
        (1, "samples, minus random", minus("random"), "above zero", _above),
        (2, "samples, minus length", minus("length"), "above zero", _above),
        (3, "pass@8, end minus start", passed, "not below zero", lambda i: (i.mean if i.high is None else i.high) >= 0),
        (3, "pass@8, minus the lower end of the base's interval", above_low, "mean not below zero", _mean_not_below),
        (3, "other families, end minus start", kept, "mean above -10", lambda i: i.mean > -0.1),
        (4, "samples, minus the base's greedy answers", greedy, "mean above zero", lambda i: i.mean > 0),
    ]


def _mean_not_below(found: Interval) -> bool:
    return found.mean >= 0


def _above(found: Interval) -> bool:
    return (found.low or 0.0) > 0


def fulfilled(rows: Sequence[Row], family: str) -> list[int]:
    """Names the criteria of which every part holds."""
    mine = [row for row in rows if row["family"] == family]
    return [n for n in sorted({row["number"] for row in mine}) if all(r["holds"] for r in mine if r["number"] == n)]


def criteria_table(rows: Sequence[Row]) -> list[str]:
    """Writes one line per family and part of a criterion, in points."""
    heads = ("family", "number", "what", "found", "needed", "holds")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [str(row[head]) for head in heads[:-1]]
        lines.append(f"| {' | '.join(cells)} | {'yes' if row['holds'] else 'no'} |")
    return lines


def cooler_table(found: Row) -> list[str]:
    """Writes one line per family and temperature of the base, beside self-certainty's runs at temperature 1."""
    lines = ["Intervals of the base are over problems, those of self-certainty over seeds.", ""]
    lines += ["| family | model | temperature | right samples | pass@8 |", "|---|---|---|---|---|"]
    for family, base in found["bases"].items():
        for temperature, scores in ({"1": base} | dict(sorted(base.get("cooler", {}).items(), reverse=True))).items():
            shares = [Interval.read(scores["accuracy"]), Interval.read(scores["pass@k"]["8"])]
            lines.append(f"| {family} | base | {temperature} | {shares[0]} | {shares[1]} |")
        if runs := runs_of(found["runs"], family, "intuitor"):
            means = [t_interval([run[name]["mean"] for run in runs]).within(0, 1) for name in ("sampled", "pass@8")]
            lines.append(f"| {family} | self-certainty, {len(runs)} seeds | 1 | {means[0]} | {means[1]} |")
    return lines


def page(found: Row, weights: str) -> str:
    """Formats the whole page.

    Args:
        weights: those that the base of all runs was made from.
    """
    runs = found["runs"]
    settings = sorted({(run["steps"], run["learning_rate"], run["beta"]) for run in runs})
    said = "; ".join(
        f"{steps} updates of 32 completions, rate {rate:g}, KL weight {beta:g}" for steps, rate, beta in settings
    )
    lines = [
        "# A real model trained on its own confidence",
        "",
        "    python scripts/real_study.py; python scripts/real_results.py",
        "",
        f"Base: made by scripts/real_base.py from {weights}. {said}. Finished runs: {len(runs)}. Sampled: 8 samples of"
        f" each of {SAMPLED} held-out problems at temperature 1. Intervals of a run are over problems. The script"
        " explains the columns.",
        "",
        *table(found),
        "",
        "## Each run",
        "",
        "| family | method | seed | sampled | pass@8 | greedy by step |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        looks = ", ".join(f"{step}: {share['mean']:.0%}" for step, share in run["greedy"].items())
        sampled, passed = (Interval.read(run[name]) for name in ("sampled", "pass@8"))
        lines.append(f"| {run['family']} | {run['method']} | {run['seed']} | {sampled} | {passed} | {looks} |")
    lines += ["", "## Self-certainty by the plan's criteria", "", *criteria_table(criteria(found)), ""]
    lines += ["## The base at lower temperatures", "", *cooler_table(found), ""]
    return "\n".join(lines)


def add_passes(results: Path, found: Row) -> None:
    """Adds pass@8 of the base and of each run to the files that `rlif compare` made of the families.

    A run that the study does not have yet stays as it is.
    """
    for family, base in found["bases"].items():
        file, task = results / f"real-{family}.json", task_of(family).replace("/", "-")
        if not file.is_file():
            continue
        runs, made = read_summaries(file)
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        ends = {(run["method"], run["seed"]): run["pass@8"]["mean"] for run in found["runs"] if run["family"] == family}
        start = base["pass@k"]["8"]["mean"]
        passed = {key: {task: {"8": [start, end]}} for key, end in ends.items()}
        runs = [replace(run, pass_at=run.pass_at | passed.get((run.method, run.seed), {})) for run in runs]
        replace_file(file, format_summaries(runs, rows, made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/real"), help="folder of the study")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    file = args.out / "real.json"
    found = with_kept((digest(path.parent) for path in sorted(args.runs.glob("*/*/sampled.json"))), file)
    for path in sorted(args.runs.glob("base-*.json")):
        scores = json.loads(path.read_text(encoding="utf-8"))
        scores = rounded({key: scores[key] for key in ("accuracy", "pass@k")})
        family, _, temperature = path.stem.removeprefix("base-").partition("-at-")
        base = found["bases"].setdefault(family, {})
        base.update({"cooler": base.get("cooler", {}) | {temperature: scores}} if temperature else scores)
    for family, base in found["bases"].items():
        if "accuracy" not in base:
            parser.error(f"{args.runs}/base-{family}.json is missing: run real_study.py first")
    if lone := {run["family"] for run in found["runs"]} - set(found["bases"]):
        parser.error(f"{args.runs}/base-{min(lone)}.json is missing: run real_study.py first")
    if not found["runs"]:
        parser.error(f"no finished run under {args.runs} and none in {file}: run real_study.py first")
    args.out.mkdir(parents=True, exist_ok=True)
    probe = json.loads(PROBE.read_text(encoding="utf-8"))
    replace_file(file, json.dumps(found) + "\n")
    text = page(found, probe["weights"])
    replace_file(file.with_suffix(".md"), text)
    add_passes(args.out, found)
    print(text)


if __name__ == "__main__":
    call(main)
