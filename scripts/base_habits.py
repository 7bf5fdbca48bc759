"""Samples models at temperature 1; counts their habits, and how sure, right and long each is.

    python scripts/base_habits.py rlif/models/tiny-reasoner
    python scripts/base_habits.py runs/wrong-and-sure-base --out results/wrong-and-sure-base-habits.json
    python scripts/base_habits.py rlif/models/tiny-reasoner runs/bases/* --out results/bases.json --out results/bases.md

The first word tells the habit; `base_writers` shows the texts. Of all pairs of a worked solution and one of another
habit, on different problems too, `steps surer` is the share in which the worked one has the larger self-certainty, and
`steps longer` that in which it has more tokens; ties count half. The token that ends a completion counts.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from refusals import call
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlif
from rlif.intervals import proportion
from rlif.reporting.analysis import separation
from rlif.sampling.sampler import Decoding, generate
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import render_all

HABITS = {"The": "leap", "First": "steps", "Hmm": "ramble"}


def sample(folder: str, family: str, limit: int) -> list[dict[str, Any]]:
    """Samples one completion for each held-out problem of a family."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    task = rlif.TASKS[family]
    problems = task.load("test", limit=limit)
    prompts = render_all(tokenizer, PROMPTS["plain"], [problem.text for problem in problems], chat=True)
    completions = generate(model, tokenizer, prompts, Decoding(56, temperature=1.0), batch_size=limit)
    stats = rlif.score_completions(model, prompts, [c.completion_ids for c in completions], batch_size=64)
    sure = rlif.SIGNALS["self_certainty"](stats)
    return [
        {
            "habit": HABITS.get(completion.text.split(" ")[0], "other"),
            "sure": certainty,
            "right": bool(task.grade(problem, completion.text)),
            "tokens": len(completion.completion_ids),
        }
        for problem, completion, certainty in zip(problems, completions, sure, strict=True)
        if certainty is not None
    ]


def count(name: str, family: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes a row for each habit of a model on a family."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in samples:
        found[row["habit"]].append(row)
    worked = found["steps"]
    rows = []
    for habit, mine in sorted(found.items()):
        row: dict[str, Any] = {"base": name, "family": family, "habit": habit, "n": len(mine)}
        row |= {"self_certainty": _mean(mine, "sure"), "tokens": _mean(mine, "tokens"), "right": _mean(mine, "right")}
        if habit != "steps" and worked and mine:
            flags = [True] * len(worked) + [False] * len(mine)
            for title, column in (("surer", "sure"), ("longer", "tokens")):
                apart = separation([float(r[column]) for r in [*worked, *mine]], flags)
                row[title] = apart.auroc if apart else None
        if mine:
            rows.append(row)
    return rows


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def table(rows: list[dict[str, Any]], command: str) -> str:
    """Formats the rows as markdown."""
    lines = [
        "# Habits of the bases",
        "",
        f"    {command}",
        "",
        "| base | family | habit | n | self-certainty | tokens | right | steps surer | steps longer |",
    ]
    lines += ["|" + " --- |" * 9]
    for row in rows:
        right = proportion(round(row["right"] * row["n"]), row["n"])
        pair = [f"{row[key]:.0%}" if key in row else "-" for key in ("surer", "longer")]
        cells = [
            row["base"],
            row["family"],
            row["habit"],
            row["n"],
            f"{row['self_certainty']:.2f}",
            f"{row['tokens']:.1f}",
            right,
            *pair,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", (__doc__ or "").split("\n\n", 2)[2].strip(), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model folders")
    parser.add_argument("--out", type=Path, action="append", default=[], help="a .json or .md file; repeatable")
    parser.add_argument("--limit", type=int, default=256, help="held-out problems of each family")
    args = parser.parse_args()
    rows = []
    for folder in args.models:
        for family in ("clock", "cups"):
            rows += count(Path(folder).name, family, sample(folder, family, args.limit))
    text = table(rows, "python scripts/base_habits.py MODELS")
    print(text)
    for path in args.out:
        path.write_text(text if path.suffix == ".md" else json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    call(main)
