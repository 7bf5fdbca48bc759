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
    rounds/              round-001/ ...: samples and data of training in rounds (`rlif.runs.phase`)
    summary.json         scores before and after, seeds, steps, seconds; written last
    errors/              reward-step-000011.txt: the traceback of a reward that raised at that step
    begun.json           hashes of problems and model at the start (`rlif.runs.fingerprint`)
    report.html          the page of `rlif report`

Every file is written whole or not at all, except the logs (metrics, alarms, rollbacks). A kill may tear their last
line, which is then ignored. Any other damage raises DataError. A symbolic link that leads out of the folder is refused
(`rlif.files.inside`). A run that took no step is a failed start, and the next start of that name replaces it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rlif import progress
from rlif.config.loading import check_recipe, folder_name
from rlif.config.recipe import Recipe
from rlif.errors import DataError, MachineError, RecipeError
from rlif.files.atomic import finite, is_count, read_object, replace_file, write_rows
from rlif.files.inside import check_links, inside, remove
from rlif.files.jsonl import JsonLog, read_lines
from rlif.files.lock import locked
from rlif.files.yaml import read_yaml, write_yaml
from rlif.runs.checkpoints import damage, discard, in_order, is_sealed, step_in_name, step_of
from rlif.runs.environment import environment
from rlif.runs.launcher_contract import RESUMES
from rlif.runs.paths import with_absolute_paths

LOGS = {"metrics.jsonl": "step", "alarms.jsonl": "step", "rollbacks.jsonl": "to"}  # and the number each row has
# What a start writes before its first step, and the rest.
START = (
    "recipe.yaml", "environment.json", "begun.json", "alarms.jsonl", "eval", "errors", "checkpoints", "report.html",
)  # fmt: skip
FILES = {*START, "summary.json", *LOGS, "completions", "model", "rounds"}


class Run:
    """Represents one run folder.

    Example:
        >>> run = Run.open("runs/demo")
        >>> run.metrics()[-1]["self_certainty"]
        6.28364
    """

    def __init__(self, path: Path):
        self.path = path
        self.before = 0  # steps of the run before those that are counted here, see `rlif.runs.phase`
        self.checkpoints, self.model = path / "checkpoints", path / "model"
        self.again = ""  # what goes on with the run, where no command resumes it alone

    @classmethod
    def create(cls, recipe: Recipe, default_name: str, held: ExitStack | None = None) -> Run:
        """Creates a folder with recipe and environment. A default name that is taken gets a number, another is refused.

        Args:
            held: keeps the folder locked until it is closed; locked before the folder has its name.
        """
        root = Path(recipe.output).expanduser()
        names = [recipe.name] if recipe.name else numbered(folder_name(default_name))
        draft = root / f".{names[0]}.{secrets.token_hex(4)}.draft"
        try:
            draft.mkdir(parents=True)
            if held is not None:
                held.enter_context(locked(draft))
            cls(draft)._write_json("environment.json", environment())
            for name in names:
                write_yaml(resolved(recipe, name), draft / "recipe.yaml")
                if _moved(draft, root / name) or _replaced(draft, root / name):
                    return cls(root / name)
        except OSError as error:
            raise MachineError(f"cannot make the run folder {root / names[0]}: {error.strerror}.") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        raise _taken(root / names[0])

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Opens an existing run folder; refuses one with a link that leads out of it."""
        run = cls(Path(path).expanduser())
        if not (run.path / "recipe.yaml").is_file():
            why = "it has no recipe.yaml" if run.path.is_dir() else "there is no such folder"
            why = "it is a file" if run.path.is_file() else why
            raise DataError(f"{path} is not a run folder: {why}.")
        check_links(run.path, FILES)
        return run

    def at(self, *names: str) -> Path:
        """Returns the path of a file or folder of the run; raises a DataError where a link leads out of the run."""
        return inside(self.path, *names)

    def files(self, pattern: str) -> list[Path]:
        """Lists the paths that match a pattern, with their links checked."""
        found = sorted(self.path.glob(pattern))
        return [self.at(*path.relative_to(self.path).parts) for path in found]

    @property
    def is_empty(self) -> bool:
        """Tells whether the run took no step, so that nothing in it is lost when it is replaced."""
        try:
            known = all(path.name in START or path.name.startswith(".") for path in self.path.iterdir())
            steps = [*map(step_of, in_order(self.checkpoints)), *map(_step_of_file, self.files("eval/*"))]
        except (DataError, OSError):  # there is no such folder, or something in it is not the run's
            return False
        return known and not any(steps) and (self.path / "recipe.yaml").is_file() and not self.path.is_symlink()

    @property
    def go_on(self) -> str:
        """Says how to go on with the run after a stop."""
        command = os.environ.get(RESUMES) or f"rlif train --resume {shlex.quote(str(self.path))}"
        return self.again or f"go on with: {command}"

    @property
    def change_and_go_on(self) -> str:
        """Says where to change a key, and how to go on then; a comparison refuses a run of another recipe."""
        if self.again:
            return f"in the recipe{'' if self.is_empty else f', remove {self.path}'} and {self.again}"
        return f"in {self.path / 'recipe.yaml'} and {self.go_on}"

    def recipe(self) -> Recipe:
        return check_recipe(read_yaml(self.at("recipe.yaml")))

    @progress.task("verifying checkpoints")
    def good_checkpoint(self, until: int | None = None) -> tuple[Path | None, list[str]]:
        """Finds the last undamaged checkpoint and describes the damage of later ones; refuses where all are damaged."""
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
        folders = [self.checkpoints, *self.files("rounds/*/checkpoints")]
        torn = [path for folder in folders for path in in_order(folder) if not is_sealed(path)]
        for path in (*self.files(".model.draft*"), *self.files("checkpoints/.*.draft"), *torn):
            remove(path)

    def append(self, log: str, row: Mapping[str, Any]) -> None:
        """Adds a line to one of `LOGS`."""
        JsonLog(self.at(log)).append(finite(row))

    def sync_logs(self) -> None:
        """Waits until the logs are on the disk."""
        for log in LOGS:
            JsonLog(self.at(log)).sync()

    def rows(self, log: str) -> list[dict[str, Any]]:
        """Reads the rows of one of `LOGS`, oldest first, without a torn last line."""
        path, key, rows = self.at(log), LOGS[log], []
        for number, row in JsonLog(path).rows():
            if not is_count(row.get(key)):
                raise DataError(f"line {number} of {path} is damaged: it has no whole number as its {key!r}.")
            rows.append(row)
        return rows

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        self.append("metrics.jsonl", metrics)

    def metrics(self) -> list[dict[str, Any]]:
        """Reads the logged steps, oldest first."""
        return self.rows("metrics.jsonl")

    def tracebacks(self) -> list[str]:
        """Lists the tracebacks of rewards that raised, within the folder."""
        return [f"errors/{path.name}" for path in self.files("errors/reward-step-*.txt")]

    def write_completions(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        write_rows(self._made("completions") / f"step-{step:06d}.jsonl", rows)

    def completions(self, step: int) -> list[dict[str, Any]]:
        """Reads the completions of a step; empty where none were kept."""
        path = self.at("completions", f"step-{step:06d}.jsonl")
        return [row for _, row in read_lines(path)] if path.is_file() else []

    def write_evaluation(
        self, step: int, task: str, scores: Mapping[str, Any], records: Iterable[Mapping[str, Any]]
    ) -> None:
        name = evaluation_name(step, task)
        write_rows(self._made("eval") / f"{name}.jsonl", records)
        self._write_json(f"eval/{name}.json", scores)

    def evaluations(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Reads the scores by task, then step."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for path in self.files("eval/step-*.json"):
            step, task = _step_of_file(path), path.stem.partition("-")[2].partition("-")[2]
            found.setdefault(task, {})[step] = read_object(path)
        return found

    def records(self, step: int, task: str) -> list[dict[str, Any]]:
        """Reads the records of an evaluation; empty where there are none."""
        path = self.at("eval", f"{evaluation_name(step, task)}.jsonl")
        return [row for _, row in read_lines(path)] if path.is_file() else []

    def write_traceback(self, step: int, text: str) -> Path:
        """Writes the traceback of a reward that raised at a step; returns its path."""
        path = self._made("errors") / f"reward-step-{step:06d}.txt"
        replace_file(path, text)
        return path

    def write_fingerprint(self, facts: Mapping[str, Any]) -> None:
        self._write_json("begun.json", facts)

    def fingerprint(self) -> dict[str, Any]:
        """Reads the fingerprint of the start; empty if a kill came before it was written."""
        path = self.at("begun.json")
        return read_object(path) if path.is_file() else {}

    def environment(self) -> dict[str, Any]:
        """Reads the versions, commit and hardware of the start."""
        return read_object(self.at("environment.json"))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._write_json("summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """Reads the summary of a finished run."""
        if not self.is_finished:
            raise DataError(f"{self.path} is not finished: it has no summary.json.")
        found, path = read_object(self.at("summary.json")), self.path / "summary.json"
        if not is_count(found.get("steps")):
            raise DataError(f"{path} is damaged: it has no whole number as its 'steps'.")
        return found

    @property
    def is_finished(self) -> bool:
        return self.at("summary.json").is_file()

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
        for path in (*self.files("completions/step-*"), *self.files("eval/step-*")):
            if _step_of_file(path) > step:
                path.unlink()
        for folder in (".", "completions", "eval", "errors", "checkpoints", "rounds/*"):
            for path in self.files(f"{folder}/.*.draft"):
                remove(path)

    def rewrite(self, log: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces the rows of one of `LOGS`, if it is there."""
        JsonLog(self.at(log)).rewrite(map(finite, rows))

    def _made(self, name: str) -> Path:
        """Returns a folder of the run, which it makes where it is missing."""
        folder = self.at(name)
        folder.mkdir(exist_ok=True)
        return folder

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        replace_file(self.at(name), json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def resolved(recipe: Recipe, name: str) -> dict[str, Any]:
    """Resolves a recipe: every default filled in, every path absolute."""
    return with_absolute_paths(recipe).written_out() | {"name": name}


def evaluation_name(step: int, task: str) -> str:
    """Returns the name of an evaluation's files, without suffix."""
    return f"step-{step:06d}-{task}"


def _step_of_file(path: Path) -> int:
    """Reads the step from the name of a file of completions or of an evaluation."""
    step = step_in_name(path.name.partition("-")[2].partition("-")[0].partition(".")[0])
    if step is None:
        raise DataError(f"{path} is not named step-NUMBER...; it is none of this run's files, move it away.")
    return step


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


def _replaced(draft: Path, path: Path) -> bool:
    """Puts a folder in the place of a run that took no step and that no process holds; returns whether it did."""
    with _unused(path) as unused:
        if not unused:
            return False
        aside = draft.with_suffix(".replaced")
        path.rename(aside)
        moved = _moved(draft, path)
        remove(aside)
        return moved


@contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Holds a run that took no step and that no other process holds; yields False for any other path."""
    with ExitStack() as held:
        unused = Run(path).is_empty
        if unused:
            try:
                unused = held.enter_context(locked(path)) and Run(path).is_empty
            except MachineError:  # a start that is still going
                unused = False
        yield unused


def is_free(path: Path) -> bool:
    """Tells whether a new run may have this path: nothing is there, or a run that took no step and has ended."""
    with _unused(path) as unused:
        return unused or not os.path.lexists(path)


def check_name(recipe: Recipe) -> None:
    """Refuses a name that another run has, and a place where no folder can be made."""
    root = Path(recipe.output).expanduser()
    path = root / (recipe.name or "")
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if os.path.exists(folder))
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "a folder that can be written to" if there.is_dir() else "a folder"
        raise MachineError(f"cannot make run folders in {root}: {there} is not {what}; give another output.")
    if recipe.name and not is_free(path):
        raise _taken(path)


def _taken(path: Path) -> RecipeError:
    """Returns the error for a path that is taken; it says how to go on with an unfinished run."""
    unfinished = (path / "recipe.yaml").is_file() and not (path / "summary.json").is_file()
    go_on = f", or go on with `rlif train --resume {path}`" if unfinished else ""
    return RecipeError(f"{path} exists already; choose another name{go_on}.")


def numbered(name: str) -> list[str]:
    """Lists the names to try for a run folder, in order."""
    return [name, *(f"{name}-{i}" for i in range(2, 10_000))]
