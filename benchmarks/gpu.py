"""Measures on a GPU: what the card reaches, scoring and steps at Qwen2.5 shapes, and a larger demo-long.

    ceilings   floating-point operations per second of a large matrix product, bytes per second of a large copy
    scoring    `benchmarks/scoring.py` in bfloat16; operations and bytes per second against the ceilings
    steps      `benchmarks/step.py` in bfloat16, with several problems in a prompt
    demo       `rlif train demo-long` with four times the problems per update, over three seeds

Weights are random. The path of vLLM (`--paths vllm`) has not been tried yet. `--device cpu --shapes tiny` runs the
same code in small, to test it. Its numbers mean nothing.

python benchmarks/gpu.py --out results/bench-gpu
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scoring
import step
import torch
from contestants import PATHS, Setting
from measure import options, spread, table, timed, write

import rlif
from rlif.runs.folder import Run

Row = dict[str, Any]


def ceilings(device: str, dtype: str, size: int, repeats: int = 10) -> Row:
    """Measures the ceilings: FLOP/s of a [size, size] product, bytes/s of a copy of 16 * size^2 bytes."""
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    source, target = (torch.empty(4 * size * size, device=device, dtype=torch.float32) for _ in range(2))
    for work in (lambda: a @ b, lambda: target.copy_(source)):
        timed(work, device)
    products = [timed(lambda: a @ b, device).wall for _ in range(repeats)]
    copies = [timed(lambda: target.copy_(source), device).wall for _ in range(repeats)]
    return {
        "flops_per_second": 2.0 * size**3 / spread(products).median,
        "bytes_per_second": 2.0 * source.nbytes / spread(copies).median,  # read and written
    }


def scored(shape: str, V: int, T: int, dtype: str, device: str, rounds: int) -> Row:
    """Measures scoring of 4 completions, with the operations and bytes per second that it reaches.

    The bytes are those that must pass through memory: every weight once, the float32 logits written and read once.
    """
    row = scoring.measure(scoring.Case(shape, 4, T, V, dtype, device), rounds)
    model = scoring.build(shape, dtype, device, vocab_size=V)
    weights = sum(p.nbytes for p in model.parameters())
    seconds = row["seconds"]["ours"].median
    moved = weights + 2 * 4 * 4 * T * V
    return row | {"flops_per_second": row["flops"] / seconds, "bytes_per_second": moved / seconds}


def demo(device: str, seeds: Sequence[int], steps: int) -> list[Row]:
    """Runs demo-long at a larger scale: accuracy before and after, and seconds."""
    rows = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder, working_in(folder):
            changes = {
                "problems_per_update": 128, "seed": seed, "evaluate.every": steps, "training.max_steps": steps,
                "training.use_cpu": device == "cpu", "training.per_device_train_batch_size": 256,
            }  # fmt: skip
            if device == "cpu":
                changes |= {"problems_per_update": 4, "training.per_device_train_batch_size": 32, "evaluate.limit": 8}
            recipe = rlif.load_recipe("demo-long", [f"{name}={value}" for name, value in changes.items()])
            lap = timed(lambda recipe=recipe: rlif.train(recipe, name="bench"), device)
            run = Run.open(next(Path("runs").iterdir()))
            shown = {
                f"{task}, step {n}": scores["accuracy"]
                for task, of in run.evaluations().items()
                for n, scores in of.items()
            }
            rows.append({"seed": seed, "seconds": lap.wall, "accuracy": shown})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


@contextlib.contextmanager
def working_in(folder: str) -> Any:
    """Changes the working folder, where runs are written."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def summary(
    best: Row, rows: Sequence[Row], largest: Sequence[Row], steps: Sequence[Row], demos: Sequence[Row]
) -> list[str]:
    """Writes the tables."""
    lines = [
        f"Ceilings measured here: {best['flops_per_second'] / 1e12:.1f} TFLOP/s,"
        f" {best['bytes_per_second'] / 1e12:.2f} TB/s.",
        "",
        "## Scoring",
        "",
    ]
    header = ["model", "B, T, V", "ours, s", "ours / full", "ours / limit", "peak MiB: ours, full, limit"]
    header += ["TFLOP/s, of ceiling", "GB/s, of ceiling"]
    lines += [*table(header, [_scored_line(row, best) for row in rows]), ""]
    for row in largest:
        lines.append(
            f"- {row['shape']}: [{row['B']}, {row['T']:,}, {row['V']:,}] takes {row['peak_mib']:,.0f} MiB at its peak,"
            f" the logits alone {row['logits_mib']:,.0f} MiB."
        )
    lines += ["", *step.summary(steps), "", "## demo-long, larger", ""]
    named = list(demos[0]["accuracy"]) if demos else []
    values = [
        [row["seed"], f"{row['seconds']:.0f}", *(_percent(row["accuracy"][name]) for name in named)] for row in demos
    ]
    return lines + table(["seed", "seconds", *named], values)


def _percent(accuracy: Row) -> str:
    return f"{100 * accuracy['mean']:.1f} [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"


def _scored_line(row: Row, best: Row) -> list[str]:
    peaks = ", ".join(f"{row['peak_mib'][name]:,.0f}" for name in ("ours", "full", "limit"))
    shares = [
        f"{row[key] / unit:,.1f}, {row[key] / best[key]:.0%}"
        for key, unit in (("flops_per_second", 1e12), ("bytes_per_second", 1e9))
    ]
    ratios = [row[f"ours/{other}"]["wall"].show(2) for other in ("full", "limit")]
    return [
        row["shape"],
        f"{row['B']}, {row['T']:,}, {row['V']:,}",
        row["seconds"]["ours"].show(),
        *ratios,
        peaks,
        *shares,
    ]


def main() -> None:
    parser = options(__doc__, "gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default="qwen2.5-1.5b,qwen2.5-3b")
    parser.add_argument("--paths", default=",".join(path for path in PATHS if path != "vllm"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of demo-long; 0 leaves it out")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device here, so nothing was measured.")
        return
    small = args.device == "cpu"
    shapes, V, T = args.shapes.split(","), 512 if small else 151_936, 16 if small else 1024
    dtype = "float32" if small else "bfloat16"
    best = ceilings(args.device, dtype, 256 if small else 8192)
    rows = [scored(shape, V, T, dtype, args.device, args.rounds) for shape in shapes]
    largest = [scoring.at_the_largest(shape, dtype, args.device, 4, 24 if small else 3584, V) for shape in shapes]
    setting = Setting(
        Path(), batch=4, group=4, accumulation=1 if small else 4, tokens=6 if small else 256, joined=1 if small else 8,
        dtype=dtype, device=args.device, optim="sgd",
    )  # fmt: skip
    steps = [row for shape in shapes for row in step.measure(shape, args.paths.split(","), setting, args.rounds)]
    demos = demo(args.device, range(args.seeds), 1 if small else 30)
    result = {"ceilings": best, "scoring": rows, "largest": largest, "steps": steps, "demo": demos}
    command = f"python benchmarks/gpu.py --shapes {args.shapes} --rounds {args.rounds} --out {args.out}"
    write(args.out, "On a GPU", command, summary(best, rows, largest, steps, demos), result)


if __name__ == "__main__":
    main()
