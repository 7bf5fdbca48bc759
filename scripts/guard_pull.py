"""Measures whether a falling pull tells runs that lose their accuracy from runs that keep it.

    python scripts/guard_pull.py RUN_FOLDER... --out results/guard-pull

The pull of a step is how often a completion with its group's most frequent answer has more reward than one with another
(`rlif.guard.health`). It reads no label. It is computed from the completions that run folders keep, so nothing is
trained. A run stops where the mean of the last `window` steps has been below that of the first `window` steps by a
limit, three times in a row. Runs are told apart by held-out accuracy, which no rule reads:

    kept     ends at least GAIN above its start and within LOSS of its best; a stop before its best is a false stop
    lost     was GAIN above its start and ends more than LOSS below its best; a stop is a hit where accuracy was still
             within LOSS of the best at the evaluation before it

and of each stop the accuracy at the evaluation before it, as a share of the run's best.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from refusals import call

from rlif.files.atomic import replace_file
from rlif.guard.health import measure_health
from rlif.intervals import proportion, t_interval
from rlif.reporting.analysis import accuracies
from rlif.runs.folder import Run

GAIN, LOSS, PATIENCE = 0.1, 0.1, 3
LIMITS, WINDOWS = (0.1, 0.15, 0.2, 0.25), (5, 10, 20)


@dataclass(frozen=True)
class Case:
    """Holds a run's pull by step, None where no group shows any, and its held-out accuracy by evaluated step."""

    name: str
    pulls: list[float | None]
    shares: dict[int, float]

    @property
    def kind(self) -> str:
        first, last, best = self.shares[min(self.shares)], self.shares[max(self.shares)], max(self.shares.values())
        return "other" if best - first < GAIN else "lost" if best - last > LOSS else "kept"

    @property
    def best(self) -> int:
        """The first step with the best accuracy."""
        return max(self.shares, key=lambda step: self.shares[step])

    def stop(self, window: int, limit: float) -> int | None:
        """Returns the step at which the rule stops the run."""
        known = [(step, value) for step, value in enumerate(self.pulls, start=1) if value is not None]
        if len(known) < 2 * window:
            return None
        values, beyond = [value for _, value in known], 0
        start = fmean(values[:window])
        for i in range(window, len(values)):
            beyond = beyond + 1 if start - fmean(values[i - window + 1 : i + 1]) > limit else 0
            if beyond == PATIENCE:
                return known[i][0]
        return None

    def before(self, step: int) -> float:
        """Returns the accuracy at the last evaluation up to a step."""
        return self.shares[max(look for look in self.shares if look <= step)]


def case(path: Path) -> Case:
    """Reads a run folder."""
    run = Run.open(path)
    steps = range(1, len(run.metrics()) + 1)
    pulls = [measure_health(rows).get("pull") if (rows := run.completions(step)) else None for step in steps]
    shares = accuracies(run.evaluations()[run.recipe().task])
    return Case(f"{path.parent.name}/{path.name}", pulls, {step: share.mean for step, share in shares.items()})


def kept_cases(file: Path) -> list[Case]:
    """Reads the runs of a results file of this script."""
    found = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else []
    return [Case(o["name"], o["pulls"], {int(step): share for step, share in o["shares"].items()}) for o in found]


def rates(cases: Sequence[Case], window: int, limit: float) -> dict[str, Any]:
    """Counts false stops and hits of a rule, and what the stopped runs had."""
    stops = {each.name: each.stop(window, limit) for each in cases}
    kept, lost = ([each for each in cases if each.kind == kind] for kind in ("kept", "lost"))
    false = [each for each in kept if (stop := stops[each.name]) is not None and stop < each.best]
    had = {each.name: each.before(stop) / max(each.shares.values()) for each in lost if (stop := stops[each.name])}
    hits = [
        each for each in lost if (stop := stops[each.name]) and each.before(stop) >= max(each.shares.values()) - LOSS
    ]
    return {
        "window": window,
        "limit": limit,
        "false_stops": len(false),
        "kept": len(kept),
        "hits": len(hits),
        "lost": len(lost),
        "had": [round(share, 4) for share in had.values()],
    }


def page(cases: Sequence[Case], rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the counts."""
    lines = ["# Does a falling pull show a loss of accuracy?", "", "    python scripts/guard_pull.py RUN_FOLDER...", ""]
    lines += ["| window | limit | false stops | hits | accuracy at the stop, of the best |", "|" + " --- |" * 5]
    for row in rows:
        counted = [
            f"{row[a]} of {row[b]} ({proportion(row[a], row[b])})" if row[b] else "-"
            for a, b in (("false_stops", "kept"), ("hits", "lost"))
        ]
        had = t_interval(row["had"]).within(0, 1).percent() if row["had"] else "-"
        lines.append(f"| {row['window']} | {row['limit']:g} | {' | '.join(counted)} | {had}, n = {len(row['had'])} |")
    lines += ["", "| run | kind | best | end | pull at the start | in the last 20 steps |", "|" + " --- |" * 6]
    for each in cases:
        known = [value for value in each.pulls if value is not None]
        ends = " | ".join("-" if not known else f"{fmean(part):.2f}" for part in (known[:10], known[-20:]))
        best = f"{100 * max(each.shares.values()):.0f} at {each.best}"
        lines.append(f"| {each.name} | {each.kind} | {best} | {100 * each.shares[max(each.shares)]:.0f} | {ends} |")
    return "\n".join([*lines, "", (__doc__ or "").split("\n\n", 2)[2].strip(), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders with completions")
    parser.add_argument("--out", type=Path, help="name of a .json and a .md file, without suffix; runs there are kept")
    args = parser.parse_args()
    found = {each.name: each for each in kept_cases(args.out.with_suffix(".json"))} if args.out else {}
    found |= {each.name: each for each in map(case, args.runs)}
    cases = [found[name] for name in sorted(found)]
    if not cases:
        parser.error("name run folders, or a file of --out that keeps some")
    rows = [rates(cases, window, limit) for window in WINDOWS for limit in LIMITS]
    text = page(cases, rows)
    print(text)
    if args.out:
        kept = [{"name": each.name, "pulls": each.pulls, "shares": each.shares} for each in cases]
        replace_file(args.out.with_suffix(".json"), json.dumps({"rules": rows, "runs": kept}) + "\n")
        replace_file(args.out.with_suffix(".md"), text)


if __name__ == "__main__":
    call(main)
