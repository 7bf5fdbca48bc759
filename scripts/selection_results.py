"""Samples each problem once, compares every rule of choosing over N, and writes the results.

    python scripts/selection_results.py tiny-reasoner runs/demo/model

The second model is written by `rlif train demo-long name=demo`. The results are `results/selection.json`, `.md` and
`.png`. Nothing was tuned on them. Borda's p, the window and the percentiles are the papers', with the window scaled to
these short traces. Every rule is reported.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from refusals import call

import rlif
from rlif.config.recipe import Recipe
from rlif.runs.environment import environment
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.sampling.protocol import decoding_of
from rlif.selection.figure import draw
from rlif.selection.samples import GroupSampler
from rlif.selection.scaling import early_line, early_stop_report, markdown, scaling
from rlif.selection.scorer import Scorer

TASKS = ("clock", "cups")
WINDOW = 8  # DeepConf's 2,048 tokens are about a tenth of its traces; worked solutions here take 30 to 50


def compare(
    model: str, task: str, *, limit: int, n: int, early_limit: int, percentiles: Sequence[float]
) -> dict[str, Any]:
    """Draws samples of one model on one task, and measures every rule on them."""
    recipe = Recipe(model=model)
    scorer = Scorer(load_model(recipe), load_tokenizer(recipe), batch_size=512, window=WINDOW, name=model)
    found = rlif.TASKS[task]
    problems = found.load("test", limit=limit)
    sampler = GroupSampler(scorer, found, decoding_of(found, n=n, temperature=1.0))
    started = time.perf_counter()
    rows = sampler.draw(problems)
    drawn = time.perf_counter()
    table = scaling(rows, equal=found.equal)
    some = problems[:early_limit]
    whole = [row for row in rows if row["id"] in {problem.id for problem in some}]
    warm = [row for row in whole if row["sample"] < 16]
    early = {
        f"{percent:g}": early_stop_report(whole, sampler.draw_with_stops(some, warm, percent=percent))
        for percent in percentiles
    }
    return {
        "model": model,
        "task": task,
        "seconds": {"sampling": drawn - started, "all": time.perf_counter() - started},
        "scaling": table,
        "early_stop": early,
    }


def page(results: Sequence[dict[str, Any]], command: str, where: dict[str, Any], early_limit: int) -> str:
    lines = [
        "# Best of N with tiny-reasoner",
        "",
        f"    {command}",
        "",
        "Held-out problems, sampled once at temperature 1. `mean@1` is a single sample, `pass@N` the oracle. How N is"
        " resampled and what the intervals are: `rlif/selection/scaling.py`; the rules: `rlif/selection/rules.py`."
        f" Window confidences have a window of {WINDOW} tokens. `runs/demo/model` is what"
        " `rlif train demo-long name=demo` leaves.",
        "",
        "![Accuracy of the rules over N](selection.png)",
    ]
    for result in results:
        lines += ["", f"## {result['model']} on {result['task']}", "", markdown(result["scaling"])]
        for percent, found in result["early_stop"].items():
            lines += ["", f"Threshold at percentile {percent}, {early_limit} problems. {early_line(found)}"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    seconds = ", ".join(f"{r['seconds']['sampling']:.0f} of {r['seconds']['all']:.0f}" for r in results)
    return "\n".join(
        [
            *lines,
            "",
            f"Seconds spent sampling and scoring, of all: {seconds}. One thread of {where['cpus']} CPU cores,"
            f" {where['system']}, Python {where['python']}; {packages}; rlif {where['rlif']} at {where['commit']}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="tiny-reasoner, or model folders")
    parser.add_argument("--limit", type=int, default=128, help="held-out problems of each task")
    parser.add_argument("--n", type=int, default=64, help="samples of each problem")
    parser.add_argument(
        "--early-limit", type=int, default=64, help="problems that are also sampled with early stopping"
    )
    parser.add_argument("--percentiles", type=float, nargs="+", default=[10, 90])
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = [
        compare(model, task, limit=args.limit, n=args.n, early_limit=args.early_limit, percentiles=args.percentiles)
        for model in args.models
        for task in TASKS
    ]
    command = f"python scripts/selection_results.py {' '.join(args.models)} --limit {args.limit} --n {args.n}"
    args.out.mkdir(parents=True, exist_ok=True)
    where = environment()
    (args.out / "selection.json").write_text(json.dumps({"environment": where, "results": results}) + "\n", "utf-8")
    text = page(results, command, where, args.early_limit)
    (args.out / "selection.md").write_text(text, "utf-8")
    draw(
        {f"{Path(r['model']).parent.name or r['model']}, {r['task']}": r["scaling"] for r in results},
        args.out / "selection.png",
    )
    print(text)


if __name__ == "__main__":
    call(main)
