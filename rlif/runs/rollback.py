"""Reads the guard's alarms of a run folder, and returns to a healthy checkpoint.

    alarms.jsonl       one object per alarm or warning raised; rewound with the metrics
    rollbacks.jsonl    one object per return: from which step to which, because of what, the KL weight from there on

A rollback resets the run folder to its state at the checkpoint, then resumes from there as after a kill. Weights,
optimiser, schedule, random state, data order and the guard's memory come from the checkpoint; only the KL weight
differs. Every byte of the checkpoint is checked before anything is removed. A damaged one is passed over for the one
before it; where none is left, nothing is removed. The KL weight follows from the recipe and the number of logged
returns, so a later `--resume` has it too. A kill during a rollback loses nothing: its line is written last, and a run
resumed without it meets the same alarm and returns again.
"""

from dataclasses import asdict
from typing import Any

from rlif.config.recipe import Recipe
from rlif.errors import DataError
from rlif.guard.limits import Guard
from rlif.guard.monitor import Alarm
from rlif.runs.checkpoints import is_sealed, step_of
from rlif.runs.folder import Run


def alarms(run: Run) -> list[dict[str, Any]]:
    """Reads the alarms, oldest first.

    Example:
        >>> alarms(Run.open("runs/demo-collapse"))[0]["sign"]
        'kl'
    """
    return run.rows("alarms.jsonl")


def rollbacks(run: Run) -> list[dict[str, Any]]:
    """Reads the logged returns to a healthy checkpoint, oldest first."""
    return run.rows("rollbacks.jsonl")


def rewind_rollbacks(run: Run, step: int) -> None:
    """Removes the logged returns that a run resumed at a step has not made yet.

    The last return to that step or an earlier one stays, with all before it.
    """
    returns = rollbacks(run)
    while returns and returns[-1]["to"] > step:
        returns.pop()
    run.rewrite("rollbacks.jsonl", returns)


def strengthened(recipe: Recipe, times: int) -> Recipe:
    """Returns the recipe after some rollbacks: training.beta times guard.strengthen for each."""
    if not times:
        return recipe
    beta = recipe.resolved_training["beta"] * recipe.guard.strengthen**times
    return recipe.model_copy(update={"training": recipe.training | {"beta": beta}})


def step_to_return_to(run: Run, healthy: int | None) -> tuple[int, list[str]]:
    """Finds the last undamaged step up to a healthy one (None: the start), and describes the damage of later ones."""
    if healthy is None:
        return 0, []
    checkpoint, damaged = run.good_checkpoint(healthy)
    if checkpoint is None:
        raise DataError(
            f"the guard would return to checkpoint-{healthy} of {run.path}, and neither it nor an earlier one is there"
            " any more; nothing was removed: set guard.policy to stop or log"
            f" {run.change_and_go_on}."
        )
    return step_of(checkpoint), damaged


def roll_back(run: Run, recipe: Recipe, alarm: Alarm, to: int) -> float:
    """Resets a run folder to a step (0: the start), and logs that; returns the KL weight from here on."""
    run.rewind(to)
    beta = strengthened(recipe, len(rollbacks(run)) + 1).resolved_training["beta"]
    run.append("rollbacks.jsonl", {"from": alarm.step, "to": to, "beta": beta, "alarm": asdict(alarm)})
    return beta


def guard_summary(run: Run, guard: Guard, healthy: int | None, stopped: Alarm | None) -> dict[str, Any]:
    """Builds the guard's part of `summary.json`."""
    best = run.checkpoints / f"checkpoint-{healthy}"
    return {
        "policy": guard.policy,
        "alarms": alarms(run),
        "stopped": asdict(stopped) if stopped else None,
        "rollbacks": rollbacks(run),
        "best_healthy_checkpoint": str(best.relative_to(run.path)) if is_sealed(best) else None,
    }
