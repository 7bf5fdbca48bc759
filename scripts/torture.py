"""Runs the tests of kills, faults and fuzzing at full length, and writes the tables of docs/reliability.md.

    python scripts/torture.py docs/reliability.md

`make torture` runs it. Each row of the table has a promise, the tests that prove it, and how many of them passed in
this run. The guard's table is made from results/guard.json, which scripts/guard_results.py writes. Only the text
between the marks in the document is replaced. Exits with 1 if a test failed.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from refusals import call

ROOT = Path(__file__).resolve().parents[1]
MARKS = "<!-- {0}: begin -->", "<!-- {0}: end -->"
GUARD = {
    "demo-collapse": "a run that collapses is stopped within 10 steps of its accuracy peak's end",
    "demo-long": "a healthy run is not stopped",
    "offline": "a run that drifts under a frozen annotator is stopped within 10 steps of the peak's end",
}
FILES = {
    "kills": "training/test_kills.py",
    "killed": "cli/test_killed.py",
    "folder": "runs/test_folder.py",
    "links": "runs/test_links.py",
    "stopping": "training/test_stopping.py",
    "faults": "training/test_faults.py",
    "checkpoints": "runs/test_checkpoints.py",
    "fingerprint": "runs/test_fingerprint.py",
    "security": "training/test_security.py",
    "fuzz": "project/test_fuzz.py",
    "fuzz_data": "project/test_fuzz_data.py",
}

# The promise, the tests that prove it (file::beginning of the name), the unit of the count.
ROWS = (
    ("SIGKILL at a random moment: same log, same bits", "kills::test_killed_at_a_random_moment", "kills"),
    ("SIGKILL at each of these named points: the same", "kills::test_killed_at[", "kills"),
    ("killed at every resume, again and again: the same", "kills::test_a_run_killed_again_and_again", "runs"),
    (
        "LoRA, RLOO, two iterations, epochs with a cosine schedule, evaluations on the way, an ema annotator, mixed"
        " rewards with a schedule, a stop and a return of the guard: the same",
        "kills::test_every_kind",
        "kills",
    ),
    ("two processes: the same", "kills::test_two_processes", "kills"),
    ("killed before there was a run folder: start again", "kills::test_killed_before", "kills"),
    (
        "`eval`, `select`, `score`, `judge`, `compare` and `train`, SIGKILL before each operation on their files: given"
        " again, the same files",
        "killed::test_a_command_killed_at_each_operation",
        "kills",
    ),
    ("the same in the middle of each line of their logs", "killed::test_a_command_killed_in_each_line", "kills"),
    ("the same again and again in one folder", "killed::test_a_killed_command", "commands"),
    (
        "killed between the summary and the report: `--resume` writes the report, exit 0",
        "killed::test_killed_between",
        "kills",
    ),
    (
        "a start that took no step does not block the next; nothing else is ever replaced",
        "folder::test_a_start_that folder::test_a_run_that_took folder::test_folders_that_are_no_runs"
        " faults::test_a_reward_of_ones_own",
        "tests",
    ),
    ("nothing is read, written or deleted through a link that leads out of a run folder", "links::", "tests"),
    ("Ctrl-C, SIGTERM, SIGUSR1: a checkpoint, exit 130 or 75; twice: at once", "stopping::", "signals"),
    ("a torn or changed checkpoint is never loaded, old ones outlive it", "checkpoints::", "tests"),
    (
        "a changed byte in a checkpoint of a run: reported, the one before is used",
        "faults::test_a_changed_byte",
        "faults",
    ),
    ("every checkpoint damaged: refused, nothing deleted", "faults::test_no_checkpoint_is_whole", "faults"),
    ("disk full, simulated and real; quota; read-only", "faults::test_a_disk faults::test_a_read_only", "faults"),
    (
        "disk, memory, NaN in step three: one sentence, exit 2, resumes to the same bits",
        "faults::test_a_fault_in_step_three",
        "faults",
    ),
    ("out of memory while evaluating: the key to lower is named", "faults::test_out_of_memory", "faults"),
    (
        "problems or model changed before a resume: refused",
        "faults::test_the_problems_changed faults::test_the_model_changed fingerprint::",
        "faults",
    ),
    ("one process of two killed: the other ends with a sentence", "faults::test_one_of_two", "faults"),
    ("a reward that hangs or raises: the run ends, resumes", "faults::test_a_reward_that_fails", "faults"),
    (
        "no pad token; weights that cannot be read",
        "faults::test_a_tokenizer_without faults::test_weights_that",
        "faults",
    ),
    ("two processes cannot write one run folder", "faults::test_another_process", "faults"),
    (
        "no foreign code, no pickle, no shell, no template, nothing outside the run folder, no secrets in it",
        "security::",
        "tests",
    ),
    ("any bytes in recipes, data and run folders: a result or one sentence", "fuzz:: fuzz_data::", "tests"),
)


@dataclass(frozen=True)
class Case:
    """Holds the result of one test."""

    name: str
    outcome: str  # passed, failed or skipped
    properties: dict[str, int]


def read_cases(junit: Path) -> list[Case]:
    """Reads the tests of a JUnit file, with names like `kills::test_killed_at[while generating]`."""
    cases = []
    for case in ET.parse(junit).getroot().iter("testcase"):
        outcomes = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "passed" if not outcomes else "skipped" if outcomes == {"skipped"} else "failed"
        file = case.get("classname", "").rpartition("test_")[2]
        properties = {p.get("name", ""): int(p.get("value", "0")) for p in case.iter("property")}
        cases.append(Case(f"{file}::{case.get('name')}", outcome, properties))
    return cases


def table(cases: list[Case]) -> str:
    """Writes the rows in Markdown, with the number of skipped tests."""
    lines = ["| what is promised | the test that proves it | measured |", "|---|---|---|"]
    for promise, which, unit in ROWS:
        found = [case for case in cases if any(case.name.startswith(prefix) for prefix in which.split())]
        ran = [case for case in found if case.outcome != "skipped"]
        weight = {case.name: case.properties.get("kills", 1) for case in ran}
        good = sum(weight[case.name] for case in ran if case.outcome == "passed")
        figure = f"{good}/{sum(weight.values())} {unit}"
        if tried := sum(case.properties.get("cases", 0) for case in ran):
            figure += f", {tried:,} cases"
        if len(ran) < len(found):
            figure += f" ({len(found) - len(ran)} skipped)"
        tests = ", ".join(
            f"`tests/{FILES[file]}`" + (f" `{name.rstrip('[')}...`" if name else "")
            for file, _, name in (prefix.partition("::") for prefix in which.split())
        )
        lines.append(f"| {promise} | {tests} | {figure} |")
    return "\n".join(lines)


def guard_table() -> str:
    """Writes the guard's hits and false stops from results/guard.json."""
    runs = json.loads((ROOT / "results/guard.json").read_text(encoding="utf-8"))["runs"]
    lines = ["| what is promised | recipe | seeds | kept |", "|---|---|---|---|"]
    for case, promise in GUARD.items():
        found = [run for run in runs if run["case"] == case]
        seeds = ", ".join(str(run["seed"]) for run in found)
        lines.append(f"| {promise} | `{case}` | {seeds} | {sum(run['good'] for run in found)}/{len(found)} |")
    return "\n".join(lines)


def replaced(text: str, name: str, new: str) -> str:
    """Replaces the text between the marks of that name."""
    begin, end = (mark.format(name) for mark in MARKS)
    before, rest = text.split(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.split(end)[1]}"


def main() -> None:
    document = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        tests = [str(ROOT / "tests" / path) for path in FILES.values()]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "sweep or not sweep",
            f"--hypothesis-seed={random.randrange(10**9)}",
            f"--junitxml={junit}",
            "-o",
            "junit_family=xunit1",
        ]
        subprocess.run([*command, *tests], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        cases = read_cases(junit)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    stamp = f"Measured {datetime.date.today()} by `make torture`: Python {platform.python_version()}, {versions}, CPU."
    rows = table(cases)
    print(rows)
    text = replaced(document.read_text(encoding="utf-8"), "torture", f"{stamp}\n\n{rows}")
    document.write_text(replaced(text, "guard", guard_table()), encoding="utf-8")
    sys.exit(any(case.outcome == "failed" for case in cases))


if __name__ == "__main__":
    call(main)
