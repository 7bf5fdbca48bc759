"""Makes a base that mostly ends after its answer and can go on to a next problem, from SmolLM2's own samples.

    python scripts/frozen_base.py draw       # four samples of 64 problems as plain text, into runs/frozen-samples
    python scripts/frozen_base.py teach      # writes runs/frozen-base
    python scripts/frozen_base.py measure    # writes results/frozen-base.json

As plain text, without an end of turn, SmolLM2 nearly always goes on after its answer, often with another problem. So
`teach` cuts three of four samples at their first blank line, and trains the model on all of them. It reads no answer.

`measure` draws eight samples of other problems from the base, as training does, and compares those that go on to a next
problem, by the guard's rule, with the others: accuracy, tokens, self-certainty (nats a token), and how often the surest
sample of a problem goes on. If it goes on more often than the average sample, a frozen annotator rewards going on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from plain_story import PlainStory
from real_base import teach
from real_probe import MODEL, Row, surest
from refusals import call

import rlif
from rlif.answers.clusters import by_problem
from rlif.comparison.summary import rounded
from rlif.files.atomic import replace_file
from rlif.files.jsonl import JsonLog
from rlif.guard.health import goes_on
from rlif.intervals import proportion
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.sampling.protocol import decoding_of
from rlif.selection.drawing import Drawing
from rlif.selection.samples import GroupSampler
from rlif.selection.scorer import load_scorer
from rlif.tasks.chat_template import Chat
from rlif.tasks.prompts import PROMPTS

RECIPE = Path(__file__).with_name("frozen.yaml")
PROBLEMS, TAUGHT = 64, 4  # to teach: problems, samples of each
MEASURED, SAMPLES = 32, 8  # to measure
SEED, OTHER_SEED = 1000, 1001
BREAK = "\n\n"


def draw(model: str, folder: Path, limit: int, samples: int, seed: int) -> Sequence[Row]:
    """Draws and scores those samples that the folder lacks, at the temperature of the study."""
    task = PlainStory()
    temperature = rlif.load_recipe(RECIPE).resolved_training["temperature"]
    scorer = load_scorer(model, chat=Chat(False, None, False), window=None, dtype="float32", batch_size=64)
    decoding = decoding_of(task, temperature=temperature, n=samples, seed=seed)
    problems = task.load("train", limit=limit, seed=seed)
    rows, _ = Drawing(GroupSampler(scorer, task, decoding), problems).draw(folder, {"dtype": "float32"})
    return rows


def lessons(tokenizer: Any, rows: Sequence[Row]) -> list[dict[str, list[int]]]:
    """Puts samples after their prompts as token ids and labels; the last sample of each problem stays uncut."""
    template = PROMPTS[PlainStory().protocol.prompt]
    prompts = {each.id: template.text(each.text) for each in PlainStory().load("train", limit=PROBLEMS, seed=SEED)}
    found = []
    for row in rows:
        whole, text = row["sample"] == TAUGHT - 1, row["completion"]
        cut = text if whole else text.partition(BREAK)[0]
        ends = cut != text or not row["truncated"]
        if not cut.strip():
            continue
        ids = tokenizer.encode(cut, add_special_tokens=False)
        before, ids = tokenizer.encode(prompts[row["id"]]), ids + [tokenizer.eos_token_id] * ends
        found.append({"input_ids": before + ids, "labels": [-100] * len(before) + ids})
    return found


def measured(rows: Sequence[Row]) -> dict[str, Any]:
    """Compares the samples that go on with the others."""
    groups = [*by_problem(rows).values()]
    sure = [surest(group)["completion"] for group in groups]
    ends, more = ([row for row in rows if goes_on(row["completion"]) is yes] for yes in (False, True))
    return {
        "problems": len(groups),
        "samples": len(rows),
        "share that goes on": proportion(len(more), len(rows)).as_dict(),
        "surest goes on": proportion(sum(map(goes_on, sure)), len(groups)).as_dict(),
        "goes on": about(more),
        "others": about(ends),
        "surest of all": surest(rows)["completion"],
    }


def about(rows: Sequence[Row]) -> dict[str, float]:
    """Averages columns over the samples that have a self-certainty."""
    scored = [row for row in rows if row["self_certainty"] is not None]
    if not scored:
        return {"samples": len(rows)}
    named = {"accuracy": "right", "tokens": "tokens", "self-certainty": "self_certainty"}
    means = {name: fmean(row[column] for row in scored) for name, column in named.items()}
    return {"samples": len(rows), "scored": len(scored)} | means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "teach", "measure"))
    parser.add_argument("--samples", type=Path, default=Path("runs/frozen-samples"))
    parser.add_argument("--base", type=Path, default=Path("runs/frozen-base"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-4)
    args = parser.parse_args()
    if args.what == "draw":
        print(json.dumps(measured(draw(MODEL, args.samples / MODEL, PROBLEMS, TAUGHT, SEED)), indent=1))
    elif args.what == "teach":
        recipe = rlif.load_recipe(RECIPE, [f"model={MODEL}"])
        rows = [row for _, row in JsonLog(args.samples / MODEL / "samples.jsonl").rows()]
        if len(rows) < PROBLEMS * TAUGHT:
            parser.error(
                f"{args.samples} has {len(rows)} of {PROBLEMS * TAUGHT} samples: run frozen_base.py draw first"
            )
        tokenizer = load_tokenizer(recipe)
        teach(lessons(tokenizer, rows), load_model(recipe), tokenizer, args.base, args.epochs, args.rate)
    elif not (args.base / "config.json").is_file():
        parser.error(f"{args.base} is not a folder of a model: run frozen_base.py teach first")
    else:
        rows = draw(str(args.base), args.samples / args.base.name, MEASURED, SAMPLES, OTHER_SEED)
        found = rounded(measured(rows))
        args.out.mkdir(parents=True, exist_ok=True)
        replace_file(args.out / "frozen-base.json", json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    call(main)
