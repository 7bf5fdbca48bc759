"""Tests SIGKILL in every command that writes files: given again, it finishes with the files of a run not killed.

The process is killed before an operation on files (open to write, rename, delete, make), or in the middle of a line.
"""

from __future__ import annotations

import functools
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.alpaca import KEY, prefers_longer, serve, write_outputs, write_set, write_tables
from support.folders import write_lines
from support.killing import SMALL, outcome, rlif_process
from support.sabotage import die_at, die_at_operation, die_in_an_append

KILLED = -signal.SIGKILL
# The operations before which a command is killed every day, one after the other: amid its work, and soon after.
DAILY = {
    "eval": (4, 3),
    "select": (5, 4),
    "select samples": (3, 4),
    "score": (2, 1),
    "judge": (10, 20),
    "compare": (40,),
}
LOGGED = ("eval", "select", "select early", "score", "judge")  # commands that append rows to a log


def files(out: Path) -> dict[str, bytes]:
    """Reads every file of a folder except locks, by its path in the folder."""
    found = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def trained(out: Path) -> dict[str, object]:
    """Reads what equal runs and tables of them have in common: all but times."""
    runs = {path.name: outcome(path) for path in sorted((out / "runs").iterdir()) if path.name[0] != "."}
    written = sorted(path.name for path in [*out.rglob("report.html"), *out.rglob("model/*")])
    return {"runs": runs, "written": written, "tables": [path.read_bytes() for path in out.glob("table.csv")]}


def read(name: str, out: Path) -> dict:
    return trained(out) if name in ("compare", "train") else files(out)


def at(out: Path, nth: int) -> tuple:
    return die_at_operation, f"{out}/", nth


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Inputs of all commands."""
    place = tmp_path_factory.mktemp("inputs")
    write_set(place)
    write_tables(place)
    write_outputs(place / "outputs.jsonl")
    texts = [f"{'word ' * (i % 5)}{i}" for i in range(20)]
    write_lines(place / "texts.jsonl", [{"prompt": f"Say {text}", "completion": text} for text in texts])
    rows = [{"id": f"p{i // 4}", "sample": i % 4, "completion": f"\\boxed{{{i}}}"} for i in range(12)]
    write_lines(place / "samples.jsonl", [row | {"self_certainty": 1.0 + i % 3} for i, row in enumerate(rows)])
    return place


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve(lambda number, body: prefers_longer(body)) as judge:
        yield judge.url


@pytest.fixture(scope="module")
def run(place, model_folder, endpoint) -> Callable[..., tuple[int, str]]:
    """Runs a command that writes to a folder, or lets it go on there."""
    environment = {"RLIF_DATA": str(place), "OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1", "OPENAI_BASE_URL": endpoint}
    short = ["-m", model_folder, "--batch-size", "2", "--max-tokens", "6", "-t", "clock", "-n", "2", "--limit", "3"]
    small = [*SMALL, "training.max_steps=2", "evaluate={tasks: [cups], limit: 2}", f"model={model_folder}"]

    def arguments(name: str, out: Path) -> list:
        if name == "train" and (out / "runs/run").exists():
            return ["train", "--resume", out / "runs/run"]
        return {  # eval, select and score work in three batches
            "eval": ["eval", model_folder, "--tasks", "cups", "--limit", "5", *short[2:6], "--output", out],
            "select": ["select", *short, "-o", out],
            "select early": ["select", *short, "--early-stop", "--warm-up", "1", "--window", "2", "-o", out],
            "select samples": ["select", "--samples", place / "samples.jsonl", "--rule", "self_certainty", "-o", out],
            "score": ["score", place / "texts.jsonl", *short[:2], "--batch-size", "1", "-o", out / "scored.jsonl"],
            "judge": ["judge", place / "outputs.jsonl", "--yes", "--workers", "1", "--keep", out / "judged.jsonl"],
            "compare": [
                *("compare", "demo", "--seeds", "3,", *(each for each in small if each != "seed=3")),
                *("--folder", out / "runs", "--out", out / "table.csv"),
            ],
            "train": ["train", "demo", *small, "name=run", f"output={out / 'runs'}"],
        }[name]

    def call(name: str, out: Path, *saboteurs: tuple) -> tuple[int, str]:
        out.mkdir(exist_ok=True)
        return rlif_process(arguments(name, out), out.with_suffix(".log"), *saboteurs, **environment)

    return call


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> Callable[[str], dict]:
    """Gives the files of a command that was not killed."""

    @functools.cache
    def written(name: str) -> dict:
        out = tmp_path_factory.mktemp("whole") / "out"
        code, said = run(name, out)
        assert code == 0, said
        return read(name, out)

    return written


@pytest.mark.daily(every=6)
@pytest.mark.parametrize("name", DAILY)
def test_a_killed_command_goes_on(name, run, whole, tmp_path):
    out = tmp_path / "out"
    for saboteur in [*(at(out, nth) for nth in DAILY[name]), *([(die_in_an_append, 1)] if name in LOGGED else [])]:
        code, said = run(name, out, saboteur)
        assert code == KILLED, said
    code, said = run(name, out)
    assert code == 0 and "Traceback" not in said, said
    assert read(name, out) == whole(name)


@pytest.mark.sweep
@pytest.mark.parametrize("name", [*DAILY, "select early", "train"])
def test_a_command_killed_at_each_operation(name, run, whole, tmp_path, record_property):
    for nth in itertools.count(1):
        out = tmp_path / str(nth)
        code, said = run(name, out, at(out, nth))
        if code == 0:
            break
        assert code == KILLED, said
        code, said = run(name, out)
        assert code == 0 and "Traceback" not in said, f"killed at operation {nth}: {said}"
        assert read(name, out) == whole(name), f"killed at operation {nth}"
    assert nth > 2
    record_property("kills", nth - 1)


@pytest.mark.sweep
@pytest.mark.parametrize("name", LOGGED)
def test_a_command_killed_in_each_line(name, run, whole, tmp_path, record_property):
    for nth in itertools.count(1):
        out = tmp_path / str(nth)
        code, said = run(name, out, (die_in_an_append, nth))
        if code == 0:
            break
        assert code == KILLED, said
        code, said = run(name, out)
        assert code == 0, said
        assert read(name, out) == whole(name), f"killed in append {nth}"
    record_property("kills", nth - 1)


@pytest.mark.sweep
def test_killed_between_the_summary_and_the_report(run, whole, tmp_path):
    """The run is finished, so --resume writes what is missing, says so and exits with 0."""
    out = tmp_path / "out"
    code, said = run("train", out, (die_at, "rlif.cli.train:report_of", 1))
    assert code == KILLED and (out / "runs/run/summary.json").is_file(), said
    assert not (out / "runs/run/report.html").exists()
    for _ in range(2):  # a finished run with a report is no error either
        code, said = run("train", out)
        assert code == 0 and "is finished; there is nothing to continue" in said, said
        assert read("train", out) == whole("train")
