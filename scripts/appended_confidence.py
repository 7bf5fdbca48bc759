"""Measures whether a frozen annotator would reward an appended solution.

    python scripts/appended_confidence.py runs/goes-on-base

Takes 64 held-out problems of clock with their worked solutions, as the writers goes-on of base_writers.py write them:
once alone, and once followed by the solution of another problem. Writes results/appended-confidence.json with the mean
self-certainty of a token, in nats: of the solution alone, of its tokens and of the appended ones where it is followed,
and of the whole. A frozen annotator rewards going on where the whole is above the solution alone. The results of
earlier bases are kept under names with a date.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from base_writers import ANOTHER, completion
from refusals import call

import rlif
from rlif.comparison.summary import rounded
from rlif.config.loading import check_recipe
from rlif.files.atomic import replace_file
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.scoring.statistics import score_completions
from rlif.signals.self_certainty import token_self_certainty
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import render_all

PROBLEMS = 64


def parts(base: str) -> dict[str, Any]:
    """Computes the means over problems, in nats a token, and how often the whole is above the solution alone."""
    recipe = check_recipe({"model": base})
    model, tokenizer = load_model(recipe), load_tokenizer(recipe)
    problems = rlif.TASKS["clock"].load("test", limit=PROBLEMS)
    prompt_ids = render_all(tokenizer, PROMPTS["plain"], [problem.text for problem in problems], chat=True)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def certainty(completion_ids: list[list[int]]) -> list[torch.Tensor]:
        stats = score_completions(model, prompt_ids, completion_ids)
        return [row_T[mask_T] for row_T, mask_T in zip(token_self_certainty(stats), stats.mask_BT, strict=True)]

    rng = random.Random(0)
    solved = [encode(completion(problem, "steps", rng, "goes-on")) for problem in problems]
    end, another = [tokenizer.eos_token_id], encode(ANOTHER["clock"])
    alone, followed = certainty([ids + end for ids in solved]), certainty([ids + another + end for ids in solved])
    found = {
        "solution alone": [row_T.mean().item() for row_T in alone],
        "solution, followed": [row_T[: len(ids)].mean().item() for row_T, ids in zip(followed, solved, strict=True)],
        "appended solution": [row_T[len(ids) :].mean().item() for row_T, ids in zip(followed, solved, strict=True)],
        "both": [row_T.mean().item() for row_T in followed],
    }
    higher = sum(both > one for both, one in zip(found["both"], found["solution alone"], strict=True))
    return {"problems": len(solved), "both above alone": higher} | {name: fmean(of) for name, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="+", type=Path, help="folders of bases of pretrain_reasoner.py")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    if missing := [base for base in args.bases if not (base / "config.json").is_file()]:
        parser.error(f"{missing[0]} is not a folder of a model; pretrain_reasoner.py makes it")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "appended-confidence.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found |= {base.name: rounded(parts(str(base))) for base in args.bases}
    replace_file(file, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    call(main)
