"""Writes run summaries to one JSON file and reads them again: 9 kB for a run of 30 steps.

    {"command": what made it, "against": the method the others were compared with, or null,
     "rows":    [the table, a row per task and method]
     "tasks":   {how each task was evaluated}
     "methods": {the recipe of each}
     "runs":    [a run per line; evaluations and metrics by column]}

Rows are for readers of the file; `rlif compare` computes them again from the runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rlif.comparison.summary import EVALUATED, Number, Row, RunSummary
from rlif.errors import DataError

SHARE = ("n", "mean", "low", "high")
ELSEWHERE = ("recipe", "settings", "evaluations")  # fields of a run that its line does not hold as they are
CURVES, RUN = TypeAdapter(dict[str, dict[str, list[Number]]]), TypeAdapter(RunSummary)
MADE, TASKS = TypeAdapter(dict[str, str | None]), TypeAdapter(list[str])


def text_of(runs: Sequence[RunSummary], rows: Sequence[Row], made: Mapping[str, str | None]) -> str:
    """Formats the file of some runs.

    Args:
        rows: the table made of them.
        made: how: `command` and `against`.
    """
    tasks: dict[str, Row] = {}
    methods: dict[str, Row] = {}
    for run in runs:
        methods.setdefault(run.method, run.recipe)
        for task, settings in run.settings.items():
            tasks[task] = settings | tasks.get(task, {})
    named = {"tasks": tasks, "methods": methods}
    parts = [f"{_json(key)}: {_json(value)}" for key, value in made.items()]
    parts += [_lines("rows", "[", map(_json, rows), "]")]
    parts += [_lines(k, "{", (f"{_json(n)}: {_json(v)}" for n, v in named[k].items()), "}") for k in named]
    parts += [_lines("runs", "[", (_json(_to_row(run)) for run in runs), "]")]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read_summaries(path: str | Path) -> tuple[list[RunSummary], dict[str, str | None]]:
    """Reads the runs of a file, and how it was made: `command` and `against`.

    Raises:
        DataError: it is another kind of file, or damaged.

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
        raise DataError(f"{path} is no file that `rlif compare --out FILE.json` wrote ({_wrong(error)}).") from error


def _to_row(run: RunSummary) -> Row:
    curves = {
        task: {
            "step": list(evaluated),
            **{key: [evaluation["accuracy"][key] for evaluation in evaluated.values()] for key in SHARE},
            **{key: [evaluation[key] for evaluation in evaluated.values()] for key in EVALUATED},
        }
        for task, evaluated in run.evaluations.items()
    }
    return {key: value for key, value in asdict(run).items() if key not in ELSEWHERE} | {"curves": curves}


def _from_row(row: Row, file: Row) -> RunSummary:
    row = dict(row)
    evaluations: dict[str, dict[int, Row]] = {}
    for task, columns in CURVES.validate_python(row.pop("curves")).items():
        evaluated = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        evaluations[task] = {
            evaluation["step"]: {"accuracy": {key: evaluation[key] for key in SHARE}}
            | {key: evaluation[key] for key in EVALUATED}
            for evaluation in evaluated
        }
    row["recipe"], row["evaluations"] = file["methods"][row["method"]], evaluations
    TASKS.validate_python(row["recipe"].get("evaluate", {}).get("tasks", []))
    row["settings"] = {task: file["tasks"][task] for task in evaluations}
    return RUN.validate_python(row)


def _lines(key: str, opening: str, inner: Any, closing: str) -> str:
    return f"{_json(key)}: {opening}\n" + ",\n".join(inner) + f"\n{closing}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _wrong(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
