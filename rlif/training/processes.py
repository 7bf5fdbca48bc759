"""What one of several processes decides or makes for all of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from rlif.config.recipe import Recipe
from rlif.errors import RlifError

Outcome = TypeVar("Outcome")


def join_processes(recipe: Recipe) -> Any:
    """Joins the processes of a launched run, or finds that this is the only one.

    Whoever comes first makes the group, and what the engine asks for later is not heard: so its time limit is given
    here.

    Returns:
        accelerate's PartialState.
    """
    import torch
    from accelerate import PartialState

    training = recipe.resolved_training
    # Without being told, accelerate takes each of several processes on a machine without accelerator for the only one.
    on_cpu = training.get("use_cpu", False) or not torch.accelerator.is_available()
    seconds = training.get("ddp_timeout", 1800)
    if not isinstance(seconds, int) or not 0 < seconds < 2**31:
        raise RlifError(f"training.ddp_timeout is {seconds!r}; it must be a whole number of seconds from 1.")
    return PartialState(cpu=on_cpu, timeout=timedelta(seconds=seconds))


def on_main(action: Callable[[], Outcome]) -> Outcome:
    """What the main process got, or its RlifError, on every process: none is left waiting for the others."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if PartialState().is_main_process:
        try:
            outcome[0] = action()
        except RlifError as error:
            failure, outcome[1] = error, str(error)
        except Exception as error:
            failure, outcome[1] = error, "the main process failed; what it says comes before or after this."
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise RlifError(outcome[1])
    return outcome[0]
