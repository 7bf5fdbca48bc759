"""Runs a recipe on several seeds and keeps what happened: `results/<recipe>.json` and `.md`.

    python scripts/demo_results.py demo --seeds 0 1 2
    python scripts/demo_results.py demo-collapse --seeds 0 1 2

Nothing is chosen between seeds: the recipe is run as it ships, and every run is reported. A run that is in the output
folder already is read, not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import rlif
from rlif.run import Run

METRICS = ("step", "self_certainty", "completion_length", "truncated", "reward_spread", "kl", "entropy")


def finished_run(recipe: str, seed: int, folder: Path) -> Run:
    """The run of that recipe and seed; trains it if it is not there."""
    path = folder / f"{recipe}-seed{seed}"
    if (path / "summary.json").is_file():
        return Run.open(path)
    return rlif.train(rlif.load_recipe(recipe, [f"seed={seed}", f"name={path.name}", f"output={folder}"]))


def digest(run: Run) -> dict[str, Any]:
    """What is kept of a run: its summary, its learning curves and where it ran."""
    curves = {
        task: [
            {
                "step": step,
                **look["accuracy"],
                **{key: look[key] for key in ("completion_length", "self_certainty", "truncated", "unanswered")},
            }
            for step, look in sorted(looks.items())
        ]
        for task, looks in run.evaluations().items()
    }
    metrics = [{key: row.get(key) for key in METRICS} for row in run.metrics()]
    summary = {key: value for key, value in run.summary().items() if key != "evaluations"}
    environment = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    return summary | {"environment": environment, "curves": curves, "metrics": metrics}


def table(recipe: str, seeds: list[int], out: Path, runs: list[dict[str, Any]]) -> str:
    """The same for people."""
    lines = [
        f"# `{recipe}` on {len(runs)} seeds",
        "",
        f"    python scripts/demo_results.py {recipe} --seeds {' '.join(map(str, seeds))} --out {out}",
        "",
        "Held-out greedy accuracy, Wilson's 95 % interval in brackets. Best and end are of the same run; the best is"
        " found by looking at gold answers, which training never does.",
        "",
        "| task | seed | n | before | best (step) | end (step) | tokens | self-certainty |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in runs[0]["curves"]:
        for run in runs:
            first, last = run["curves"][task][0], run["curves"][task][-1]
            best = max(run["curves"][task], key=lambda look: look["mean"])
            lines.append(
                f"| {task} | {run['seed']} | {last['n']} | {share(first)} | {share(best)} ({best['step']})"
                f" | {share(last)} ({last['step']})"
                f" | {first['completion_length']:.1f} -> {last['completion_length']:.1f}"
                f" | {first['self_certainty']:.2f} -> {last['self_certainty']:.2f} |"
            )
    where = runs[0]["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    lines += [
        "",
        f"Seconds, evaluations included: {', '.join(str(run['seconds']) for run in runs)}."
        f" Extra passes per completion: {', '.join(str(run['extra_passes']) for run in runs)} ({runs[0]['path']}).",
        f"Machine: {where['cpus']} CPU cores, {where['system']}, Python {where['python']}; {packages};"
        f" rlif {where['rlif']} at {where['commit']}.",
        "",
    ]
    return "\n".join(lines)


def share(look: dict[str, Any]) -> str:
    return f"{look['mean']:.1%} [{look['low']:.1%}, {look['high']:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    runs = [digest(finished_run(args.recipe, seed, args.runs)) for seed in args.seeds]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.recipe}.json").write_text(json.dumps(runs) + "\n", encoding="utf-8")
    text = table(args.recipe, args.seeds, args.out, runs)
    (args.out / f"{args.recipe}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
