"""Writes run summaries to one JSON file and reads them again: 9 kB for a run of 30 steps.

    {"command": what made it, "against": the method the others were compared with, or null,
     "rows":    [the table, a row per task and method]
     "tasks":   {how each task was evaluated}
     "methods": {the recipe of each}
     "runs":    [a run per line; evaluations and metrics by column]}

The rows are for readers of the file; `rlif compare` computes them again from the runs.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rlif.comparison.summary import RunSummary
from rlif.errors import DataError, why_unreadable
from rlif.files.atomic import is_count
from rlif.files.jsonl import Row

RUN, MADE = TypeAdapter(RunSummary), TypeAdapter(dict[str, str | None])
TASKS = TypeAdapter(list[str])


def format_summaries(runs: Sequence[RunSummary], rows: Sequence[Row], made: Mapping[str, str | None]) -> str:
    """Formats the file of some runs."""
    tasks: dict[str, Row] = {}
    methods: dict[str, Row] = {}
    for run in runs:
        methods.setdefault(run.method, run.recipe)
        for task, settings in run.settings.items():
            tasks[task] = settings | tasks.get(task, {})
    kept = [{key: value for key, value in asdict(run).items() if key not in ("recipe", "settings")} for run in runs]
    kept = [
        {key: value for key, value in run.items() if key not in ("weights", "pass_at") or value} for run in kept
    ]  # mostly empty
    named = {"tasks": tasks, "methods": methods}
    parts = [
        *_members(made),
        _lines("rows", "[]", map(_json, rows)),
        *(_lines(key, "{}", _members(values)) for key, values in named.items()),
        _lines("runs", "[]", map(_json, kept)),
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read_summaries(path: str | Path) -> tuple[list[RunSummary], dict[str, str | None]]:
    """Reads the runs of a file, and how it was made: `command` and `against`.

    Example:
        >>> runs, made = read_summaries("results/demo.json")
        >>> runs[0].label
        'demo seed 0'
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        made = MADE.validate_python({key: found[key] for key in ("command", "against")})
        return [_from_row(row, found) for row in found["runs"]], made
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wrong = why_unreadable(error, "its contents are of another layout")
        raise DataError(f"{path} is not a file that `rlif compare --out FILE.json` wrote ({wrong}).") from error


def _from_row(row: Row, file: Row) -> RunSummary:
    recipe, settings = file["methods"][row["method"]], {task: file["tasks"][task] for task in row["curves"]}
    TASKS.validate_python(recipe.get("evaluate", {}).get("tasks", []))
    columns = [row.get("metrics", {}), *row["curves"].values()]
    for steps in (column["step"] for column in columns if "step" in column):
        if not all(map(is_count, steps)) or any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            raise ValueError("its steps are not whole numbers in order")
    if not is_count(row["steps"]):
        raise ValueError("its number of steps is not a whole number")
    run = RUN.validate_python(row | {"recipe": recipe, "settings": settings})
    _ = run.evaluations  # raises where the columns of a curve are damaged
    return run


def _lines(key: str, brackets: str, inner: Iterable[str]) -> str:
    return f"{_json(key)}: {brackets[0]}\n" + ",\n".join(inner) + f"\n{brackets[1]}"


def _members(values: Mapping[str, Any]) -> list[str]:
    return [f"{_json(key)}: {_json(value)}" for key, value in values.items()]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
