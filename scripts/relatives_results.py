"""Compares training in rounds with online training. Writes `results/relatives`, .json, .md and .png.

    python scripts/studies.py relatives
    python scripts/relatives_results.py

Reads the run folders of the study. For runs whose folders are gone, it reads `results/relatives.json`. Of each run:

    gain        greedy accuracy on clock, on which it is trained: end minus start
    transfer    the same on cups, on which it is not trained
    kept        accuracy on clock at the end, as a share of the best evaluation of the run
    pass@k      on clock, of 16 samples of each of 64 problems at temperature 1, by the model of the end
    tokens      of completions that were sampled for training, judgements and hints included
    first       accuracy on clock after the first round, or after 10 updates online
    best        accuracy on clock in the best evaluation of the run
    seconds     of sampling and of optimiser steps, without evaluations, on one core; of seed 0 alone, see TIMED
    to reach    tokens and seconds until the first evaluation of clock with at least THRESHOLD
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refusals import call

from rlif.comparison.summary import portable_environment
from rlif.errors import MachineError
from rlif.files.atomic import replace_file
from rlif.intervals import t_interval
from rlif.runs.folder import Run
from rlif.selection.rules import pass_at_k

THRESHOLD = 0.7
TIMED = 0  # the seed whose runs had a core each; those of other seeds shared theirs with other jobs
LABELLED = ("star", "spin", "grpo-gold")  # read gold or given answers
ONLINE = ("intuitor", "grpo-pv")
KS = (1, 4, 16)
SAMPLES, PROBLEMS = 16, 64


def costs(run: Run) -> list[dict[str, float]]:
    """Returns, for each step that was logged, completion tokens sampled and seconds until then."""
    recipe = run.recipe()
    online = recipe.online if recipe.rounds is not None else recipe
    rows = (online.problems_per_update if online else 0) * recipe.resolved_training["num_generations"]
    tokens = seconds = 0.0
    found, rounds = [], set()
    for row in run.metrics():
        if "round" not in row:
            tokens += row["completion_length"] * rows
        elif row["round"] not in rounds:  # what a round sampled counts from its first step
            rounds.add(row["round"])
            tokens = row["sampled_tokens"]  # of all phases until then
            seconds += row.get("sampling_seconds", 0.0)
        seconds += row["step_seconds"]
        found.append({"step": row["step"], "tokens": tokens, "seconds": round(seconds, 2)})
    return found


def samples_of(run: Run) -> dict[str, float]:
    """Samples the model of the end, and returns pass@k on held-out problems of clock."""
    import rlif
    from rlif.config.recipe import Recipe
    from rlif.sampling.loading import load_model, load_tokenizer
    from rlif.sampling.protocol import decoding_of
    from rlif.selection.samples import GroupSampler
    from rlif.selection.scorer import Scorer

    recipe = Recipe(model=str(run.model))
    scorer = Scorer(load_model(recipe, "cpu"), load_tokenizer(recipe), batch_size=256)
    task = rlif.TASKS["clock"]
    sampler = GroupSampler(scorer, task, decoding_of(task, n=SAMPLES, temperature=1.0), every_signal=False)
    right: dict[str, int] = {}
    for row in sampler.draw(task.load("test", limit=PROBLEMS)):
        right[row["id"]] = right.get(row["id"], 0) + row["right"]
    return {str(k): sum(pass_at_k(SAMPLES, n, k) for n in right.values()) / len(right) for k in KS}


def digest(path: Path) -> dict[str, Any]:
    """Reads what the results keep of a run."""
    run = Run.open(path)
    evaluated = {
        task: {step: look["accuracy"]["mean"] for step, look in sorted(looks.items())}
        for task, looks in run.evaluations().items()
    }
    spent = costs(run)
    curve = []
    for step, accuracy in evaluated["clock"].items():
        before = [cost for cost in spent if cost["step"] <= step]
        at = before[-1] if before else {"tokens": 0.0, "seconds": 0.0}
        curve.append({"step": step, "accuracy": accuracy, "tokens": at["tokens"], "seconds": at["seconds"]})
    return {
        "method": path.name.rpartition("-seed")[0],
        "seed": run.recipe().seed,
        "steps": run.summary()["steps"],
        "curve": curve,
        "cups": [*evaluated["cups"].values()],
        "pass": samples_of(run),
        "alarms": [alarm["sign"] for alarm in run.summary()["guard"]["alarms"] if alarm["severity"] == "alarm"],
        "environment": portable_environment(run.environment()),
    }


def reached(run: Mapping[str, Any], threshold: float = THRESHOLD) -> dict[str, float] | None:
    """Finds the first evaluation of clock with at least that accuracy; None where there is none."""
    return next((look for look in run["curve"] if look["accuracy"] >= threshold), None)


def numbers(run: Mapping[str, Any]) -> dict[str, float]:
    """Computes the numbers of a run that have intervals over seeds."""
    accuracies = [look["accuracy"] for look in run["curve"]]
    return {
        "first": by_round(run["curve"])[1]["accuracy"],
        "end": accuracies[-1],
        "gain": accuracies[-1] - accuracies[0],
        "transfer": run["cups"][-1] - run["cups"][0],
        "best": max(accuracies),
        "kept": accuracies[-1] / max(accuracies),
        **{f"pass@{k}": run["pass"][str(k)] for k in KS},
    }


def rows(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes one line for each method, the best end first."""
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        methods.setdefault(run["method"], []).append(run)
    lines = []
    for method, mine in sorted(methods.items(), key=lambda item: -_mean([numbers(run)["end"] for run in item[1]])):
        found = [numbers(run) for run in mine]
        cells = [method, str(len(mine))]
        cells += [
            t_interval([each[name] for each in found]).within(-1, 1).percent("+") for name in ("gain", "transfer")
        ]
        cells += [
            f"{_mean([each[name] for each in found]):.0%}"
            for name in ("first", "end", "best", "kept", *(f"pass@{k}" for k in KS))
        ]
        cells += spent([run["curve"][-1] for run in mine], mine)
        there = [reached(run) for run in mine]
        if all(there):
            cells += spent(there, mine)
        else:
            cells += [f"{len(mine) - there.count(None)} of {len(mine)}", "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def spent(looks: Sequence[Any], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes mean tokens of all runs, and seconds of those that were timed."""
    timed = [look["seconds"] for look, run in zip(looks, runs, strict=True) if run["seed"] == TIMED]
    tokens = f"{_mean([look['tokens'] for look in looks]) / 1e3:,.0f} k"
    return [tokens, f"{_mean(timed):,.0f}" if timed else "-"]


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    headings = ["method", "seeds", "gain", "transfer", "first", "end", "best", "kept", *(f"pass@{k}" for k in KS)]
    headings += ["tokens sampled", "seconds", f"tokens to {THRESHOLD:.0%}", f"seconds to {THRESHOLD:.0%}"]
    return "\n".join(
        [
            "# Training in rounds beside online training",
            "",
            "    python scripts/studies.py relatives",
            "    python scripts/relatives_results.py",
            "",
            "tiny-reasoner, trained on clock and evaluated on clock and cups, greedy, n = 256 each. Online: 50"
            " updates of 8 problems x 8 completions. Rounds: `RELATIVES` in `scripts/studies.py`. Gain and transfer are"
            " in points, with Student's 95 % interval over seeds. Seconds are those of seed 0, whose runs had a core"
            " each. What each column is: `scripts/relatives_results.py`."
            f" Where not every seed reached {THRESHOLD:.0%}, the number that did.",
            "",
            "![Accuracy against tokens sampled](relatives.png)",
            "",
            "Each point is the mean over seeds of the last evaluation of a round, or of one online. Dashed:"
            " online. Dotted: with gold or given answers.",
            "",
            f"| {' | '.join(headings)} |",
            "|---" * len(headings) + "|",
            *rows(runs),
            "",
        ]
    )


def by_round(curve: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Returns the last evaluation before more is sampled: of each round, and all of online training."""
    following = [*curve[1:], None]
    return [look for look, later in zip(curve, following, strict=True) if not later or later["tokens"] > look["tokens"]]


def draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws accuracy on clock at the end of rounds against tokens sampled, a line for each method, its seeds' mean."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MachineError("the figure needs matplotlib: pip install 'rlif[plot]'.") from error
    figure = Figure(figsize=(8, 4.2), dpi=160, layout="constrained")
    axis = figure.subplots()
    methods = list(dict.fromkeys(run["method"] for run in runs))
    for number, method in enumerate(methods):
        mine = [run for run in runs if run["method"] == method]
        looks = [by_round(run["curve"]) for run in mine]
        together = list(zip(*looks, strict=False))  # the n-th round of each seed
        tokens = [_mean([look["tokens"] for look in each]) / 1e3 for each in together]
        accuracy = [_mean([look["accuracy"] for look in each]) for each in together]
        line = ":" if method in LABELLED else "--" if method in ONLINE else "-"
        style = {"color": colormaps["tab20"](number % 20), "marker": "ov^sDPX"[number % 7], "markersize": 4}
        axis.plot(tokens, accuracy, line, linewidth=1.4, label=method, **style)
    axis.set_xlabel("tokens of completions sampled, thousands")
    axis.set_ylabel("accuracy on clock, greedy")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path)


def with_kept(runs: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Adds runs from the kept file whose folders are gone."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    known = {(run["method"], run["seed"]): run for run in [*kept, *runs]}
    return [known[key] for key in sorted(known)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the studies")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    kept = args.out / "relatives.json"
    found = [digest(path.parent) for path in sorted((args.runs / "relatives").glob("*/summary.json"))]
    runs = with_kept(found, kept)
    if not runs:
        parser.error(f"no finished run under {args.runs} and none in {kept}: run studies.py relatives first")
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(kept, json.dumps(runs) + "\n")
    text = table(runs)
    replace_file(kept.with_suffix(".md"), text)
    draw(runs, kept.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    call(main)
