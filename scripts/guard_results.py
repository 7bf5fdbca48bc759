"""Measures whether the guard stops runs that collapse, and only those. Writes `results/guard.json` and `.md`.

    python scripts/guard_results.py --seeds 10 11 12 13 14

Each case is run once per seed with policy log. `rlif.guard.monitor.replay` then finds in the logged metrics the step
at which policy stop would have ended the run. It is the same step, because the guard reads only the past. `--live SEED`
runs one seed of the collapsing recipe with policy stop, to check this. Held-out accuracy is used here, never in the
guard:

    peak's end   the last evaluation whose accuracy is within 5 points of the best one of its run
    hit          the stop is within 10 steps of the peak's end, on either side
    false stop   any stop of a run that does not collapse

The limits were chosen on seeds 0 to 2 of the first two cases. Nothing was changed after other seeds were evaluated.
The collapsing cases are cut at 32 steps. Their learning rate is constant, so these are the first 32 of the recipe's 60.
A run that is in the folder already is read, not run again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refusals import call

import rlif
from rlif.comparison.summary import portable_environment
from rlif.guard.health import measure_health
from rlif.guard.limits import Guard
from rlif.guard.monitor import replay
from rlif.guard.signs import SIGNS
from rlif.intervals import proportion
from rlif.runs.folder import Run

NEAR, WITHIN = 10, 0.05
READ = {"step", *(sign.metric for sign in SIGNS.values())}
COLLAPSE = ("training.max_steps=32", "evaluate={tasks: [clock], limit: 256, every: 4, batch_size: 256}")
HEALTHY = ("evaluate={tasks: [clock], limit: 256, every: 10, batch_size: 256}",)

# case: recipe, overrides, whether it collapses
CASES = {
    "demo-collapse": ("demo-collapse", COLLAPSE, True),
    "demo-long": ("demo-long", HEALTHY, False),
    "offline": ("demo-collapse", (*COLLAPSE, "annotator=offline"), True),
}
WHAT = {
    "demo-collapse": "The paper's normalisation and KL weight at a learning rate of 3e-4",
    "demo-long": "The healthy recipe, its 30 steps",
    "offline": "The same with the frozen start as annotator (arXiv 2505.19590, Fig. 7)",
}


def finished_run(case: str, seed: int, folder: Path) -> Run:
    """Opens the run of that case and seed; trains it if it is missing."""
    recipe, overrides, _ = CASES[case]
    path = folder / f"{case}-seed{seed}"
    if (path / "summary.json").is_file():
        return Run.open(path)
    named = [f"seed={seed}", f"name={path.name}", f"output={folder}", "keep_completions=256"]
    return rlif.train(rlif.load_recipe(recipe, [*overrides, *named]))


def rollouts(run: Run) -> dict[int, dict[str, float]]:
    """Measures health by step for runs from before the guard, whose metrics lack it."""
    if all("repetition" in row for row in run.metrics()):
        return {}
    paths = sorted((run.path / "completions").glob("step-*.jsonl"))
    rows = {int(path.stem.partition("-")[2]): path.read_text(encoding="utf-8").splitlines() for path in paths}
    return {step: measure_health([json.loads(line) for line in lines]) for step, lines in rows.items()}


def judged(case: str, run: Run, guard: Guard) -> dict[str, Any]:
    """Replays the guard on a run, and compares its stop with the accuracy."""
    curve = {step: look["accuracy"] for step, look in sorted(run.evaluations()["clock"].items())}
    best = max(look["mean"] for look in curve.values())
    end = max(step for step, look in curve.items() if look["mean"] >= best - WITHIN)
    signs = rollouts(run)
    raised = replay(guard, run.metrics(), signs)
    alarm = next((alarm for alarm in raised if alarm.severity == "alarm"), None)
    stop = alarm.step if alarm else None
    near = None if stop is None else min(curve, key=lambda step: abs(step - stop))
    collapses = CASES[case][2]
    return {
        "case": case,
        "seed": run.recipe().seed,
        "steps": run.summary()["steps"],
        "best": best,
        "peak_end": end,
        "stop": stop,
        "alarm": asdict(alarm) if alarm else None,
        "all_raised": [[alarm.sign, alarm.severity, alarm.since, alarm.step] for alarm in raised],
        "good": (stop is not None and abs(stop - end) <= NEAR) if collapses else stop is None,
        "at_stop": None if near is None else curve[near] | {"step": near},
        "at_end": curve[max(curve)] | {"step": max(curve)},
        "metrics": [
            {key: value and round(value, 5) for key, value in (row | signs.get(row["step"], {})).items() if key in READ}
            for row in run.metrics()
        ],
        "curve": {step: look["mean"] for step, look in curve.items()},
        "environment": portable_environment(run.environment()),
    }


def live(seed: int, folder: Path, expected: int | None) -> dict[str, Any]:
    """Runs one seed of the collapsing recipe under policy stop, beside the step that the replay gave."""
    path = folder / f"stopped-seed{seed}"
    if not (path / "summary.json").is_file():
        recipe, overrides, _ = CASES["demo-collapse"]
        named = [f"seed={seed}", f"name={path.name}", f"output={folder}", "guard.policy=stop"]
        rlif.train(rlif.load_recipe(recipe, [*overrides, *named]))
    found = Run.open(path).summary()
    stopped = found["guard"]["stopped"]
    return {
        "seed": seed,
        "replayed": expected,
        "stopped": stopped["step"] if stopped else None,
        "sign": stopped["sign"] if stopped else None,
        "best_healthy_checkpoint": found["guard"]["best_healthy_checkpoint"],
    }


def table(rows: list[dict[str, Any]], command: str, checked: dict[str, Any] | None) -> str:
    """Writes the rows as a page."""
    lines = ["# The guard", "", f"    {command}", ""]
    for case, (_, _, collapses) in CASES.items():
        mine = [row for row in rows if row["case"] == case]
        if not mine:
            continue
        good = sum(row["good"] for row in mine)
        interval = proportion(good, len(mine))
        what = "stopped within 10 steps of the peak's end" if collapses else "not stopped"
        bounds = f"[95 %: {interval.low:.0%} - {interval.high:.0%}]"
        lines += [
            f"## `{case}`: {what} on {good} of {len(mine)} seeds {bounds}",
            "",
            f"{WHAT[case]}.",
            "",
            "| seed | best | peak's end | stopped at | sign | since | accuracy nearby (step) | if not stopped |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in mine:
            alarm = row["alarm"] or {"sign": "-", "since": "-"}
            lines.append(
                f"| {row['seed']} | {row['best']:.1%} | {row['peak_end']} | {row['stop'] or 'never'} | {alarm['sign']}"
                f" | {alarm['since']} | {share(row['at_stop'])} | {share(row['at_end'])} |"
            )
        lines.append("")
    if checked:
        best = checked["best_healthy_checkpoint"]
        lines += [
            f"Live: seed {checked['seed']} of `demo-collapse` with `guard.policy=stop` ended at step"
            f" {checked['stopped']} ({checked['sign']}; the replay said {checked['replayed']}); best healthy"
            f" checkpoint: {best}.",
            "",
        ]
    where = rows[0]["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    lines += [
        "Held-out greedy accuracy on clock, 256 problems, Wilson's 95 % interval in brackets; used only to judge the"
        " guard. The peak's end is the last evaluation within 5 points of the best; the collapsing cases are evaluated"
        " every 4 steps.",
        "",
        f"Machine: {where['cpus']} CPU cores, {where['system']}, Python {where['python']}; {packages}; runs by rlif"
        f" {where['rlif']} at {where['commit']}.",
        "",
    ]
    return "\n".join(lines)


def share(look: dict[str, Any] | None) -> str:
    return "-" if look is None else f"{look['mean']:.1%} [{look['low']:.1%}, {look['high']:.1%}] ({look['step']})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--offline-seeds", type=int, nargs="*", default=[10])
    parser.add_argument("--live", type=int, help="a seed to run under policy stop as well")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--name", default="guard", help="name of the files in the output folder")
    args = parser.parse_args()
    seeds = {"demo-collapse": args.seeds, "demo-long": args.seeds, "offline": args.offline_seeds}
    rows = [judged(case, finished_run(case, seed, args.runs), Guard()) for case in CASES for seed in seeds[case]]
    checked = None
    if args.live is not None:
        stops = {row["seed"]: row["stop"] for row in rows if row["case"] == "demo-collapse"}
        checked = live(args.live, args.runs, stops.get(args.live))
    command = f"python scripts/guard_results.py --seeds {' '.join(map(str, args.seeds))}"
    command += f" --offline-seeds {' '.join(map(str, args.offline_seeds))}"
    command += f" --live {args.live}" if args.live is not None else ""
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.name}.json").write_text(json.dumps({"runs": rows, "live": checked}) + "\n", encoding="utf-8")
    text = table(rows, command, checked)
    (args.out / f"{args.name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    call(main)
