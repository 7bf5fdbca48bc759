"""What the guard leaves in a run folder, and the return to a healthy checkpoint.

    alarms.jsonl       one object per alarm or warning raised; rewound with the metrics
    rollbacks.jsonl    one object per return: from which step to which, because of what, the KL weight from there on

A rollback is exact because nothing is undone: the run folder is brought to what it was at the checkpoint, and the run
is resumed from there as after a kill - weights, optimiser, schedule, random state, data order and the guard's own
memory come from the checkpoint - but for the KL weight. Every byte of that checkpoint is checked before anything is
removed; where it is damaged, the one before it is taken; where there is none, nothing is touched. The KL weight is a
function of the recipe and of how many returns are logged, so a later `--resume` goes on with it too. A kill during a
rollback loses nothing: its line is written last, and a run resumed without it meets the same alarm and returns again.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rlif.config.recipe import Recipe
from rlif.errors import DataError
from rlif.guard.limits import Guard
from rlif.guard.monitor import Alarm
from rlif.runs.checkpoints import is_sealed, step_of
from rlif.runs.folder import Run


def log_alarm(run: Run, alarm: Alarm) -> None:
    """Adds an alarm to the run folder."""
    run.append("alarms.jsonl", asdict(alarm))


def alarms(run: Run) -> list[dict[str, Any]]:
    """What the guard raised, oldest first.

    Example:
        >>> alarms(Run.open("runs/demo-collapse"))[0]["sign"]
        'kl'
    """
    return run.rows("alarms.jsonl")


def rollbacks(run: Run) -> list[dict[str, Any]]:
    """Returns to a healthy checkpoint, oldest first."""
    return run.rows("rollbacks.jsonl")


def rewind_rollbacks(run: Run, step: int) -> None:
    """Forgets the returns that a run going on from a step has not made yet.

    What counts is the last return to that step or to one before it; those that led there came earlier and stay.
    """
    returns = rollbacks(run)
    while returns and returns[-1]["to"] > step:
        returns.pop()
    run.rewrite("rollbacks.jsonl", returns)


def strengthened(recipe: Recipe, times: int) -> Recipe:
    """A recipe after so many rollbacks: training.beta multiplied by guard.strengthen each time."""
    if not times:
        return recipe
    beta = recipe.resolved_training["beta"] * recipe.guard.strengthen**times
    return recipe.model_copy(update={"training": recipe.training | {"beta": beta}})


def step_to_return_to(run: Run, healthy: int | None) -> tuple[int, list[str]]:
    """The step to return to, and what is wrong with the checkpoints that were passed over.

    Args:
        healthy: step of the last healthy checkpoint; None where there is none, which is the start.

    Returns:
        That step if every byte of its checkpoint is as it was written, else an earlier one of which that holds.

    Raises:
        DataError: there is none.
    """
    if healthy is None:
        return 0, []
    checkpoint, damaged = run.good_checkpoint(healthy)
    if checkpoint is None:
        raise DataError(
            f"the guard would return to checkpoint-{healthy} of {run.path}, and neither it nor an earlier one is there"
            " any more; nothing was removed: set guard.policy to stop or log in its recipe.yaml and go on with"
            f" `rlif train --resume {run.path}`."
        )
    return step_of(checkpoint), damaged


def roll_back(run: Run, recipe: Recipe, alarm: Alarm, to: int) -> float:
    """Brings a run folder back to a step, and logs it.

    Args:
        run: its checkpoints after `to` are removed, and what was logged after `to`.
        recipe: the run's own, as it was started.
        alarm: why.
        to: step of the last healthy checkpoint, see `step_to_return_to`; 0 where there is none, to begin again.

    Returns:
        The KL weight from here on.
    """
    run.rewind(to)
    beta = strengthened(recipe, len(rollbacks(run)) + 1).resolved_training["beta"]
    run.append("rollbacks.jsonl", {"from": alarm.step, "to": to, "beta": beta, "alarm": asdict(alarm)})
    return beta


def guard_summary(run: Run, guard: Guard, healthy: int | None, stopped: Alarm | None) -> dict[str, Any]:
    """The guard's part of `summary.json`.

    Args:
        healthy: step of the last healthy checkpoint, None where there is none.
        stopped: the alarm that ended the run.
    """
    best = run.checkpoints / f"checkpoint-{healthy}"
    return {
        "policy": guard.policy,
        "alarms": alarms(run),
        "stopped": asdict(stopped) if stopped else None,
        "rollbacks": rollbacks(run),
        "best_healthy_checkpoint": str(best.relative_to(run.path)) if is_sealed(best) else None,
    }
