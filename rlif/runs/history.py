"""Reads a run folder for reports: everything readable, and notes about the rest.

`Run` refuses damaged files. Reports also show runs that still go, were killed, or filled the disk. So a torn line
costs that line only, a missing file its figures only, and `History.notes` lists both.

Metrics become one array per column. Completions and records are streamed, a bounded number of each file.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlif.errors import RlifError
from rlif.files.atomic import is_count, is_number
from rlif.files.jsonl import Row
from rlif.files.yaml import read_yaml
from rlif.runs.checkpoints import step_in_name
from rlif.runs.folder import Run, evaluation_name
from rlif.signals import renamed

LONGEST_LINE = 2**24  # characters of one line of JSON; longer ones are skipped as unreadable


@dataclass(frozen=True)
class History:
    """Holds what was read from a run folder.

    Example:
        >>> read_history("runs/demo").metrics["self_certainty"][-1].item()
        6.28364
    """

    run: Run
    name: str  # of the folder
    # as written, unchecked, so that folders of other versions open too; empty if there is none
    recipe: Row = field(default_factory=dict)
    environment: Row = field(default_factory=dict)
    summary: Row = field(default_factory=dict)
    # a float array per logged column, over the logged steps in order, NaN where a step has no number; `step` among
    # them
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    evaluations: dict[str, dict[int, Row]] = field(default_factory=dict)  # summaries by task, then step
    completions: dict[int, Path] = field(default_factory=dict)  # the files of completions by step
    notes: list[str] = field(default_factory=list)  # what is missing or could not be read
    # what evaluations call a task of the recipe, where that is another name: easy-sum for easy/sum
    titles: dict[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> np.ndarray:
        return self.metrics.get("step", np.empty(0))

    @property
    def last_step(self) -> int:
        """Returns the last step found in any file."""
        seen = [*self.steps[-1:], *self.completions, *itertools.chain(*self.evaluations.values())]
        return int(max(seen, default=0))

    @property
    def planned_steps(self) -> int | None:
        """Returns the planned number of steps, where the recipe has one."""
        if self.recipe.get("rounds"):  # what a round keeps decides its steps
            return None
        training = self.recipe.get("training")
        steps = training.get("max_steps") if isinstance(training, Mapping) else None
        return steps if isinstance(steps, int) and steps > 0 else None

    @property
    def failures(self) -> str:
        """Names the tracebacks of rewards that raised, in a sentence; empty without any."""
        files = ", ".join(self.run.tracebacks())
        return f"A reward raised an error: see {files} in the run folder." if files else ""

    def records(self, step: int, task: str, limit: int = 20_000) -> Iterator[Row]:
        """Yields the first records of an evaluation, one per completion; none where they were not written."""
        path = self.run.at("eval", f"{evaluation_name(step, task)}.jsonl")
        if path.is_file():
            yield from itertools.islice(_rows(path, []), limit)
        else:  # written inside the summary by rlif 0.1.0
            records = _read_json(path.with_suffix(".json"), []).get("records")
            kept = records[:limit] if isinstance(records, list) else []
            yield from (row for row in kept if isinstance(row, dict))

    def read_completions(self, step: int, limit: int | None = None) -> Iterator[Row]:
        """Yields the first completions of a step's rollout, without torn lines."""
        if step in self.completions:
            yield from itertools.islice(_rows(self.completions[step], []), limit)


def read_history(path: str | Path) -> History:
    """Reads a run folder; whatever is missing or damaged becomes a note. A link that leads out of it is refused."""
    run = Run.open(path)
    notes: list[str] = []
    try:
        recipe = read_yaml(run.at("recipe.yaml"))
    except RlifError as error:
        recipe = {}
        notes.append(f"The recipe is unreadable: {error}")
    environment = _read_json(run.at("environment.json"), notes, "versions and hardware are unknown")
    summary = _read_json(run.at("summary.json"), notes)
    metrics, evaluations = _metrics(run.at("metrics.jsonl"), notes), _evaluations(run.files("eval/step-*.json"), notes)
    completions = {step: path for step, _, path in _by_step(run.files("completions/step-*.jsonl"), notes, tasks=False)}
    name = run.path.resolve().name
    titles = _titles(recipe, _read_json(run.at("begun.json"), []))
    history = History(run, name, recipe, environment, summary, metrics, evaluations, completions, notes, titles)
    _note_missing(history)
    return history


def _titles(recipe: Row, begun: Row) -> dict[str, str]:
    """Pairs the tasks that the recipe evaluates with the names under which the start of the run kept their problems."""
    evaluated = recipe.get("evaluate")
    named = evaluated.get("tasks") if isinstance(evaluated, Mapping) else None
    held_out = begun.get("held_out")
    if not isinstance(named, list) or not isinstance(held_out, Mapping) or len(named) != len(held_out):
        return {}
    return {name: title for name, title in zip(named, held_out, strict=True) if isinstance(name, str)}


def _note_missing(history: History) -> None:
    notes, planned = history.notes, history.planned_steps
    if not history.summary:
        of = f" of {planned:,}" if planned else ""
        notes.append(f"There is no summary: the run is going, or stopped at step {history.last_step:,}{of}.")
    if not history.completions:
        notes.append("No completions were kept, so there are none to browse.")
    if not history.evaluations:
        notes.append("Accuracy was not monitored: there are no evaluations.")
    for name in ("reward", "self_certainty"):
        values = history.metrics.get(name)
        if values is not None and (bad := int(np.isnan(values).sum())):
            notes.append(f"{name} is not a number in {bad:,} of {len(values):,} logged steps.")


def _metrics(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    rows: dict[int, Row] = {}
    odd: list[Any] = []
    for row in _rows(path, notes):
        step = row.get("step")
        if is_count(step):
            rows[step] = renamed(row)  # of a step that was logged twice, the later
        else:
            odd.append(step)
    if odd:
        lines, first = "1 line" if len(odd) == 1 else f"{len(odd):,} lines", json.dumps(odd[0])
        first = first if len(first) <= 40 else f"{first[:37]}..."
        notes.append(f"{lines} of {path.name} left out: the step is not a whole number below 2^53 ({first}).")
    if not rows:
        notes.append("No step was logged: metrics.jsonl is missing or holds none.")
        return {}
    ordered = [rows[step] for step in sorted(rows)]
    names = {name: None for row in ordered for name, value in row.items() if _is_numeric(value)}
    logged = {name: [row.get(name) for row in ordered] for name in names}
    return {
        name: np.array([float(value) if is_number(value) else math.nan for value in values])
        for name, values in logged.items()
    }


def _evaluations(paths: list[Path], notes: list[str]) -> dict[str, dict[int, Row]]:
    found: dict[str, dict[int, Row]] = {}
    for step, task, path in _by_step(paths, notes, tasks=True):
        if summary := _read_json(path, notes):
            found.setdefault(task, {})[step] = {key: value for key, value in summary.items() if key != "records"}
    return found


def _by_step(paths: Iterable[Path], notes: list[str], tasks: bool) -> list[tuple[int, str, Path]]:
    """Lists files by step, with their tasks: step-NUMBER-TASK, or step-NUMBER without tasks; notes the others."""
    found, odd = [], []
    for path in paths:
        number, _, task = path.stem.partition("-")[2].partition("-")
        step = step_in_name(number)
        if step is None or bool(task) != tasks:
            odd.append(path)
        else:
            found.append((step, task, path))
    if odd:
        files = "1 file" if len(odd) == 1 else f"{len(odd):,} files"
        notes.append(f"{files} of {odd[0].parent.name} left out: the name is not that of a step ({odd[0].name[:40]}).")
    return sorted(found)


def _rows(path: Path, notes: list[str]) -> Iterator[Row]:
    """Streams the objects of a file of JSON lines; other lines are skipped and counted in the notes."""
    bad = 0
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            while line := file.readline(LONGEST_LINE):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    yield row
                else:
                    bad += bool(line.strip())
    except OSError as error:
        if path.exists():
            notes.append(f"{path.name} is unreadable: {error.strerror}.")
    if bad:
        lines = "1 line" if bad == 1 else f"{bad:,} lines"
        notes.append(
            f"{lines} of {path.name} could not be read and are left out; the last one of a killed run is torn."
        )


def _read_json(path: Path, notes: list[str], expected: str = "") -> Row:
    """Reads an object from a file; empty, with a note, if it is unreadable, or missing though expected."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        if isinstance(value, dict):
            return value
        notes.append(f"{path.name} is not an object and is left out.")
    except FileNotFoundError:
        if expected:
            notes.append(f"{path.name} is missing: {expected}.")
    except (OSError, ValueError, RecursionError):
        notes.append(f"{path.name} is unreadable and is left out.")
    return {}


def _is_numeric(value: Any) -> bool:
    """Tells whether a value may stand in a column of numbers: NaN, infinities and null as well."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
