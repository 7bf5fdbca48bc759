"""Compares forecasts made before training with what training gained. Writes results/forecast.{json,md,png}.

    python scripts/forecast_results.py draw     # samples the miniature bases into runs/forecast, in two minutes
    python scripts/forecast_results.py table    # from these, runs/real-base-probe (real_probe.py) and kept results

A point is one reward on one base and task. Its forecasts are of samples of the base, 8 of each of some problems of the
training split, the mean over the problems where both kinds occur:

    pull     P(reward of a sample with its group's most frequent answer > of one with another), ties half; no label
    AUROC    P(reward of a right sample > of a wrong one), ties half; reads gold

A forecast is "up" where its 95 % interval over problems is above 0.5, and "down" where it is below. The outcome is the
change of held-out accuracy from the start to the end of training, the mean over seeds with Student's 95 % interval: of
greedy answers on the miniatures, of samples on the real model. Votes have a pull of 1 whatever the base, so they have
none here. Methods that are more than one reward, or have another annotator, are left out, and so are form and gold, and
outcomes of one seed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from evidence_figures import read_bases
from real_probe import PROBLEMS as REAL_PROBLEMS
from real_probe import SAMPLES, SEED, frequent, higher
from real_results import change
from refusals import call, missing_base
from scipy.stats import spearmanr

from rlif.answers.clusters import by_problem
from rlif.comparison.leaderboard import Board, rewarded
from rlif.comparison.summary import rounded
from rlif.files.atomic import replace_file
from rlif.files.jsonl import JsonLog
from rlif.intervals import Interval, t_interval
from rlif.sampling.protocol import decoding_of
from rlif.selection.drawing import Drawing
from rlif.selection.samples import GroupSampler
from rlif.selection.scorer import load_scorer
from rlif.signals import RENAMED
from rlif.tasks import find_task
from rlif.tasks.chat_template import OPEN

Row = Mapping[str, Any]
MINIATURES = {
    "tiny-reasoner": "tiny-reasoner",
    "wrong-and-sure-base": "runs/wrong-and-sure-base",  # made by pretrain_reasoner.py
    "tiny-short": "tiny-short",
    "tiny-equal": "tiny-equal",
}
PROBLEMS, WINDOW = 128, 8  # of a miniature base; the window of confidence in the studies
VOTES = ("plurality_vote", "self_consistency")
REWARDS = (  # those of one number per sample
    "self_certainty", "negative_entropy", "negative_entropy_sum", "likelihood", "likelihood_sum",
    "mean_token_confidence", "tail_confidence", "lowest_window_confidence", "bottom_window_confidence",
    *VOTES, "length", "shortness", "random",
)  # fmt: skip
FORECASTS = {"pull": "pull, no label", "auroc": "AUROC, reads gold"}
COLOURS = (  # Okabe and Ito's, one per base
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#555555", "#56B4E9", "#000000",
)  # fmt: skip


def draw(runs: Path) -> None:
    """Draws and scores the samples of the miniature bases that the folder lacks."""
    task = find_task("clock")
    decoding = decoding_of(task, temperature=1.0, n=SAMPLES, seed=SEED)
    problems = task.load("train", limit=PROBLEMS, seed=SEED)
    for name, model in MINIATURES.items():
        scorer = load_scorer(model, chat=OPEN, window=WINDOW, dtype="float32", batch_size=256)
        rows, _ = Drawing(GroupSampler(scorer, task, decoding), problems).draw(runs / name, {"dtype": "float32"})
        print(name, len(rows), flush=True)


def digest(rows: Sequence[Row]) -> dict[str, Any]:
    """Computes both forecasts of each reward from the samples of one base."""
    rng = random.Random(SEED)
    groups = [with_rewards(group, rng) for group in by_problem(rows).values()]
    return {
        "pull": {name: None if name in VOTES else higher(groups, name, frequent) for name in REWARDS},
        "auroc": {name: higher(groups, name, lambda row, _: row["right"]) for name in REWARDS},
    }


def with_rewards(group: Sequence[Row], rng: random.Random) -> list[dict[str, Any]]:
    """Adds to the rows of a problem the rewards that are not among their columns."""
    counts = Counter(row["answer"] for row in group if row["answer"] is not None)
    shares = [counts[row["answer"]] / len(group) for row in group]
    return [
        {
            **row,
            "plurality_vote": float(0 < share == max(shares)),
            "self_consistency": share,
            "length": row["tokens"],
            "random": rng.random(),
        }
        for row, share in zip(group, shares, strict=True)
    ]


def all_points(results: Path, found: Row) -> list[dict[str, Any]]:
    """Pairs forecasts and outcomes of all kept runs. An outcome of one seed, which has no interval, is left out.

    Args:
        found: the forecasts by base, as `digest` computes them.
    """
    kept = json.loads((results / "real.json").read_text(encoding="utf-8"))
    points = miniature_points(read_bases(results), found) + real_points(kept, found)
    return [point for point in points if point["gain"]["n"] > 1]


def miniature_points(boards: Iterable[Board], found: Row) -> list[dict[str, Any]]:
    """Pairs forecast and outcome of each method that is one reward on a miniature base."""
    points = []
    for board in boards:
        recipes = {run.method: run.whole for run in board.runs}
        for standing in board.standings:
            recipe = recipes[standing.method]
            named = [RENAMED.get(name, name) for name in rewarded(recipe["reward"])]
            if board.base not in found:
                raise SystemExit(f"no forecast of {board.base}: run forecast_results.py draw first")
            if len(named) == 1 and named[0] in REWARDS and recipe["annotator"] == "online":
                points.append(_point(board.base, named[0], found[board.base], standing.gain))
    return points


def real_points(kept: Row, found: Row) -> list[dict[str, Any]]:
    """Pairs forecast and outcome of each reward on the families of the real model."""
    points = []
    for family, base in kept["bases"].items():
        runs = [run for run in kept["runs"] if run["family"] == family and run["reward"] in REWARDS]
        for reward in dict.fromkeys(run["reward"] for run in runs):
            gains = t_interval([change(run, base) for run in runs if run["reward"] == reward]).within(-1, 1)
            name = f"SmolLM2, {family}"
            if name not in found:
                raise SystemExit(f"no forecast of {name}: run real_probe.py draw with --model runs/real-base first")
            points.append(_point(name, reward, found[name], gains))
    return points


def _point(base: str, reward: str, forecasts: Row, gain: Interval) -> dict[str, Any]:
    return {"base": base, "reward": reward, "gain": gain.as_dict()} | {f: forecasts[f][reward] for f in FORECASTS}


def side(interval: Any, middle: float = 0.5) -> str:
    """Reads an interval: "up" or "down" where it leaves out the middle, else "unclear"; "" where there is none.

    Equal values of several seeds have no interval; they are on the side that they are on.
    """
    found = Interval.read(interval)
    if found is None or found.mean is None:
        return ""
    if found.n < 2:
        return "unclear"
    low, high = (found.mean, found.mean) if found.low is None or found.high is None else (found.low, found.high)
    return "up" if low > middle else "down" if high < middle else "unclear"


def rank_correlation(points: Sequence[Row], name: str) -> tuple[float, int]:
    """Computes Spearman's correlation of a forecast and the mean change, and the number of points that have both."""
    pairs = [(point[name]["mean"], point["gain"]["mean"]) for point in points if point[name]]
    found: Any = spearmanr([a for a, _ in pairs], [b for _, b in pairs]) if len(pairs) > 2 else None
    return (float(found.statistic) if found else float("nan")), len(pairs)


def page(points: Sequence[Row]) -> str:
    """Formats the whole page."""
    lines = [
        "# Forecast and outcome",
        "",
        "    python scripts/forecast_results.py draw; python scripts/forecast_results.py table",
        "",
        f"{len(points)} points: one reward on one base. Samples of a base: {PROBLEMS} problems x {SAMPLES} on the"
        f" miniatures, {REAL_PROBLEMS} x {SAMPLES} on the families of SmolLM2 (dequantised from 4 bits). Up, down: the"
        " 95 % interval leaves out 0.5 (forecast) or 0 (change). The script explains the columns.",
        "",
        "![change of accuracy over forecast](forecast.png)",
        "",
    ]
    for name, title in FORECASTS.items():
        rho, count = rank_correlation(points, name)
        table = Counter((side(point[name]), side(point["gain"], 0)) for point in points)
        lines += [
            f"**{title}.** Rank correlation with the change {rho:+.2f}, {count} points. By forecast and outcome:",
            "",
            "| forecast | accuracy up | unclear | down |",
            "|---|---|---|---|",
        ]
        for row in ("up", "unclear", "down"):
            lines.append(f"| {row} | {' | '.join(str(table[row, column]) for column in ('up', 'unclear', 'down'))} |")
        lines.append("")
    lines += ["| base | reward | pull | AUROC | change, points | seeds |", "|---|---|---|---|---|---|"]
    for point in sorted(points, key=lambda point: (point["base"], -point["gain"]["mean"])):
        gain = Interval.read(point["gain"])
        shares = [_share(point[name]) for name in FORECASTS]
        assert gain is not None
        lines.append(
            f"| {point['base']} | `{point['reward']}` | {' | '.join(shares)} | {gain.percent('+')} | {gain.n} |"
        )
    return "\n".join([*lines, ""])


def _share(forecast: Any) -> str:
    found = Interval.read(forecast)
    if found is None:
        return "-"
    return f"{found.mean:.2f}" + ("" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]")


def figure(points: Sequence[Row], file: Path) -> None:
    """Draws the change of accuracy over each forecast, a colour per base."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    shown, axes = plt.subplots(1, len(FORECASTS), figsize=(9, 3.6), layout="constrained", sharey=True)
    bases = [*dict.fromkeys(point["base"] for point in points)]
    for axis, (name, title) in zip(axes, FORECASTS.items(), strict=True):
        for base, colour in zip(bases, COLOURS[: len(bases)], strict=True):
            mine = [point for point in points if point["base"] == base and point[name]]
            for point in mine:
                x, gain = point[name], point["gain"]
                bars = {"color": colour, "linewidth": 0.7, "alpha": 0.5}
                if x["low"] is not None:
                    axis.plot([x["low"], x["high"]], [100 * gain["mean"]] * 2, **bars)
                if gain["low"] is not None:
                    axis.plot([x["mean"]] * 2, [100 * gain["low"], 100 * gain["high"]], **bars)
            xs, ys = [p[name]["mean"] for p in mine], [100 * p["gain"]["mean"] for p in mine]
            axis.plot(xs, ys, "o", color=colour, markersize=5, label=base)
        rho, count = rank_correlation(points, name)
        axis.set_title(f"{title}: rank correlation {rho:+.2f}, {count} points", loc="left", fontsize=9)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.axvline(0.5, color="grey", linewidth=0.8)
        axis.set(xlabel="forecast before training", xlim=(0, 1.02), ylim=(-60, 103))
    axes[0].set_ylabel("change of held-out accuracy, points")
    handles, labels = axes[0].get_legend_handles_labels()
    shown.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    shown.savefig(file, dpi=160)
    plt.close(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "table"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the samples' folders")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    if args.what == "draw":
        if missing := missing_base(MINIATURES.values()):
            parser.error(missing)
        draw(args.runs / "forecast")
        return
    file = args.out / "forecast.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    drawn = {name: args.runs / "forecast" / name for name in MINIATURES}
    drawn |= {f"SmolLM2, {path.name}": path for path in sorted((args.runs / "real-base-probe").glob("*"))}
    for name, path in drawn.items():
        if rows := [row for _, row in JsonLog(path / "samples.jsonl").rows()]:
            found[name] = rounded(digest(rows))
    if not found:
        parser.error(f"no samples under {args.runs} and no forecasts in {file}: run forecast_results.py draw first")
    points = all_points(args.out, found)
    replace_file(file, json.dumps(found) + "\n")
    replace_file(file.with_suffix(".md"), page(points))
    figure(points, file.with_suffix(".png"))
    print(page(points))


if __name__ == "__main__":
    call(main)
