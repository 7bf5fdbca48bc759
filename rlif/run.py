"""The run folder: the only interface between running and looking.

runs/<name>/
    recipe.yaml          the resolved recipe
    environment.json     versions, commit, hardware
    metrics.jsonl        one object per logged step
    alarms.jsonl         what the guard raised; rollbacks.jsonl: returns to a healthy checkpoint (`rlif.rollback`)
    completions/         step-000010.jsonl: the completions of that step's rollout, with rewards and advantages
    eval/                step-000010-clock.json: an evaluation; .jsonl beside it: a record per completion
    checkpoints/         checkpoint-10/ ..., in the engine's own layout
    model/               the trained model, for from_pretrained
    summary.json         before and after, seeds, steps, seconds
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import rlif
from rlif.config import Recipe, check_recipe, read_yaml, write_yaml
from rlif.errors import RlifError

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "vllm", "math-verify")


class Run:
    """One run folder.

    Example:
        >>> run = Run.open("runs/demo")
        >>> run.metrics()[-1]["self_certainty"]
        7.31
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints, self.model = path / "checkpoints", path / "model"

    @classmethod
    def create(cls, recipe: Recipe, default_name: str) -> Run:
        """A new folder, holding recipe and environment. A name that was left to us is numbered if taken.

        Raises:
            RlifError: the name asked for is taken, or the folder cannot be written.
        """
        root = Path(recipe.output).expanduser()
        names = [recipe.name] if recipe.name else _numbered(default_name)
        for name in names:
            run = cls(root / name)
            try:
                run.path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise RlifError(f"cannot make the run folder {run.path}: {error.strerror}.") from error
            write_yaml(resolved(recipe, name), run.path / "recipe.yaml")
            run._write_json("environment.json", environment())
            return run
        taken = root / names[0]
        raise RlifError(
            f"{taken} exists already; choose another name=..., or go on with `rlif train --resume {taken}`."
        )

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run folder.

        Raises:
            RlifError: it is none.
        """
        run = cls(Path(path).expanduser())
        if not (run.path / "recipe.yaml").is_file():
            raise RlifError(f"{path} is no run folder: it has no recipe.yaml.")
        return run

    def recipe(self) -> Recipe:
        return check_recipe(read_yaml(self.path / "recipe.yaml"))

    def latest_checkpoint(self, before: int | None = None) -> Path | None:
        """The last complete checkpoint, `before` a step if given: the engine writes `trainer_state.json` last."""
        found = {step_of(path.parent): path.parent for path in self.checkpoints.glob("checkpoint-*/trainer_state.json")}
        return found[max(steps)] if (steps := [step for step in found if before is None or step < before]) else None

    def remove_torn(self) -> None:
        """Removes a checkpoint or a model that was not written to its end."""
        shutil.rmtree(self.model, ignore_errors=True)
        for path in self.checkpoints.glob("checkpoint-*"):
            if not (path / "trainer_state.json").is_file():
                shutil.rmtree(path)

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(metrics)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The logged steps, oldest first; a torn last line, of a run that was killed, is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

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
        """Scores by task, then step."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for path in sorted((self.path / "eval").glob("step-*.json")):
            _, step, task = path.stem.split("-", 2)
            found.setdefault(task, {})[int(step)] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def records(self, step: int, task: str) -> list[dict[str, Any]]:
        """An evaluation's completions, an object each; empty where there is none."""
        path = self.path / "eval" / f"{evaluation_name(step, task)}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._write_json("summary.json", summary)

    def summary(self) -> dict[str, Any]:
        return json.loads((self.path / "summary.json").read_text(encoding="utf-8"))

    def rewind(self, step: int) -> None:
        """Forgets everything logged after a step, before going on from a checkpoint taken there."""
        kept = [row for row in self.metrics() if row["step"] <= step]
        replace_file(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        if (self.path / "alarms.jsonl").is_file():
            alarms = read_rows(self.path / "alarms.jsonl")
            write_rows(self.path / "alarms.jsonl", [row for row in alarms if row["step"] <= step])
        for path in itertools.chain(self.path.glob("completions/step-*"), self.path.glob("eval/step-*")):
            if int(path.stem.split("-")[1]) > step:
                path.unlink()

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        replace_file(self.path / name, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def resolved(recipe: Recipe, name: str) -> dict[str, Any]:
    """The recipe with nothing left to defaults or to the folder it was started in."""
    local = {
        key: str(Path(value).expanduser().resolve())
        for key in ("model", "source")
        if (value := getattr(recipe, key)) and Path(value).expanduser().exists()
    }
    return recipe.model_dump() | {
        "name": name,
        "normalisation": recipe.resolved_normalisation,
        "training": recipe.resolved_training,
        **local,
    }


def environment() -> dict[str, Any]:
    """Versions, commit and hardware; nothing of the caller's environment variables."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "rlif": rlif.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _commit() -> str | None:
    """The commit of the checkout the package runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was taken at."""
    return int(checkpoint.name.rpartition("-")[2])


def evaluation_name(step: int, task: str) -> str:
    """What the files of an evaluation are called."""
    return f"step-{step:06d}-{task}"


def _numbered(name: str) -> list[str]:
    return [name, *(f"{name}-{i}" for i in range(2, 10_000))]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Appends a JSON line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(row)) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, a torn last one left out; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines, all of them or none."""
    replace_file(path, "".join(json.dumps(finite(row), ensure_ascii=True) + "\n" for row in rows))


def finite(value: Any) -> Any:
    """The same value with NaN and infinities as None: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def replace_file(path: Path, text: str) -> None:
    """Writes a whole file or nothing."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
