"""Summarises a run folder in a few kilobytes: all but completions, records and weights.

    recipe        as resolved, without seed, name and output; of an absolute path only the last part
    settings      how each task was evaluated, and a fingerprint of the problems' ids
    curves        accuracy with n and interval, length, self-certainty, at each evaluated step
    metrics       the columns that the guard and the tables read, at each logged step
    alarms        what the guard raised
    state         finished; stopped by the guard, which has an end too; unfinished; failed

Numbers are rounded to six digits here. So run folders and their summary file (`rlif.comparison.summary_file`) give the
same table to the last byte.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rlif.config.recipe import Recipe
from rlif.errors import DataError, RlifError
from rlif.files.atomic import changed, is_count
from rlif.files.jsonl import Row
from rlif.guard.monitor import FINITE
from rlif.guard.signs import SIGNS
from rlif.runs.folder import Run, resolved
from rlif.runs.history import History, read_history
from rlif.runs.rollback import alarms
from rlif.sampling.sources import weights_line

Number = int | float | None
State = Literal["finished", "stopped", "unfinished", "failed"]
NAMES = ("seed", "name", "output", "description")  # keys of a recipe that name the run
COLUMNS = ("step", *FINITE, "completion_length", *sorted({sign.metric for sign in SIGNS.values()}))
SHARE = ("n", "mean", "low", "high")
EVALUATED = ("completion_length", "self_certainty", "truncated", "unanswered")
SETTINGS = ("problems", "protocol", "prompt", "chat", "decoding")
DIGITS = 6
COUNTED_STATES = ("finished", "stopped")  # states of runs that have an end to compare


@dataclass(frozen=True)
class Raised:
    """Holds an alarm or a warning of the guard: its sign, its first step, and the step that logged it."""

    sign: str
    severity: str
    since: int
    step: int


@dataclass(frozen=True)
class RunSummary:
    """Holds one run of a method with a seed.

    Example:
        >>> summarise_run("runs/demo").evaluations["clock"][12]["accuracy"]["mean"]
        0.964844
    """

    method: str
    seed: int
    recipe: Row
    state: State = "finished"
    said: str = ""  # in a sentence, why the run is not simply finished
    steps: int = 0
    seconds: Number = None
    settings: dict[str, Row] = field(default_factory=dict)  # how it was evaluated, by task
    # a list per column, over the logged steps; None where a step has no number
    metrics: dict[str, list[Number]] = field(default_factory=dict)
    alarms: list[Raised] | None = None  # what the guard raised; None without a guard
    trained_on: str = ""  # a fingerprint of the problems, empty where it was not kept
    weights: str = ""  # which weights the model's name stood for, empty where the name says it
    first_problems: list[str] = field(default_factory=list)  # ids of the first problems of its first rollout
    environment: Row = field(default_factory=dict)
    # by task, a list per column, over the evaluated steps
    curves: dict[str, dict[str, list[Number]]] = field(default_factory=dict)
    # by task, then k as text: pass@k over the evaluated steps; only where an evaluation has several samples a problem
    pass_at: dict[str, dict[str, list[Number]]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.method} seed {self.seed}"

    @cached_property
    def evaluations(self) -> dict[str, dict[int, Row]]:
        """Returns the curves by task, then step, in the layout of a run folder: accuracy, completion_length, ..."""
        found: dict[str, dict[int, Row]] = {}
        for task, columns in self.curves.items():
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            found[task] = {
                int(row["step"]): {"accuracy": {k: row[k] for k in SHARE}} | {k: row[k] for k in EVALUATED}
                for row in rows
            }
        return found

    @property
    def counts(self) -> bool:
        """Tells whether the run has an end to compare."""
        return self.state in COUNTED_STATES

    @property
    def whole(self) -> Row:
        """Returns the recipe, with today's defaults for keys that are newer than its file."""
        return portable_recipe(Recipe().model_dump()) | self.recipe


def summarise_run(path: str | Path, method: str | None = None) -> RunSummary:
    """Reads a run folder and summarises it; its method is inferred from the folder's name if left out."""
    history = read_history(path)
    recipe = _titled(whole_recipe(history.run), history.titles)
    files = len(list((history.run.path / "eval").glob("step-*.json")))
    if files != sum(map(len, history.evaluations.values())):
        raise DataError(f"{path} has evaluations that cannot be read: {' '.join(history.notes)}")
    steps, begun = history.summary.get("steps"), history.run.fingerprint()
    named = [recipe["task"], *recipe["evaluate"]["tasks"]]  # the task trained on comes first, unnamed ones last
    tasks = sorted(history.evaluations, key=lambda task: (named.index(task) if task in named else len(named), task))
    metrics = {name: rounded(history.metrics[name].tolist()) for name in COLUMNS if name in history.metrics}
    state, said = _state(history)
    return RunSummary(
        method=method or infer_method(history.run.path, recipe["seed"]),
        seed=recipe["seed"],
        recipe=portable_recipe(recipe),
        state=state,
        said=said,
        steps=steps if is_count(steps) else history.last_step,
        seconds=rounded(history.summary.get("seconds")),
        settings={task: _settings(history, task, begun) for task in tasks},
        metrics=metrics | ({"step": history.steps.astype(int).tolist()} if metrics else {}),
        alarms=_alarms(history),
        trained_on=_fingerprint(begun.get("problems")),
        weights=weights_line(begun.get("weights")),
        first_problems=_first_problems(history),
        environment=portable_environment(history.environment),
        curves={task: _curve(history.evaluations[task]) for task in tasks},
        pass_at={task: passes for task in tasks if (passes := _pass_at(history.evaluations[task]))},
    )


def whole_recipe(run: Run) -> Row:
    """Reads the recipe of a run, with today's defaults for keys that are newer than it."""
    try:
        recipe = run.recipe()
    except RlifError as error:
        raise DataError(f"the recipe of {run.path} cannot be read: {error}") from error
    return resolved(recipe, run.path.name)


def _titled(recipe: Row, titles: Mapping[str, str]) -> Row:
    """Names the tasks of a recipe as its evaluations do."""
    evaluated = recipe["evaluate"]
    tasks = [titles.get(name, name) for name in evaluated["tasks"]]
    return recipe | {"task": titles.get(recipe["task"], recipe["task"]), "evaluate": evaluated | {"tasks": tasks}}


def portable_environment(environment: Mapping[str, Any]) -> Row:
    """Returns the environment of a run without folder and job, which differ between machines."""
    return {key: value for key, value in environment.items() if key not in ("folder", "job")}


def portable_recipe(recipe: Mapping[str, Any]) -> Row:
    """Returns a recipe without what names the run or the machine: of an absolute path, its last part remains."""

    def portable(value: Any) -> Any:
        if isinstance(value, str):
            return Path(value).name if Path(value).is_absolute() else value
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    kept = {key: value for key, value in recipe.items() if key not in NAMES}
    return {key: value if key == "prompt" else changed(value, portable) for key, value in kept.items()}


def infer_method(path: Path, seed: int) -> str:
    """Infers the method of a run from its folder: `demo-seed1`, `demo_s1` and `demo/seed1` are runs of demo.

    Example:
        >>> infer_method(Path("runs/demo-seed1"), 1)
        'demo'
    """
    path = path.resolve()
    return re.sub(rf"(^|[-_.])s(eed)?[-_]?0*{seed}$", "", path.name) or path.parent.name


def rounded(value: Any) -> Any:
    """Rounds all numbers inside a value to `DIGITS` digits; None replaces what is not finite."""

    def number(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None

    return changed(value, number)


def flatten(values: Mapping[str, Any]) -> Row:
    """Joins the keys of two levels by a dot, as in {"training.beta": 0.1}; a mapping of rewards stays whole."""
    found: Row = {}
    for key, value in values.items():
        inside = isinstance(value, Mapping) and value and key != "reward"
        found |= {f"{key}.{name}": inner for name, inner in value.items()} if inside else {key: value}
    return found


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the keys with different values, and both values; a missing one is None."""
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


def _settings(history: History, task: str, begun: Row) -> Row:
    """Reads how a task was evaluated; refuses a run whose steps were evaluated differently."""
    evaluated = history.evaluations[task]
    first = min(evaluated)
    kept = {step: {key: found[key] for key in SETTINGS if key in found} for step, found in sorted(evaluated.items())}
    for step, settings in kept.items():
        for key, (then, now) in differing(kept[first], settings).items():
            raise DataError(
                f"{history.run.path} was evaluated on {task} in two ways: {key} is {then!r} at step {first} and"
                f" {now!r} at step {step}; evaluate it again in one way."
            )
    ids = sorted({str(row.get("id")) for row in history.records(first, task)})
    found = {"ids": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]} if ids else {}
    content = _fingerprint(begun.get("held_out", {}).get(task))
    return kept[first] | found | ({"content": content} if content else {})


def _fingerprint(facts: Any) -> str:
    """Returns the fingerprint of problems from when the run began (`rlif.runs.fingerprint`); empty without one."""
    return str(facts.get("sha256", ""))[:16] if isinstance(facts, Mapping) else ""


def _curve(evaluated: Mapping[int, Row]) -> dict[str, list[Number]]:
    columns: dict[str, list[Number]] = {"step": [*sorted(evaluated)]}
    rows = [evaluated[step] for step in sorted(evaluated)]
    shares = [row["accuracy"] if isinstance(row.get("accuracy"), Mapping) else {} for row in rows]
    columns |= {key: rounded([share.get(key) for share in shares]) for key in SHARE}
    return columns | {key: rounded([row.get(key) for row in rows]) for key in EVALUATED}


def _pass_at(evaluated: Mapping[int, Row]) -> dict[str, list[Number]]:
    """Reads pass@k of the evaluated steps, for each k that all of them have."""
    rows = [found if isinstance(found := evaluated[step].get("pass@k"), Mapping) else {} for step in sorted(evaluated)]
    ks = [k for k in rows[0] if all(k in row for row in rows)] if rows else []
    return {k: rounded([row[k].get("mean") for row in rows]) for k in ks}


def _alarms(history: History) -> list[Raised] | None:
    """Reads the alarms; None for runs of versions without a guard."""
    if "guard" not in history.recipe:
        return None
    try:
        return [Raised(row["sign"], row["severity"], row["since"], row["step"]) for row in alarms(history.run)]
    except KeyError as error:
        raise DataError(f"alarms.jsonl of {history.run.path} has a line without {error}.") from error


def _first_problems(history: History) -> list[str]:
    """Returns the known ids of the first four problems of the first rollout that was kept."""
    step = min(history.completions, default=0)
    seen = dict.fromkeys(row.get("problem") for row in history.read_completions(step, 64))
    return [problem for problem in seen if isinstance(problem, str)][:4]
