"""Samples a model at temperature 1; counts how often it leaps, steps or rambles, and how sure and right it is.

python scripts/base_habits.py rlif/models/tiny-reasoner
python scripts/base_habits.py runs/wrong-and-sure-base --out results/wrong-and-sure-base-habits.json
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlif
from rlif.sampling.sampler import Decoding, generate
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import render

HABITS = {"The": "leap", "First": "steps", "Hmm": "ramble"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder")
    parser.add_argument("--out", type=Path, help="a .json file")
    parser.add_argument("--limit", type=int, default=256, help="held-out problems of each family")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model)
    kept: list[dict[str, Any]] = []
    for family in ("clock", "cups"):
        torch.manual_seed(0)
        task = rlif.TASKS[family]
        problems = task.load("test", limit=args.limit)
        prompts = [render(tokenizer, PROMPTS["plain"], problem.text, chat=True) for problem in problems]
        completions = generate(model, tokenizer, prompts, Decoding(56, temperature=1.0), batch_size=args.limit)
        stats = rlif.score_completions(model, prompts, [c.completion_ids for c in completions], batch_size=64)
        found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        for problem, completion, sure in zip(problems, completions, rlif.SIGNALS["self_certainty"](stats), strict=True):
            if sure is not None:
                habit = HABITS.get(completion.text.split(" ")[0], "other")
                found[habit].append((sure, bool(task.grade(problem, completion.text))))
        for habit, rows in sorted(found.items()):
            certainty, right = (sum(column) / len(rows) for column in zip(*rows, strict=True))
            print(f"{family} {habit:6s}  {len(rows):3d}  self-certainty {certainty:.2f}  right {right:.0%}")
            kept.append({"family": family, "habit": habit, "n": len(rows), "self_certainty": certainty, "right": right})
    if args.out:
        args.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
