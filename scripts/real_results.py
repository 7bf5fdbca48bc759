"""Tabulates the study of a real model from what is finished. Writes results/real.json, .md and real-forecast.png.

    python scripts/real_study.py
    python scripts/real_results.py
    rlif compare runs/real/steps --against grpo-gold --out results/real-steps.json  # and story

Reads the run folders of the study; for runs whose folders are gone, results/real.json. Of each run:

    sampled     accuracy of eight samples of each of 32 held-out problems at temperature 1, and their pass@8
    greedy      accuracy on 64 held-out problems, at the start and at the end
    kept        greedy accuracy on the other families that the base was taught
    tokens, KL  of the training batches, mean of the first and of the last three steps; KL to the start, nats a token

A change is the end minus the base, over seeds with Student's 95 % interval. "minus random" is paired by seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from real_study import SAMPLED, task_of

from rlif.comparison.summary import portable_environment, rounded
from rlif.files.atomic import replace_file
from rlif.intervals import Interval, t_interval
from rlif.runs.folder import Run
from rlif.tasks.easy import ALONE, PREFIX

Row = Mapping[str, Any]
FEW = 3  # steps at either end that length and KL are averaged over
LOGGED = ("accuracy", "kl", "completion_length", "pull", "entropy", "self_certainty", "truncated")  # each step
LEAST = 3  # points that a figure is worth


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


def change(run: Row, base: Row) -> float:
    """Returns the sampled accuracy that a run gained."""
    return run["sampled"]["mean"] - base["accuracy"]["mean"]


def first_to_last(values: Sequence[float | None]) -> tuple[float, float]:
    """Averages the first and the last steps that have a number."""
    known = [value for value in values if value is not None]
    return float(np.mean(known[:FEW])), float(np.mean(known[-FEW:]))


def over_seeds(values: Sequence[float]) -> str:
    """Writes a mean of differences in points, with Student's interval where there are seeds for one."""
    found = t_interval(values).within(-1, 1)
    return f"{100 * values[0]:+.1f} (one seed)" if len(values) == 1 else found.percent("+")


def table(found: Row) -> list[str]:
    """Writes one line per family and method."""
    heads = ["family", "method", "reward", "seeds", "sampled, base -> end", "change", "minus random", "pass@8"]
    heads += ["greedy", "kept", "tokens", "KL", "minutes"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for family, base in found["bases"].items():
        random = {run["seed"]: run for run in found["runs"] if (run["family"], run["method"]) == (family, "random")}
        for method in dict.fromkeys(run["method"] for run in found["runs"]):
            runs = [run for run in found["runs"] if (run["family"], run["method"]) == (family, method)]
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
        over_seeds(apart) if apart and method != "random" else "-",
        f"{base['pass@k']['8']['mean']:.0%} -> {np.mean([run['pass@8']['mean'] for run in runs]):.0%}",
        *(
            f"{np.mean([g[0]['mean'] for g in looks]):.1%} -> {np.mean([g[-1]['mean'] for g in looks]):.1%}"
            for looks in (greedy, others)
        ),
        f"{np.mean([t[0] for t in tokens]):.1f} -> {np.mean([t[1] for t in tokens]):.1f}",
        f"{np.mean([k[1] for k in kl]):.3f}",
        f"{np.mean([run['seconds'] for run in runs]) / 60:.0f}",
    ]


def criteria(found: Row) -> list[dict[str, Any]]:
    """Tests the plan's criteria for self-certainty (docs/log.md) on each family, over the seeds that there are."""
    rows = []
    for family, base in found["bases"].items():
        of: dict[str, dict[int, Row]] = {}
        for run in found["runs"]:
            if run["family"] == family:
                of.setdefault(run["method"], {})[run["seed"]] = run
        if own := of.get("intuitor"):
            told = {"change": [change(run, base) for run in own.values()]}
            for other in ("random", "length"):
                pairs = [(own[seed], of[other][seed]) for seed in sorted(own) if seed in of.get(other, {})]
                told[f"minus {other}"] = [a["sampled"]["mean"] - b["sampled"]["mean"] for a, b in pairs]
            rows += [{"family": family, **row} for row in [*_differences(told), *_levels([*own.values()], base)]]
    return rows


def _differences(told: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """A difference holds if Student's interval over two seeds or more is above zero."""
    return [
        {"criterion": name, "value": over_seeds(of), "holds": (t_interval(of).low or 0.0) > 0}
        for name, of in told.items()
        if of
    ]


def _levels(runs: Sequence[Row], base: Row) -> list[dict[str, Any]]:
    """Compares means over seeds with what the base can do without training."""
    passed, least = np.mean([run["pass@8"]["mean"] for run in runs]), base["pass@k"]["8"]["low"]
    others = [[share["mean"] for share in run["kept"].values()] for run in runs]
    fall = np.mean([values[0] - values[-1] for values in others])
    sampled = np.mean([run["sampled"]["mean"] for run in runs])
    greedy = np.mean([share["mean"] for run in runs for share in list(run["greedy"].values())[:1]])
    told = (
        ("pass@8 not below the base's interval", f"{passed:.0%}, {least:.0%}", passed >= least),
        ("points that other families fall, below 10", f"{100 * fall:+.1f}", fall < 0.1),
        ("samples above the base's greedy accuracy", f"{sampled:.0%}, {greedy:.0%}", sampled > greedy),
    )
    return [{"criterion": name, "value": value, "holds": bool(holds)} for name, value, holds in told]


def criteria_table(rows: Sequence[Row]) -> list[str]:
    """Writes one line per family and criterion."""
    cells = [(row["family"], row["criterion"], row["value"], "yes" if row["holds"] else "no") for row in rows]
    return ["| family | criterion | value | holds |", "|---|---|---|---|", *(f"| {' | '.join(c)} |" for c in cells)]


def points(found: Row, probe: Row) -> list[dict[str, Any]]:
    """Pairs the forecast with the outcome, for each family and reward that is a signal of the probe.

    The forecasts are the probe's pull (no label) and AUROC (gold); the outcome is the mean change of sampled accuracy.
    """
    probed, rows = {f["family"]: f for f in probe["families"]}, []
    for family, base in found["bases"].items():
        runs = [run for run in found["runs"] if run["family"] == family]
        for reward in dict.fromkeys(run["reward"] for run in runs):
            forecasts = {name: (probed.get(family, {}).get(name) or {}).get(reward) for name in ("pull", "auroc")}
            if forecasts["auroc"]:
                gained = [change(run, base) for run in runs if run["reward"] == reward]
                means = {name: forecast and forecast["mean"] for name, forecast in forecasts.items()}
                rows.append(
                    {
                        "family": family,
                        "reward": reward,
                        "change": float(np.mean(gained)),
                        "seeds": len(gained),
                        **means,
                    }
                )
    return rows


def figure(rows: Sequence[Row], file: Path) -> None:
    """Draws the change of accuracy over the probe's AUROC."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for reward in dict.fromkeys(row["reward"] for row in rows):
        mine = [row for row in rows if row["reward"] == reward]
        axes.scatter([row["auroc"] for row in mine], [100 * row["change"] for row in mine], label=reward)
    for row in rows:
        axes.annotate(row["family"], (row["auroc"], 100 * row["change"]), textcoords="offset points", xytext=(4, 4))
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set(xlabel="AUROC within problems before training", ylabel="change of sampled accuracy, points")
    axes.legend()
    shown.savefig(file, dpi=150)
    plt.close(shown)


def page(found: Row, forecast: Sequence[Row], weights: str) -> str:
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
    lines += ["", "## Self-certainty by the plan's criteria", "", *criteria_table(criteria(found))]
    lines += ["", "## Forecast and outcome", ""]
    if not forecast:
        return "\n".join([*lines, "No run on a signal of the probe is finished.", ""])
    lines += ["| family | reward | pull, no label | AUROC | change, points | seeds |", "|---|---|---|---|---|---|"]
    for row in forecast:
        pull = "-" if row["pull"] is None else f"{row['pull']:.2f}"
        cells = [row["family"], f"`{row['reward']}`", pull, f"{row['auroc']:.2f}", f"{100 * row['change']:+.1f}"]
        lines.append(f"| {' | '.join([*cells, str(row['seeds'])])} |")
    if len(forecast) >= LEAST:
        lines += ["", "![change over AUROC](real-forecast.png)"]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/real"), help="folder of the study")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    file = args.out / "real.json"
    found = with_kept((digest(path.parent) for path in sorted(args.runs.glob("*/*/sampled.json"))), file)
    for path in sorted(args.runs.glob("base-*.json")):
        scores = json.loads(path.read_text(encoding="utf-8"))
        found["bases"][path.stem.removeprefix("base-")] = rounded({key: scores[key] for key in ("accuracy", "pass@k")})
    probe = json.loads((args.out / "real-base-probe.json").read_text(encoding="utf-8"))
    forecast = points(found, probe)
    replace_file(file, json.dumps(found) + "\n")
    text = page(found, forecast, probe["weights"])
    replace_file(file.with_suffix(".md"), text)
    if len(forecast) >= LEAST:
        figure(forecast, args.out / "real-forecast.png")
    print(text)


if __name__ == "__main__":
    main()
