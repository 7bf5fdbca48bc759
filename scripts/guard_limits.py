"""Prints the guard's first alarms on the development seeds for several limits on KL. The limit was chosen from these.

    python scripts/guard_limits.py 0.02 0.03 0.035 0.04 0.045 0.05 0.06 0.08 0.1

Replays the metrics kept in results/demo-long.json, so nothing is trained. The limit on the slope is off, and signs that
were added to the guard later are left out. For each limit it prints how many steps after the end of the accuracy peak
each collapsing run raises its first alarm, and at which step each healthy run raises a false one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refusals import call

from rlif.comparison.summary import RunSummary
from rlif.comparison.summary_file import read_summaries
from rlif.guard.limits import Guard
from rlif.guard.monitor import replay

RESULTS = Path(__file__).parents[1] / "results/demo-long.json"
METRICS: tuple[str, ...] = (
    "step",
    "self_certainty",
    "completion_length",
    "truncated",
    "reward_spread",
    "kl",
    "entropy",
)


def peak_end(run: RunSummary) -> int:
    """Finds the step of the last evaluation within 5 points of the best one."""
    shares = {step: look["accuracy"]["mean"] for step, look in run.evaluations["clock"].items()}
    return max(step for step, share in shares.items() if share >= max(shares.values()) - 0.05)


def first_alarm(run: RunSummary, limit: float) -> int | None:
    """Replays a run with this limit, and returns the step of its first alarm."""
    rows = [dict(zip(METRICS, row, strict=True)) for row in zip(*(run.metrics[key] for key in METRICS), strict=True)]
    raised = replay(Guard(kl=limit, kl_slope=None), rows)
    return next((alarm.step for alarm in raised if alarm.severity == "alarm"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("limits", nargs="+", type=float, help="nats a token")
    limits = parser.parse_args().limits
    runs, _ = read_summaries(RESULTS)
    collapsing, healthy = ([run for run in runs if run.method == name] for name in ("demo-collapse", "demo-long"))
    print("limit, steps after the peak by collapsing seed, false stops by healthy seed")
    for limit in limits:
        stops = [first_alarm(run, limit) for run in collapsing]
        after = [None if stop is None else stop - peak_end(run) for stop, run in zip(stops, collapsing, strict=True)]
        print(limit, after, [first_alarm(run, limit) for run in healthy])


if __name__ == "__main__":
    call(main)
