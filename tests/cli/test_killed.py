"""Tests SIGKILL in every command that writes files: given again, it finishes with the files of a run not killed.

The process is killed before an operation on files (open to write, rename, delete, make), or in the middle of a line.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.alpaca import KEY, prefers_longer, serve, write_outputs, write_set, write_tables
from support.folders import write_lines
from support.killing import SMALL, outcome, rlif_process
from support.sabotage import die_at_operation, die_in_an_append

KILLED = -signal.SIGKILL
Files = dict[str, bytes]


def files(out: Path) -> Files:
    """Reads every file of a folder except locks, by its path in the folder."""
    found = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def trained(out: Path) -> dict:
    """Reads what equal comparisons have in common: all but times."""
    runs = {path.name: outcome(path) for path in sorted((out / "runs").iterdir()) if path.name[0] != "."}
    return {"runs": runs, "table": (out / "table.md").read_bytes()}


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folder) -> Path:
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
def commands(place, model_folder, endpoint) -> dict[str, list[str]]:
    """The arguments of each command, without where it writes."""
    model = str(model_folder)
    draw = ["-t", "clock", "-n", "2", "--limit", "3", "--batch-size", "2", "--max-tokens", "6"]  # three batches
    small = [*SMALL, "training.max_steps=2", "training.save_steps=1", "evaluate={tasks: [cups], limit: 2}"]
    small = [each for each in small if not each.startswith("seed=")]
    return {
        "eval": [
            "eval",
            model,
            "--tasks",
            "cups",
            "--limit",
            "5",
            "--batch-size",
            "2",
            "--max-tokens",
            "6",
            "--output",
        ],
        "select": ["select", "-m", model, *draw, "-o"],
        "select early": ["select", "-m", model, *draw, "--early-stop", "--warm-up", "1", "--window", "2", "-o"],
        "select samples": ["select", "--samples", str(place / "samples.jsonl"), "--rule", "self_certainty", "-o"],
        "score": ["score", str(place / "texts.jsonl"), "-m", model, "--batch-size", "1", "-o"],  # three batches
        "judge": ["judge", str(place / "outputs.jsonl"), "--base-url", endpoint, "--yes", "--workers", "1", "--keep"],
        "compare": ["compare", "demo", "--seeds", "3,", f"model={model}", *small, "--folder"],
    }


@pytest.fixture(scope="module")
def run(commands, place) -> Callable[..., tuple[int, str]]:
    """Runs a command that writes to a folder."""
    environment = {"RLIF_DATA": str(place), "OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1", "OPENAI_BASE_URL": ""}

    def call(name: str, out: Path, *saboteurs: tuple) -> tuple[int, str]:
        where = {"score": [out / "scored.jsonl"], "judge": [out / "judged.jsonl"]}.get(name, [out])
        if name == "compare":
            where = [out / "runs", "--out", out / "table.md"]
        out.mkdir(exist_ok=True)
        return rlif_process([*commands[name], *where], out.with_suffix(".log"), *saboteurs, **environment)

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


def read(name: str, out: Path) -> dict:
    return trained(out) if name == "compare" else files(out)


# The operations at which a command is killed every day: one amid its work, one near its end.
DAILY = {
    "eval": (4, 9),
    "select": (5, 11),
    "select samples": (3, 8),
    "score": (2, 3),
    "judge": (10, 40),
    "compare": (60,),
}


@pytest.mark.parametrize("name", DAILY)
def test_a_killed_command_goes_on(name, run, whole, tmp_path):
    out = tmp_path / "out"
    saboteurs = [(die_at_operation, str(out), nth) for nth in DAILY[name]]
    for saboteur in [*saboteurs, *([(die_in_an_append, 1)] if name != "compare" else [])]:
        code, said = run(name, out, saboteur)
        assert code in (0, KILLED), said
    code, said = run(name, out)
    assert code == 0 and "Traceback" not in said, said
    assert read(name, out) == whole(name)
