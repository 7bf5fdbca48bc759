"""Loads HumanEval+ and MBPP+ from EvalPlus' rows, and makes trials by its rules (see `evalplus_oracle`)."""

import json
from pathlib import Path

from rlif.errors import DataError, RecipeError
from rlif.files.tables import Row, read_rows
from rlif.sandbox.runner import Limits, Program
from rlif.tasks.code.programs import Trial
from rlif.types import Problem

LIMITS = Limits(seconds=600, memory_mib=4096)  # importing the program and each call have their own limits of time
ORACLE = Path(__file__).with_name("evalplus_oracle.py").read_text(encoding="utf-8")


def load_plus(source: str, split: str, limit: int | None) -> list[Problem]:
    """Loads rows of {task_id, prompt, entry_point, canonical_solution, base_input, plus_input, atol}."""
    if split != "test":
        raise RecipeError(f"EvalPlus' rows have the split test alone, not {split!r}.")
    problems = []
    for row in read_rows(source, split, ("task_id", "prompt", "entry_point", "canonical_solution"))[:limit]:
        data = {
            "name": row["entry_point"],
            "prompt": row["prompt"],
            "number": _number(row, source),
            "base": _inputs(row, "base_input", source),
            "plus": _inputs(row, "plus_input", source),
            "atol": _tolerance(row, source),
        }
        problems.append(Problem(row["task_id"], row["prompt"], row["canonical_solution"], data=data, row=row))
    return problems


def _number(row: Row, source: str) -> int | None:
    family, _, number = row["task_id"].partition("/")
    if family == "Mbpp" and not number.isdecimal():
        raise DataError(f"the task_id {row['task_id']!r:.60} of {source} has no number; expected Mbpp/NUMBER.")
    return int(number) if family == "Mbpp" else None


def _tolerance(row: Row, source: str) -> float:
    value = row.get("atol") or 0
    if not isinstance(value, int | float) or not 0 <= value < 1e300:
        raise DataError(f"the atol of {row['task_id']!r:.60} of {source} is {value!r:.40}; expected a number.")
    return float(value)


def _inputs(row: Row, column: str, source: str) -> str:
    """Returns the inputs of a row as JSON, a list of argument lists; the hub has JSON text, files have lists."""
    inputs = row.get(column)
    try:
        found = json.loads(inputs) if isinstance(inputs, str) else inputs
    except (ValueError, RecursionError):
        found = None
    if found == {}:  # in one row of MBPP+
        found = []
    if not isinstance(found, list) or not all(isinstance(args, list) for args in found):
        raise DataError(
            f"{row['task_id']!r:.60} of {source} has no list {column!r} of arguments; expected EvalPlus' layout."
        )
    return json.dumps(found)


def plus_trials(problem: Problem, source: str, *, extra: bool, stored: bool = False) -> list[Trial]:
    """Makes the trials that a program must pass: the original inputs, and with `extra` those that EvalPlus added.

    Args:
        stored: grade as the verdicts published with MBPP+ 0.1.0, see `evalplus_oracle`.
    """
    data = problem.data
    spec = {key: data[key] for key in ("name", "number", "atol")}
    spec |= {"reference": f"{data['prompt']}{problem.gold}", "stored": stored} | ({"source": ORACLE} if stored else {})
    before = f"{ORACLE}\nsignal.signal(signal.SIGALRM, too_slow)\nin_time(LOADING, load)\nspec = {spec!r}\n"
    tests = [
        f"{before}spec['inputs'] = json.loads({inputs!r})\njudge(spec, call)"
        for inputs in ((data["base"], data["plus"]) if extra else (data["base"],))
    ]
    return [Trial(Program(source, tests=test, limits=LIMITS)) for test in tests]
