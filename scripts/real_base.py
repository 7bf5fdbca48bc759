"""Teaches SmolLM2-135M to answer easy problems in form without solved examples, from its own samples and no label.

    python scripts/real_probe.py draw --families steps story larger capital_city
    python scripts/real_base.py                       # writes runs/real-base, about ten minutes of one core

With three solved problems before each problem a prompt has about 190 tokens, and the study would take days on two
cores. So the model is trained on its own answers to such prompts, put after the problem alone: a prompt then has about
45 tokens. Of eight samples the first four are taken, right or wrong, if they ended; no answer is read. This is context
distillation by samples. The base of the study is this model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from real_probe import MODEL, PROBLEMS, SEED, TAUGHT
from refusals import call
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

import rlif
from rlif.files.atomic import replace_file
from rlif.files.jsonl import JsonLog
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.sampling.sources import weights_line, weights_of
from rlif.tasks import find_task
from rlif.tasks.easy import ALONE, PREFIX
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import render_all

RECIPE = Path(__file__).with_name("real.yaml")
EACH = 4  # samples of a problem


def lessons(tokenizer: Any, family: str, samples: Path) -> list[dict[str, list[int]]]:
    """Puts the samples of a family that ended after their problems alone, as token ids and labels."""
    task = find_task(f"{PREFIX}{family}.{ALONE}")
    prompt, found = PROMPTS[task.protocol.prompt], []
    prompts = {p.id: prompt for p, prompt in zip(*_rendered(tokenizer, task, prompt), strict=True)}
    for _, row in JsonLog(samples).rows():
        if row["sample"] < EACH and not row["truncated"]:
            ids = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            before = prompts[row["id"]]
            found.append({"input_ids": before + ids, "labels": [-100] * len(before) + ids})
    return found


def _rendered(tokenizer: Any, task: Any, prompt: Any) -> tuple[Sequence[Any], list[list[int]]]:
    problems = task.load("train", limit=PROBLEMS, seed=SEED)
    return problems, render_all(tokenizer, prompt, [problem.text for problem in problems], True)


def teach(rows: Sequence[dict[str, list[int]]], model: Any, tokenizer: Any, out: Path, epochs: int, rate: float) -> Any:
    """Trains all weights on the rows with TRL's SFTTrainer and saves the model."""
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([*rows]),
        args=SFTConfig(
            output_dir=str(out / "work"),
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            learning_rate=rate,
            lr_scheduler_type="linear",
            warmup_steps=3,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            seed=0,
        ),
    )
    trainer.train()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return trainer.state.log_history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, default=Path("runs/real-probe"), help="folder of the probe's samples")
    parser.add_argument("--out", type=Path, default=Path("runs/real-base"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-5)
    args = parser.parse_args()
    recipe, started = rlif.load_recipe(RECIPE, [f"model={MODEL}"]), time.time()
    tokenizer = load_tokenizer(recipe)
    rows = [row for family in TAUGHT for row in lessons(tokenizer, family, args.samples / family / "samples.jsonl")]
    history = teach(rows, load_model(recipe), tokenizer, args.out, args.epochs, args.rate)
    made = {
        "from": weights_line(weights_of(MODEL)),
        "families": TAUGHT,
        "samples": len(rows),
        "epochs": args.epochs,
        "learning_rate": args.rate,
        "loss": [row["loss"] for row in history if "loss" in row],
        "seconds": round(time.time() - started),
    }
    replace_file(args.out / "base.json", json.dumps(made, indent=1) + "\n")
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    call(main)
