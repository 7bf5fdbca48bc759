"""Summarises a run folder in a few kilobytes: all but completions, records and weights.

    recipe        as resolved, without seed, name and output; of a path that is absolute only the last part
    settings      how each task was evaluated, and a fingerprint of the problems' ids
    evaluations   accuracy with n and interval, length, self-certainty, at each evaluated step
    metrics       the columns that the guard and the tables read, at each logged step
    alarms        what the guard raised
    state         finished; stopped by the guard, which has an end too; unfinished; failed

Numbers are rounded to six digits here. So a table from run folders and one from their summary file
(`rlif.comparison.summary_file`) are the same to the last byte.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlif.config.recipe import Recipe
from rlif.errors import DataError, RlifError
from rlif.guard.monitor import FINITE
from rlif.guard.signs import SIGNS
from rlif.runs.folder import Run, resolved
from rlif.runs.history import History, read_history
from rlif.runs.rollback import alarms

Row = dict[str, Any]
Number = int | float | None
State = Literal["finished", "stopped", "unfinished", "failed"]
NAMES = ("seed", "name", "output", "description")  # of a recipe: what says which run, not what it does
COLUMNS = ("step", *FINITE, "completion_length", *sorted({sign.of for sign in SIGNS.values()}))
EVALUATED = ("completion_length", "self_certainty", "truncated", "unanswered")
SETTINGS = ("problems", "protocol", "prompt", "chat", "decoding")
DIGITS = 6
COUNTED_STATES = ("finished", "stopped")  # states of runs that have an end to compare


@dataclass(frozen=True)
class Raised:
    """Holds an alarm or a warning of the guard: the sign, since when, and the step that logged it."""

    sign: str
    severity: str
    since: int
    step: int


@dataclass(frozen=True)
class RunSummary:
    """Holds one run of a method with a seed.

    Attributes:
        state: one of finished; stopped, by the guard; unfinished; failed.
        said: why it is not simply finished, in a sentence.
        settings: how it was evaluated, by task.
        evaluations: by task, then step, as in a run folder: {accuracy: {n, mean, low, high}, completion_length, ...}.
        metrics: a list per column, over the logged steps; None where a step has no number.
        alarms: what the guard raised; None where none watched.
        trained_on: a fingerprint of the problems, empty where it was not kept.
        first_problems: ids of the first problems of its first rollout.

    Example:
        >>> summarise_run("runs/demo").evaluations["clock"][30]["accuracy"]["mean"]
        0.925781
    """

    method: str
    seed: int
    recipe: Row
    state: State = "finished"
    said: str = ""
    steps: int = 0
    seconds: Number = None
    settings: dict[str, Row] = field(default_factory=dict)
    evaluations: dict[str, dict[int, Row]] = field(default_factory=dict)
    metrics: dict[str, list[Number]] = field(default_factory=dict)
    alarms: list[Raised] | None = None
    trained_on: str = ""
    first_problems: list[str] = field(default_factory=list)
    environment: Row = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.method} seed {self.seed}"

    @property
    def whole(self) -> Row:
        """The recipe with today's defaults for keys that are younger than the file it was kept in."""
        return portable_recipe(Recipe().model_dump()) | self.recipe


def summarise_run(path: str | Path, method: str | None = None) -> RunSummary:
    """Reads a run folder and summarises it.

    Args:
        method: what it is a run of; the folder's name without its seed if left out, and for a folder that is named
            after its seed alone the folder above it.

    Raises:
        DataError: it is no run folder, or one of its evaluations cannot be read or was made in another way.
    """
    history = read_history(path)
    recipe = whole_recipe(history.run)
    files = len(list((history.run.path / "eval").glob("step-*.json")))
    if files != sum(map(len, history.evaluations.values())):
        raise DataError(f"{path} has evaluations that cannot be read: {' '.join(history.notes)}")
    steps, begun = history.summary.get("steps"), history.run.fingerprint()
    state, said = _state(history)
    return RunSummary(
        method or method_of(history.run.path, recipe["seed"]),
        recipe["seed"],
        portable_recipe(recipe),
        state,
        said,
        steps if isinstance(steps, int) else history.last_step,
        rounded(history.summary.get("seconds")),
        {task: _settings(history, task, begun) for task in _in_order(history.evaluations, recipe)},
        {task: _evaluations(history.evaluations[task]) for task in _in_order(history.evaluations, recipe)},
        _columns(history),
        _alarms(history),
        _fingerprint(begun.get("problems")),
        _first_problems(history),
        portable_environment(history.environment),
    )


def whole_recipe(run: Run) -> Row:
    """Reads the recipe of a run, with today's defaults for keys that are younger than it.

    Raises:
        DataError: this version cannot read it.
    """
    try:
        recipe = run.recipe()
    except RlifError as error:
        raise DataError(f"the recipe of {run.path} cannot be read: {error}") from error
    return resolved(recipe, run.path.name)


def portable_environment(environment: Mapping[str, Any]) -> Row:
    """Returns the environment of a run without folder and job, which differ between machines."""
    return {key: value for key, value in environment.items() if key not in ("folder", "job")}


def portable_recipe(recipe: Mapping[str, Any]) -> Row:
    """Returns a recipe without what names the run or the machine."""
    return {key: value if key == "prompt" else _portable(value) for key, value in recipe.items() if key not in NAMES}


def method_of(path: Path, seed: int) -> str:
    """Infers the method of a run folder from its name: `demo-seed1`, `demo_s1` and `demo/seed1` are runs of demo.

    Example:
        >>> method_of(Path("runs/demo-seed1"), 1)
        'demo'
    """
    path = path.resolve()
    return re.sub(rf"(^|[-_.])s(eed)?[-_]?0*{seed}$", "", path.name) or path.parent.name


def rounded(value: Any) -> Any:
    """The same value, numbers to `DIGITS` digits and None for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def flatten(values: Mapping[str, Any]) -> Row:
    """Keys with dots for what is one level inside: {"training.beta": 0.1}; a mapping of rewards stays whole."""
    found: Row = {}
    for key, value in values.items():
        inside = isinstance(value, Mapping) and value and key != "reward"
        found |= {f"{key}.{name}": inner for name, inner in value.items()} if inside else {key: value}
    return found


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both values; None for one that is not there."""
    left, right = flatten(one), flatten(other)
    return {key: (left.get(key), right.get(key)) for key in left | right if left.get(key) != right.get(key)}


def _state(history: History) -> tuple[State, str]:
    if not history.summary:
        of = f" of {history.planned_steps}" if history.planned_steps else ""
        return "unfinished", f"unfinished, at step {history.last_step}{of}"
    guard = history.summary.get("guard")
    guard = guard if isinstance(guard, dict) else {}
    back = len(guard.get("rollbacks") or ())
    said = f"rolled back by the guard {back} time{'s' * (back > 1)}, with a larger KL weight from there" if back else ""
    if stopped := guard.get("stopped"):
        ended = f"ended by the guard at step {stopped['step']}: {stopped['seen']}, since step {stopped['since']}"
        return "stopped", "; ".join(filter(None, [said, ended]))
    return "finished", said


def _in_order(evaluations: Iterable[str], recipe: Mapping[str, Any]) -> list[str]:
    """Evaluated tasks, the one trained on first, then in the recipe's order."""
    named = [recipe["task"], *recipe["evaluate"]["tasks"]]
    found = sorted(evaluations)
    return sorted(found, key=lambda task: named.index(task) if task in named else len(named))


def _settings(history: History, task: str, begun: Row) -> Row:
    """Reads how a task was evaluated; refuses a run whose steps were evaluated differently."""
    evaluated = sorted(history.evaluations[task].items())
    first, *later = [
        (step, {key: evaluation[key] for key in SETTINGS if key in evaluation}) for step, evaluation in evaluated
    ]
    for step, settings in later:
        for key, (then, now) in differing(first[1], settings).items():
            raise DataError(
                f"{history.run.path} was evaluated on {task} in two ways: {key} is {then!r} at step {first[0]} and"
                f" {now!r} at step {step}; evaluate it again in one way."
            )
    ids = sorted({str(row.get("id")) for row in history.records(evaluated[0][0], task)})
    found = {"ids": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]} if ids else {}
    content = _fingerprint(begun.get("held_out", {}).get(task))
    return first[1] | found | ({"content": content} if content else {})


def _fingerprint(facts: Any) -> str:
    """Of problems, from what the run noted when it began (`rlif.runs.fingerprint`); empty where it did not."""
    return str(facts.get("sha256", ""))[:16] if isinstance(facts, Mapping) else ""


def _evaluations(evaluated: Mapping[int, Row]) -> dict[int, Row]:
    return {
        step: rounded(
            {"accuracy": _proportion(evaluation.get("accuracy"))} | {key: evaluation.get(key) for key in EVALUATED}
        )
        for step, evaluation in sorted(evaluated.items())
    }


def _proportion(found: Any) -> Row:
    """What was kept of one, every part None where it is none."""
    known = found if isinstance(found, Mapping) else {}
    return {key: known.get(key) for key in ("n", "mean", "low", "high")}


def _columns(history: History) -> dict[str, list[Any]]:
    found = {name: history.metrics[name].tolist() for name in dict.fromkeys(COLUMNS) if name in history.metrics}
    return {
        name: [int(step) for step in values] if name == "step" else rounded(values) for name, values in found.items()
    }


def _alarms(history: History) -> list[Raised] | None:
    """None for runs of before there was a guard."""
    if "guard" not in history.recipe:
        return None
    try:
        return [Raised(row["sign"], row["severity"], row["since"], row["step"]) for row in alarms(history.run)]
    except KeyError as error:
        raise DataError(f"alarms.jsonl of {history.run.path} has a line without {error}.") from error


def _first_problems(history: History, number: int = 4) -> list[str]:
    """Ids of the first problems of the first rollout that was kept, where they are known."""
    step = min(history.completions, default=0)
    seen = dict.fromkeys(row.get("problem") for row in history.read_completions(step, 64))
    return [problem for problem in seen if isinstance(problem, str)][:number]


def _portable(value: Any) -> Any:
    """Absolute paths, which say where a run was made, as the name of what they lead to; infinities as words."""
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _portable(inner) for key, inner in value.items()}
    return [_portable(inner) for inner in value] if isinstance(value, list | tuple) else value
