"""Counts hits and false stops of every sign of the guard on kept runs, of the miniatures and of SmolLM2.

    python scripts/guard_signs.py    # writes guard-signs.json and .md in results

Replays the metrics that results/ keeps, so nothing is trained. Each sign has its limit as it ships, and is counted on
the runs that logged what it reads. Two paces are compared: the shipped one, and one for short runs, whose start, window
and patience are two steps. Runs are classified by greedy accuracy on held-out problems of their task, which no sign
reads:

    kept        ends within 10 points of its best, which is at least 30 %; an alarm is a false stop
    lost        ends more than 10 points below its best, the start included; an alarm is a hit, unless it comes more
                than 10 steps after the last evaluation within 10 points of the best
    controls    lost, and rewarded with length, shortness, form or random numbers, which nobody trains on
    other       was never right often; an alarm costs nothing, and is not counted

In brackets is Wilson's 95 % interval, in per cent. A run of SmolLM2 with eight steps has two evaluations, so there
every alarm on a lost run is a hit. On the larger of two numbers and on capitals greedy decoding answers by position
from the start. So all runs there count as kept, also those whose samples get worse. Signs that no run raised have no
row.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refusals import call

from rlif.comparison.leaderboard import rewarded
from rlif.comparison.summary import RunSummary
from rlif.comparison.summary_file import read_summaries
from rlif.files.atomic import replace_file
from rlif.guard.limits import Guard
from rlif.guard.monitor import replay
from rlif.guard.signs import SIGNS
from rlif.intervals import proportion

SMALL, SUMS, POSITION, LONG = MODELS = (
    "miniatures",
    "SmolLM2, sums, 8 steps",
    "SmolLM2, numbers and capitals, 8 steps",
    "SmolLM2, sums, 40 steps",
)
FILES = dict.fromkeys(("miniature", "wrong-and-sure", "tiny-short", "tiny-equal", "demo-long", "demo"), SMALL)
FILES |= {"real-steps": SUMS, "real-story": SUMS, "real-larger": POSITION, "real-capital_city": POSITION}
FILES |= {"cures-real": LONG}
LOSS, SOME, NEAR = 0.1, 0.3, 10  # shares of the problems, and steps
CONTROLS = {"length", "shortness", "format", "random"}
PACES = {"as shipped": {}, "short": {"start": 2, "window": 2, "patience": 2}}
KINDS = ("kept", "lost", "controls", "other")
COUNTED = (("false stops", "kept"), ("hits", "lost"), ("hits on controls", "controls"))
ALARMS = {name for name, sign in SIGNS.items() if sign.severity == "alarm"}
TOGETHER = {"every alarm": ALARMS, "every alarm but those on KL": ALARMS - {"kl", "kl_slope"}}


@dataclass(frozen=True)
class Case:
    """Holds what a run was, and at which step each sign raised its first alarm, by pace."""

    model: str
    label: str
    kind: str
    near_best: int
    alarms: Mapping[str, Mapping[str, int]]
    logged: frozenset[str]  # metrics

    def read_by(self, sign: str) -> bool:
        """Tells whether the run logged what a sign reads."""
        return sign in TOGETHER or SIGNS[sign].metric in self.logged

    def hit(self, pace: str, sign: str) -> bool:
        """Tells whether the sign was there while accuracy was, or soon after."""
        return self.alarms[pace].get(sign, self.near_best + NEAR + 1) <= self.near_best + NEAR


def case(run: RunSummary, model: str) -> Case | None:
    """Replays a run; None for one that was not evaluated twice on its task."""
    looks = run.evaluations.get(str(run.whole["task"]), {})
    if len(looks) < 2:
        return None
    shares = {step: look["accuracy"]["mean"] for step, look in looks.items()}
    best, last = max(shares.values()), shares[max(shares)]
    lost = "controls" if CONTROLS & {*rewarded(run.whole["reward"])} else "lost"
    kind = lost if best - last > LOSS else "kept" if best >= SOME else "other"
    near = max(step for step, share in shares.items() if share >= best - LOSS)
    rows = [dict(zip(run.metrics, values, strict=True)) for values in zip(*run.metrics.values(), strict=True)]
    alarms: dict[str, dict[str, int]] = {}
    for pace, settings in PACES.items():
        first = alarms.setdefault(pace, {})
        for alarm in replay(Guard(**settings), rows):
            for name in (alarm.sign, *(name for name, signs in TOGETHER.items() if alarm.sign in signs)):
                first.setdefault(name, alarm.step)
    logged = frozenset(name for name, values in run.metrics.items() if any(value is not None for value in values))
    return Case(model, run.label, kind, near, alarms, logged)


def counts(cases: Sequence[Case], pace: str, sign: str) -> dict[str, int]:
    """Counts the false stops and the hits of a sign, on the runs that it reads."""
    kept, lost, controls = (
        [each for each in cases if each.kind == kind and each.read_by(sign)] for kind in ("kept", "lost", "controls")
    )
    return {
        "false stops": sum(sign in each.alarms[pace] for each in kept),
        "kept": len(kept),
        "hits": sum(each.hit(pace, sign) for each in lost),
        "lost": len(lost),
        "hits on controls": sum(each.hit(pace, sign) for each in controls),
        "controls": len(controls),
    }


def tabulated(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Makes a row for each pace, sign and kind of model; signs that no run raised are left out."""
    return [
        {"pace": pace, "sign": sign, "model": model} | counts([c for c in cases if c.model == model], pace, sign)
        for pace in PACES
        for sign in (*SIGNS, *TOGETHER)
        if any(sign in each.alarms[pace] for each in cases)
        for model in MODELS
    ]


def share(row: Mapping[str, Any], some: str, of: str) -> str:
    if not row[of]:
        return "-"
    found = proportion(row[some], row[of])
    assert found.low is not None and found.high is not None
    return f"{row[some]} of {row[of]} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def page(cases: Sequence[Case], rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes the page."""
    lines = ["# The signs of the guard on kept runs", "", "    python scripts/guard_signs.py", ""]
    lines += [f"| model | {' | '.join(KINDS)} |", "|---" * (1 + len(KINDS)) + "|"]
    for model in MODELS:
        found = Counter(each.kind for each in cases if each.model == model)
        lines.append(f"| {model} | {' | '.join(str(found[kind]) for kind in KINDS)} |")
    for pace, settings in PACES.items():
        chosen = f": {', '.join(f'{key} {value}' for key, value in settings.items())}" if settings else ""
        lines += ["", f"## Pace {pace}{chosen}", ""]
        heads = [f"{model}, {what}" for model in MODELS for what, _ in COUNTED]
        lines += [f"| sign | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        silent = []
        for sign in dict.fromkeys(row["sign"] for row in rows if row["pace"] == pace):
            mine = [row for row in rows if (row["pace"], row["sign"]) == (pace, sign)]
            if not any(row[what] for row in mine for what, _ in COUNTED):
                silent.append(f"`{sign}`")
                continue
            cells = [share(row, *pair) for row in mine for pair in COUNTED]
            named = sign if sign in TOGETHER else f"`{sign}`" if sign in ALARMS else f"`{sign}` (warning)"
            lines.append(f"| {named} | {' | '.join(cells)} |")
        lines += ["", f"Raised, but neither a false stop nor a hit: {', '.join(silent)}."] if silent else []
    return "\n".join([*lines, "", (__doc__ or "").split("\n\n", 2)[2].strip(), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the kept runs")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    files = [args.results / f"{name}.json" for name in FILES]
    if missing := [file for file in files if not file.is_file()]:
        parser.error(f"there is no {missing[0]}; rlif compare --out makes it")
    cases = [found for file in files for run in read_summaries(file)[0] if (found := case(run, FILES[file.stem]))]
    rows = tabulated(cases)
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(args.out / "guard-signs.json", json.dumps(rows) + "\n")
    replace_file(args.out / "guard-signs.md", page(cases, rows))
    print(page(cases, rows))


if __name__ == "__main__":
    call(main)
