"""Compares the estimate of `rlif plan` with steps run on this machine.

    python scripts/plan_check.py results/plan-check

Measures a matrix product and a copy on this machine, and uses these speeds instead of a data sheet. Then trains a
random model of 28 M parameters for a few steps in several ways, and writes predicted and measured seconds by part.
The shares that a plan assumes are not adjusted, since they are what is checked. On a CPU, seconds are CPU time, so that
other jobs count little. Give it one thread (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from refusals import call
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

import rlif
from rlif.engines.trl.trainer import InternalFeedback
from rlif.launching import cost_model as costs
from rlif.launching.hardware import Gpu, config_of, shape_of
from rlif.runs.environment import environment
from rlif.sampling.loading import SHIPPED

STEPS, WARM = 4, 1  # the first step is left out
COMMON = [
    *("task=clock", "prompt=plain", "evaluate={}", "guard.prompt_check=0", "dtype=float32", "limit=64"),
    *("problems_per_update=2", "training.num_generations=4", "training.per_device_train_batch_size=8"),
    *("training.beta=0", "training.learning_rate=1e-6", f"training.max_steps={STEPS}", "training.save_strategy=no"),
]
CASES = {
    "96 tokens": ["training.max_completion_length=96"],
    "32 tokens": ["training.max_completion_length=32"],
    "gradient checkpointing": ["training.max_completion_length=96", "training.gradient_checkpointing=true"],
    "reference model": ["training.max_completion_length=96", "training.beta=0.1"],
    "adapters": ["training.max_completion_length=96", "lora={r: 8, target_modules: all-linear}"],
}


def now() -> float:
    """Returns seconds: CPU time, or wall time after all work on the GPU has ended."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def ceiling(work: float, run: Any, repeats: int = 9) -> float:
    """Measures work per second, as the median of several runs."""
    seconds = []
    for _ in range(repeats):
        began = now()
        run()
        seconds.append(now() - began)
    return work / median(seconds)


def machine() -> Gpu:
    """Measures this device: a float32 product of the model's own sizes, and a copy of 256 MiB."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(1024, 512, device=device), torch.randn(512, 1408, device=device)
    block = torch.randn(2**26, device=device)
    other = torch.empty_like(block)
    flops = ceiling(2 * 1024 * 512 * 1408 * 20, lambda: [a @ b for _ in range(20)])
    return Gpu(1e6, flops, flops, ceiling(2 * 4 * 2**26, lambda: other.copy_(block)), "measured")


def make_model(folder: Path) -> None:
    """Saves a random model that never ends a completion, with the shipped tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(Path(rlif.__file__).parent / SHIPPED["tiny-reasoner"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


class Clock:
    """Adds up seconds inside some methods of the trainer, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"generation": [], "scoring": []}
        self.began: list[float] = []  # of rollouts

    def around(self, name: str, method: Any) -> Any:
        """Wraps a method to time it. Passes with gradients are not timed; they belong to training."""

        def timed(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            if name == "scoring" and torch.is_grad_enabled():
                return method(trainer, *args, **kwargs)
            began = now()
            result = method(trainer, *args, **kwargs)
            self.seconds[name].append(now() - began)
            self.began += [began] if name == "generation" else []
            return result

        return timed


def measure(folder: Path, overrides: list[str]) -> tuple[dict[str, float], Any]:
    """Trains one case; returns the median seconds of a step by part, and the recipe."""
    clock, kept = Clock(), {}
    for name, method in (("generation", "_generate"), ("scoring", "_get_per_token_logps_and_entropies")):
        kept[method] = getattr(InternalFeedback, method)
        setattr(InternalFeedback, method, clock.around(name, kept[method]))
    try:
        recipe = rlif.load_recipe("demo-long", [f"model={folder}", f"output={folder}/runs", *COMMON, *overrides])
        run = rlif.train(recipe)
    finally:
        for method, original in kept.items():
            setattr(InternalFeedback, method, original)
    step = median(after - before for before, after in itertools.pairwise(clock.began[WARM:]))
    generation = median(clock.seconds["generation"][WARM:])
    each = clock.seconds["scoring"]
    passes = len(each) // STEPS
    scoring = median(each[passes * WARM :]) * passes if passes else 0.0
    found = {"generation": generation, "scoring": scoring, "training": step - generation - scoring, "total": step}
    return found, run.recipe()


def main() -> None:
    """Runs all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="name of a .json and a .md file, without suffix")
    out = parser.parse_args().out
    rows, card = [], machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        for case, overrides in CASES.items():
            measured, recipe = measure(folder, overrides)
            length = recipe.training["max_completion_length"]
            setting = costs.Setting(
                recipe, shape_of(config_of(recipe)), card, 1, "ddp", 0, prompt=24, completion=length
            )
            time_ = costs.step_time(setting)
            predicted = {part: getattr(time_, part) for part in measured}
            rows.append({"case": case, "predicted": predicted, "measured": measured})
            print(case, {part: f"{predicted[part]:.2f} / {measured[part]:.2f}" for part in measured}, flush=True)
    facts = environment()
    ratios = sorted(row["predicted"]["total"] / row["measured"]["total"] for row in rows)
    lines = [
        "# `rlif plan` against steps that were run",
        "",
        "`python scripts/plan_check.py results/plan-check`: a random model of 28 M parameters in float32. Ceilings",
        f"measured here: {card.single / 1e9:.0f} GFLOP/s (matrix product), {card.bandwidth / 1e9:.1f} GB/s (copy).",
        "Seconds of a step, predicted / measured (median of 2):",
        "",
        "| case | generation | scoring | training | step | predicted : measured |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        pairs = [f"{row['predicted'][p]:.2f} / {row['measured'][p]:.2f}" for p in row["measured"]]
        ratio = row["predicted"]["total"] / row["measured"]["total"]
        lines.append(f"| {row['case']} | {' | '.join(pairs)} | {ratio:.2f} |")
    lines += ["", f"A whole step was predicted at {ratios[0]:.2f} to {ratios[-1]:.2f} of what it took.", ""]
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    lines += [f"Machine: {facts['cpus']} cores, {facts['threads']} threads, {facts['system']}; {versions}.", ""]
    out.with_suffix(".md").write_text("\n".join(lines))
    out.with_suffix(".json").write_text(json.dumps({"ceilings": vars(card), "rows": rows, "environment": facts}))


if __name__ == "__main__":
    call(main)
