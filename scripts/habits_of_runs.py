"""Counts how often sampled completions leap, step or ramble, at the start and at the end of training.

    python scripts/habits_of_runs.py runs/wrong-and-sure results/wrong-and-sure-habits

Greedy accuracy cannot rank methods that all answer 256 of 256 problems in the same wrong way. Their samples still
differ. The script reads the kept completions of the first and the last WINDOW steps of each run. Shares are over the
completions of all seeds together. `right` compares with the gold answer, whatever the reward was.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from base_habits import HABITS
from refusals import call

from rlif.runs.history import History, read_history

WINDOW = 3
NAMES = (*HABITS.values(), "other", "right")
Row = dict[str, Any]


def read(history: History, steps: range) -> list[Row]:
    """Reads the completions of some steps."""
    return [row for step in steps for row in history.read_completions(step)]


def shares(rows: list[Row]) -> Row:
    """Computes the share of each habit, and of right answers."""
    habits = [HABITS.get(row["completion"].split(" ")[0], "other") for row in rows]
    found = {name: habits.count(name) / len(rows) for name in NAMES[:-1]}
    return {"n": len(rows), **found, "right": sum(bool(row["right"]) for row in rows) / len(rows)}


def collect(folder: Path) -> list[Row]:
    """Makes a row for each method: its seeds, and the shares at the start and at the end."""
    start, end, seeds = defaultdict(list), defaultdict(list), defaultdict(list)
    for path in sorted(folder.iterdir()):
        name, _, seed = path.name.rpartition("-seed")
        history = read_history(path)
        last = history.summary["steps"]
        start[name] += read(history, range(1, 1 + WINDOW))
        end[name] += read(history, range(last + 1 - WINDOW, last + 1))
        seeds[name].append(int(seed))
    return [{"method": n, "seeds": seeds[n], "start": shares(start[n]), "end": shares(end[n])} for n in start]


def lines(rows: list[Row]) -> list[str]:
    """Writes the table; the method with the fewest leaps at the end comes first."""
    table = [f"| method | seeds | n | {' | '.join(NAMES)} |", "|---" * (3 + len(NAMES)) + "|"]
    for row in sorted(rows, key=lambda row: row["end"]["leap"]):
        cells = [f"{row['start'][name]:.0%} -> {row['end'][name]:.0%}" for name in NAMES]
        table.append(f"| {row['method']} | {len(row['seeds'])} | {row['end']['n']} | {' | '.join(cells)} |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a folder of finished run folders, <method>-seed<n>")
    parser.add_argument("out", type=Path, help="stem of the .json and .md files")
    args = parser.parse_args()
    rows = collect(args.runs)
    args.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    about = f"Sampled completions of the first and the last {WINDOW} steps; n is of either."
    head = [f"# What was sampled: {args.runs.name}", "", f"    python scripts/habits_of_runs.py {args.runs} {args.out}"]
    args.out.with_suffix(".md").write_text("\n".join([*head, "", about, "", *lines(rows)]) + "\n", "utf-8")


if __name__ == "__main__":
    call(main)
