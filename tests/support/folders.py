"""Makes up run folders for tests of code that reads them."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from rlif.intervals import proportion

Row = dict[str, Any]
SUPERSCRIPT = "²".encode(
    sys.getfilesystemencoding(), "ignore"
).decode()  # isdigit() is true; empty if file names are ASCII
N = 200  # number of problems in the accuracies of graded runs


def make_run(
    folder: Path,
    *,
    steps: int = 12,
    every: int = 4,
    problems: int = 24,
    tasks: tuple[str, ...] = ("clock", "cups"),
    collapse: bool = False,
    finished: bool = True,
    rows: list[Row] | None = None,
    **recipe: Any,
) -> Path:
    """Writes a run that learns; with `collapse` its second half loses the accuracy again."""
    rng = random.Random(0)
    for part in ("completions", "eval"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    settings = {"task": "clock", "reward": "self_certainty", "annotator": "online", "training": {"max_steps": steps}}
    write_json(folder / "recipe.yaml", settings | recipe)
    write_json(
        folder / "environment.json", {"rlif": "0.1.0", "commit": "abc", "cpus": 2, "system": "Linux", "gpus": []}
    )
    if finished:
        write_json(folder / "summary.json", {"steps": steps, "seconds": 9.5, "path": "decode", "extra_passes": 0})
    write_lines(
        folder / "metrics.jsonl", [metrics_row(step, collapse and step > steps / 2) for step in range(1, steps + 1)]
    )
    for step in range(1, steps + 1):
        kept = rows or [completion_row(step, i, rng) for i in range(16)]
        write_lines(folder / f"completions/step-{step:06d}.jsonl", kept)
    for task in tasks:
        for step in range(0, steps + 1, every):
            skill = 0.1 if step == 0 or (collapse and step > steps / 2) else 0.9
            records = [record(i, rng, skill) for i in range(problems)]
            accuracy = proportion(sum(row["right"] for row in records), problems).as_dict()
            summary = {"task": task, "accuracy": accuracy, "completion_length": 10 + step, "self_certainty": 6.0}
            write_json(folder / f"eval/step-{step:06d}-{task}.json", summary)
            write_lines(folder / f"eval/step-{step:06d}-{task}.jsonl", records)
    return folder


def graded_run(folder: Path, seed: int, *shares: float, **changes) -> Path:
    """Writes a finished run with these accuracies on clock at steps 0, 4, 8 ..., and in reverse order on cups."""
    steps = 4 * (len(shares) - 1)
    tasks = changes.pop("tasks", ("clock", "cups"))
    settings = {"evaluate": {"tasks": list(tasks), "limit": N}, "guard": {"policy": "log"}, **changes}
    path = make_run(folder, steps=steps, problems=8, tasks=tasks, seed=seed, **settings)
    for task in tasks:
        for i, share in enumerate(shares if task == "clock" else shares[::-1]):
            place = path / f"eval/step-{4 * i:06d}-{task}.json"
            look = json.loads(place.read_text(encoding="utf-8")) | {
                "accuracy": proportion(round(N * share), N).as_dict(),
                "problems": N,
            }
            write_json(place, look | {"completion_length": 10.0 + i, "self_certainty": 6 + i / 10 + seed / 7})
    return path


def metrics_row(step: int, lost: bool = False) -> Row:
    certainty = 6 + math.log(step) / 4
    return {
        "step": step, "loss": 0.0, "reward": certainty, "self_certainty": certainty, "reward_spread": 0.3 / step,
        "completion_length": 55.0 if lost else 20.0 + step / 100, "completion_length_min": 4.0,
        "completion_length_max": 56.0, "truncated": 0.9 if lost else 0.05, "kl": 0.001 * step, "entropy": 1 / step,
        "clip_ratio": 0.0, "grad_norm": 0.5 + (step % 7) / 10, "tokens": 1000.0 * step, "step_seconds": 0.5,
        "path": "decode",
    }  # fmt: skip


def completion_row(step: int, number: int, rng: random.Random, text: str | None = None) -> Row:
    words = text if text is not None else "First add six, now two. Then add seven, now nine. It is \\boxed{nine}."
    pieces = [words[i : i + 4] for i in range(0, len(words), 4)]
    return {
        "step": step,
        "problem": f"clock/{number // 8}",
        "prompt": [{"role": "user", "content": f"Problem {number // 8} of step {step}?"}],
        "completion": words,
        "completion_ids": list(range(len(pieces) + 1)),
        "token_chars": [*map(len, pieces), 0],
        "token_self_certainty": [round(rng.uniform(4, 8), 2) for _ in range(len(pieces) + 1)],
        "truncated": number % 5 == 4,
        "answer": "nine",
        "gold": "ten",
        "right": [True, False, None][number % 3],
        "reward": 6.0 + number / 10,
        "advantage": number / 10 - 0.8,
    }


def record(number: int, rng: random.Random, skill: float) -> Row:
    right = rng.random() < skill
    text = "First add one, now two. Then add seven, now nine. So " if skill > 0.5 else ""
    return {
        "id": f"p/{number}", "sample": 0, "completion": f"{text}it is \\boxed{{nine}}.", "answer": "nine",
        "right": right, "self_certainty": rng.gauss(6.3 if right else 6.0, 0.1), "tokens": 12, "truncated": False,
    }  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


HOSTILE = [
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<!-- <script>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202eevil\u2066\u0000\u001b[31m\u2028\u2029\ufeff",
    "\ud800 lone",
    "&lt;b&gt;&amp;",
    "שלום 中文 😀",
]
