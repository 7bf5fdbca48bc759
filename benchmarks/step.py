"""Times a training step of three trainers: TRL with a constant reward, rlif, and the reference method's extra pass.

python benchmarks/step.py --out results/bench-step
"""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contestants import CONTESTANTS, PATHS, TAPS, Setting, Stepper, build
from measure import options, ratio, spread, table, take_turns, write
from memory import MIB, watch
from shapes import save

AIM = 1.02
TITLE = "A training step: plain TRL, ours, the reference method"
CLOCKS = {"cpu": "CPU time", "wall": "wall time"}
SETTINGS = {
    "reasoner": Setting(Path(), batch=16, accumulation=1, group=8, tokens=56),
    "tiny": Setting(Path(), batch=4, accumulation=1, group=4, tokens=6),
    "wide-32k": Setting(Path(), batch=8, accumulation=1, group=4, tokens=32),
    "wide-152k": Setting(Path(), batch=4, accumulation=1, group=4, tokens=16),
}
Row = dict[str, Any]


def why_not(path: str) -> str | None:
    """Says in a sentence why a path cannot be measured here."""
    if path == "vllm" and importlib.util.find_spec("vllm") is None:
        return "skipped: vLLM is not installed in this environment."
    return None


def compare(path: str, setting: Setting, rounds: int) -> Row:
    """Measures all three on one path, by turns: seconds, parts, ratios, extra passes, peak memory."""
    steppers = {name: Stepper(build(name, PATHS[path], setting)) for name in CONTESTANTS}
    trainers = {name: stepper.trainer for name, stepper in steppers.items()}
    try:
        for _ in range(2):  # sets up, and fills caches
            for stepper in steppers.values():
                stepper.lap()
        for trainer in trainers.values():
            trainer.forget()
        TAPS.seconds = 0.0
        laps = take_turns({name: stepper.lap for name, stepper in steppers.items()}, rounds, setting.device, warm_up=0)
        found = {name: _of_one(trainers[name], [lap.wall for lap in laps[name]]) for name in CONTESTANTS}
        added = TAPS.seconds + trainers["ours"].rewarding.seconds - trainers["plain"].rewarding.seconds
        same = _check(trainers)
        for name, stepper in steppers.items():
            found[name]["peak_mib"] = _peak(stepper, setting.device)
    finally:
        for stepper in steppers.values():
            stepper.close()
    cpu = sum(lap.cpu for lap in laps["plain"])
    base = found["plain"]["passes"]
    for row in found.values():
        row["extra_passes"] = row["passes"] - base
    pairs = [("ours", "plain"), ("reference", "plain"), ("ours", "reference")]
    ratios = {f"{a}/{b}": {clock: ratio(laps, a, b, clock) for clock in ("wall", "cpu")} for a, b in pairs}
    return {
        "path": path,
        "contestants": found,
        "ratios": ratios,
        "added": added / cpu,
        "promised": PATHS[path].promised,
        "same": same,  # share of completions
    }


def _of_one(trainer: Any, walls: Sequence[float]) -> Row:
    total, parts = sum(walls), {name: seconds / len(walls) for name, seconds in trainer.seconds.items()}
    return {
        "seconds": spread(walls),
        "parts": parts | {"training": total / len(walls) - sum(parts.values())},
        "tokens_per_second": trainer.generated / total,
        "passes": trainer.rows / trainer.completions,
    }


def _check(trainers: dict[str, Any]) -> float:
    """Checks that the three did the same work; returns the share of equal completions, on a CPU 1.

    Raises:
        SystemExit: completions differ in length, or self-certainty differs on equal completions.
    """
    ours, reference = trainers["ours"], trainers["reference"]
    rows = list(zip(*(trainer.completion_ids for trainer in trainers.values()), strict=True))
    same = [all(ids == row[0] for ids in row) for row in rows]
    if any(len(ids) != len(row[0]) for row in rows for ids in row) or not any(same):
        raise SystemExit("the contestants sampled different completions, so their times cannot be compared")
    values = [row.rewards["self_certainty"] for row in ours.reward.scored]
    tolerance = 1e-3 if ours.model.dtype == torch.float32 else 0.1
    pairs = zip(values, reference.reward_funcs[0].values, same, strict=True)
    apart = max(abs(mine - theirs) for mine, theirs, known in pairs if known)
    if apart > tolerance:
        raise SystemExit(f"ours and the reference method differ by {apart:.2g} nats, so one of them is wrong")
    return sum(same) / len(same)


def _peak(stepper: Stepper, device: str) -> float:
    """Measures the peak of sampling and scoring in one more lap, in MiB above what stays allocated between laps.

    The backward pass and the optimiser come later and need the same memory in all three.
    """
    found: list[Any] = []

    @contextmanager
    def around() -> Iterator[None]:
        with watch(device) as memory:
            found.append(memory)
            yield

    stepper.trainer.around = around
    stepper.lap()
    stepper.trainer.around = nullcontext
    return found[0].peak / MIB


def measure(shape: str, paths: Sequence[str], setting: Setting, rounds: int) -> Iterator[Row]:
    """Measures every path on one shape. A path that cannot run here has a sentence instead of numbers."""
    with tempfile.TemporaryDirectory() as folder:
        setting = replace(setting, folder=Path(folder))
        save(shape, setting.folder, setting.dtype, setting.device)
        for path in paths:
            skipped = why_not(path)
            found = {"path": path, "skipped": skipped} if skipped else compare(path, setting, rounds)
            yield {"shape": shape} | found
            gc.collect()


def summary(rows: Sequence[Row]) -> list[str]:
    """Writes the tables, and whether the aims are met."""
    done = [row for row in rows if "skipped" not in row]
    lines = ["## A step", ""]
    header = [
        "shape",
        "path",
        "plain, s",
        "ours / plain",
        "the same, CPU time",
        "our code, % of plain's CPU time",
        "reference / plain",
        "ours / reference",
    ]
    lines += table(header, [_times(row) for row in done])
    lines += ["", "## Passes, memory, speed", ""]
    header = [
        "shape",
        "path",
        "extra passes: ours, reference",
        "peak MiB of sampling and scoring: plain, ours, reference",
        "tokens/s: the same",
    ]
    lines += table(header, [_costs(row) for row in done])
    lines += ["", "## Where the time goes: mean seconds of a step", ""]
    header = ["shape", "path", *(f"{part}: plain, ours, reference" for part in ("generation", "scoring", "training"))]
    lines += table(header, [_parts(row) for row in done])
    lines += ["", *aims(done)]
    return lines + [f"- {row['shape']}, {row['path']}: {row['skipped']}" for row in rows if "skipped" in row]


def aims(rows: Sequence[Row]) -> list[str]:
    """Says of each aim how often it was met, and where it was missed, by both clocks."""
    extra = [row for row in rows if row["contestants"]["ours"]["extra_passes"] > row["promised"]]
    same = min((row["same"] for row in rows), default=1.0)
    return [
        f"- Extra passes beyond those promised: on {len(extra)} of {len(rows)} paths.",
        *(_aim(rows, f"ours / plain at most {AIM}", "ours/plain", AIM, clock) for clock in CLOCKS),
        *(_aim(rows, "faster than the reference method", "ours/reference", 1.0, clock) for clock in CLOCKS),
        f"- All three share at least {same:.0%} of the completions of the last lap.",
        "- `ours` is the trainer alone; the log, the guard and kept completions of `rlif train` are not in it.",
    ]


def _aim(rows: Sequence[Row], what: str, pair: str, limit: float, clock: str) -> str:
    over = {f"{row['shape']}, {row['path']}": row["ratios"][pair][clock] for row in rows}
    over = {name: found for name, found in over.items() if found.median > limit}
    missed = "; missed on " + "; ".join(f"{name} ({found.show()})" for name, found in over.items()) if over else ""
    return (
        f"- Aim: {what}. By the median of {CLOCKS[clock]} met on {len(rows) - len(over)} of {len(rows)} paths{missed}."
    )


def _times(row: Row) -> list[str]:
    ratios = row["ratios"]
    ours = [ratios["ours/plain"][clock].show() for clock in ("wall", "cpu")]
    rest = [ratios[pair]["wall"].show(2) for pair in ("reference/plain", "ours/reference")]
    added = f"{100 * row['added']:.2f}"
    return [row["shape"], row["path"], row["contestants"]["plain"]["seconds"].show(2), *ours, added, *rest]


def _costs(row: Row) -> list[str]:
    found = row["contestants"]
    passes = ", ".join(f"{found[name]['extra_passes']:.0f}" for name in ("ours", "reference"))
    peaks, speeds = (
        ", ".join(f"{found[name][key]:,.0f}" for name in CONTESTANTS) for key in ("peak_mib", "tokens_per_second")
    )
    return [row["shape"], row["path"], passes, peaks, speeds]


def _parts(row: Row) -> list[str]:
    found = row["contestants"]
    parts = [", ".join(f"{found[n]['parts'][part]:.3f}" for n in CONTESTANTS) for part in found["plain"]["parts"]]
    return [row["shape"], row["path"], *parts]


def main() -> None:
    parser = options(__doc__, "step")
    parser.add_argument("--shapes", default="reasoner,wide-152k", help=", ".join(SETTINGS))
    parser.add_argument("--paths", default=",".join(PATHS), help=", ".join(PATHS))
    parser.add_argument("--rounds", type=int, default=12, help="a multiple of 6 has all orders equally often")
    args = parser.parse_args()
    torch.set_num_threads(1)
    asked = "" if args.paths == ",".join(PATHS) else f' --paths "{args.paths}"'
    command = f"python benchmarks/step.py --shapes {args.shapes}{asked} --rounds {args.rounds} --out {args.out}"
    rows: list[Row] = []
    for shape in args.shapes.split(","):
        for row in measure(shape, args.paths.split(","), SETTINGS[shape], args.rounds):
            rows.append(row)  # written at once, so that an interrupted run keeps its measurements
            write(args.out, TITLE, command, summary(rows), {"rows": rows})


if __name__ == "__main__":
    main()
