"""Raises on every process the error of one, or the others would wait for ever."""

from collections.abc import Callable
from typing import TypeVar

from accelerate.utils import gather_object

from rlif.errors import MachineError, RlifError, first_line
from rlif.rewards.time_limit import RewardFailed

Result = TypeVar("Result")


def on_all(work: Callable[[], Result], failed: Callable[[str, str], RlifError] = RewardFailed) -> Result:
    """Runs `work` on every process; an error on one is raised on all.

    Args:
        failed: makes the error of a sentence and a traceback, which may be empty.
    """
    failure: Exception | None = None
    found: list[tuple[str, str | None]] = []  # a sentence and its traceback, None for a mistake in this package
    try:
        result = work()
    except RlifError as error:
        failure, found = error, [(str(error), getattr(error, "details", ""))]
    except Exception as error:  # whatever it is, the other processes would wait for ever without it
        reason = f"{type(error).__name__}: {first_line(error)}"
        failure, found = error, [(f"another process of this run failed ({reason}); see its log", None)]
    errors = gather_object(found)
    if not errors:
        return result  # type: ignore[possibly-unbound]
    if failure is not None and not isinstance(failure, RlifError):
        raise failure
    for sentence, details in errors:
        if details is None:
            raise MachineError(sentence)
    raise failed(*errors[0]) from failure
