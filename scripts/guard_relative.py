"""Measures whether one limit on KL serves several bases: in nats, or as a share of the entropy at the start.

    python scripts/guard_relative.py results/demo-long.json results/fresh-seeds/demo-long.json results/miniature.json \
        results/wrong-and-sure.json --out results/guard-relative

Replays the metrics of kept runs, so nothing is trained. For each limit the guard's rule is used: the mean of the last
five logged steps is beyond it three times in a row. Two readings are compared, on runs that logged both numbers:

    nats     KL to the start, per token, as the guard has it
    share    the same divided by the mean entropy per token of the first five logged steps

A run is told by held-out accuracy on the task trained on, which no rule reads:

    kept     ends at least GAIN above its start and within LOSS of its best; stopping it is a false stop
    lost     was GAIN above its start and ends more than LOSS below its best; stopping it by NEAR steps after the last
             evaluation within LOSS of the best is a hit
    other    never gained; a stop there costs nothing, and is not counted
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from refusals import call

from rlif.comparison.leaderboard import base_of
from rlif.comparison.summary import RunSummary
from rlif.comparison.summary_file import read_summaries
from rlif.guard.limits import Guard
from rlif.guard.monitor import replay
from rlif.intervals import proportion
from rlif.reporting.analysis import separation

GAIN, LOSS, NEAR = 0.1, 0.1, 10
LIMITS = {"nats": (0.03, 0.045, 0.06, 0.08, 0.1, 0.15, 0.2), "share": (0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4)}
Kind = str


@dataclass(frozen=True)
class Case:
    """Holds what one run says: its kind, the last step near its best, and its KL read in both ways, by step."""

    base: str
    label: str
    kind: Kind
    near_best: int
    readings: Mapping[str, list[tuple[int, float]]]

    def stop(self, reading: str, limit: float) -> int | None:
        """Returns the step of the alarm under a limit."""
        rows = [{"step": step, "kl": value} for step, value in self.readings[reading]]
        raised = replay(Guard(kl=limit, kl_slope=None), rows)
        return next((alarm.step for alarm in raised if alarm.sign == "kl"), None)

    def largest(self, reading: str) -> float:
        """Returns the largest mean of five logged steps."""
        values = [value for _, value in self.readings[reading]]
        return max(fmean(values[i : i + 5]) for i in range(max(1, len(values) - 4)))


def case(run: RunSummary) -> Case | None:
    """Reads a run; None for one that logged no KL or no entropy, or was not evaluated."""
    metrics, looks = run.metrics, run.evaluations.get(str(run.whole["task"]), {})
    logged = [
        row
        for row in zip(*(metrics.get(key, []) for key in ("step", "kl", "entropy")), strict=False)
        if None not in row
    ]
    if len(logged) < 10 or len(looks) < 3:
        return None
    shares = {step: look["accuracy"]["mean"] for step, look in looks.items()}
    first, last, best = shares[min(shares)], shares[max(shares)], max(shares.values())
    kind = "other" if best - first < GAIN else "lost" if best - last > LOSS else "kept"
    start = fmean(entropy for _, _, entropy in logged[:5])
    if not start > 0:
        return None
    nats = [(int(step), kl) for step, kl, _ in logged]
    near = max(step for step, share in shares.items() if share >= best - LOSS)
    readings = {"nats": nats, "share": [(step, kl / start) for step, kl in nats]}
    return Case(base_of(run), run.label, kind, near, readings)


def rates(cases: Sequence[Case], reading: str, limit: float) -> dict[str, Any]:
    """Counts false stops and hits of a limit."""
    kept = [each.stop(reading, limit) is not None for each in cases if each.kind == "kept"]
    lost = [(each.stop(reading, limit), each.near_best) for each in cases if each.kind == "lost"]
    hits = [stop is not None and stop <= near + NEAR for stop, near in lost]
    counts = {"false_stops": sum(kept), "kept": len(kept), "hits": sum(hits), "lost": len(hits)}
    return {"reading": reading, "limit": limit, **counts}


def auroc(cases: Sequence[Case], reading: str) -> float | None:
    """Computes how often a run that lost accuracy had the larger KL of a pair with one that kept it."""
    told = [each for each in cases if each.kind != "other"]
    found = separation([each.largest(reading) for each in told], [each.kind == "lost" for each in told])
    return None if found is None else found.auroc


def page(cases: Sequence[Case], rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """Formats the counts, and how well either reading tells the runs apart."""
    bases = list(dict.fromkeys(each.base for each in cases))
    count: Callable[[str, str], int] = lambda base, kind: sum(c.base == base and c.kind == kind for c in cases)  # noqa: E731
    lines = ["# One limit on KL for several bases", "", f"    {command}", ""]
    lines += ["| base | kept | lost | other | AUROC, nats | AUROC, share |", "|" + " --- |" * 6]
    for base in [*bases, "all"]:
        mine = [each for each in cases if base in (each.base, "all")]
        kinds = [sum(count(name, kind) for name in ([base] if base != "all" else bases)) for kind in KINDS]
        cells = ["-" if (value := auroc(mine, reading)) is None else f"{value:.2f}" for reading in LIMITS]
        lines.append(f"| {base} | {' | '.join(map(str, kinds))} | {' | '.join(cells)} |")
    lines += ["", "| reading | limit | false stops | hits |", "|" + " --- |" * 4]
    for row in rows:
        false, hits = (proportion(row[a], row[b]) for a, b in (("false_stops", "kept"), ("hits", "lost")))
        of = [
            f"{row[a]} of {row[b]} ({share})"
            for a, b, share in (("false_stops", "kept", false), ("hits", "lost", hits))
        ]
        lines.append(f"| {row['reading']} | {row['limit']:g} | {' | '.join(of)} |")
    return "\n".join([*lines, "", (__doc__ or "").split("\n\n", 2)[2].strip(), ""])


KINDS = ("kept", "lost", "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="files of rlif compare --out FILE.json")
    parser.add_argument("--out", type=Path, help="name of a .json and a .md file, without suffix")
    args = parser.parse_args()
    cases = [found for file in args.files for run in read_summaries(file)[0] if (found := case(run))]
    rows = [rates(cases, reading, limit) for reading, limits in LIMITS.items() for limit in limits]
    text = page(cases, rows, f"python scripts/guard_relative.py {' '.join(map(str, args.files))}")
    print(text)
    if args.out:
        args.out.with_suffix(".md").write_text(text, "utf-8")
        kept = [{"base": each.base, "run": each.label, "kind": each.kind} for each in cases]
        args.out.with_suffix(".json").write_text(json.dumps({"limits": rows, "runs": kept}) + "\n", "utf-8")


if __name__ == "__main__":
    call(main)
