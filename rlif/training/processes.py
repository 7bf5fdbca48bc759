"""Joins the processes of a run, and lets the main one decide for all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from rlif.config.recipe import Recipe
from rlif.errors import MachineError, RecipeError, RlifError

if TYPE_CHECKING:
    from accelerate import PartialState

Outcome = TypeVar("Outcome")


def join_processes(recipe: Recipe) -> PartialState:
    """Joins the processes of a launched run, or finds that this is the only one.

    The first caller creates the process group; later timeouts are ignored. So the time limit is set here.
    """
    import torch
    from accelerate import PartialState

    training = recipe.resolved_training
    # Without `cpu`, accelerate treats each process on a machine without accelerator as the only one.
    on_cpu = training.get("use_cpu", False) or not torch.accelerator.is_available()
    seconds = training.get("ddp_timeout", 1800)
    if not isinstance(seconds, int) or not 0 < seconds < 2**31:
        raise RecipeError(f"training.ddp_timeout is {seconds!r}; it must be a whole number of seconds from 1.")
    return PartialState(cpu=on_cpu, timeout=timedelta(seconds=seconds))


def on_main(action: Callable[[], Outcome]) -> Outcome:
    """Runs `action` on the main process and returns its result, or raises its error, on every process."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if PartialState().is_main_process:
        try:
            outcome[0] = action()
        except Exception as error:  # the others must hear of any error, or they wait for ever
            other = "the main process failed; what it says comes before or after this."
            failure, outcome[1] = error, str(error) if isinstance(error, RlifError) else other
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise MachineError(outcome[1])
    return outcome[0]
