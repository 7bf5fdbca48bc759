"""Limits the time of a reward, and turns failures outside the package into one sentence with file and line.

A mistake in this package is raised unchanged, with its traceback.
"""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rlif.errors import Preempted, RewardError, RlifError, first_line
from rlif.files.own import at


class TimeOver(BaseException):
    """The time is over. Code that catches every `Exception` does not catch it."""


class RewardFailed(RewardError):
    """A function from outside the package raised or took too long.

    Attributes:
        details: its traceback as text, or "".
    """

    def __init__(self, sentence: str, details: str = ""):
        super().__init__(sentence)
        self.details = details


@contextmanager
def time_limit(name: str, seconds: float, *, foreign: bool = False) -> Iterator[None]:
    """Interrupts a reward that does not return, and names the reward that fails. Also a decorator.

    It interrupts Python code, but not a call that stays in C. Outside the main thread there is no limit, because a
    process has one timer.

    Args:
        foreign: whether the reward comes from outside the package. An error that passed through a file of the user's
            counts as foreign, too.

    Raises:
        RewardFailed: the time is over, or foreign code raised.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeOver

    limited = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGALRM)
    if limited:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TimeOver as error:
        raise RewardFailed(
            f"the reward {name} took more than {seconds:g} s for one batch{at(error)}; raise reward_seconds, or find"
            " out what it waits for",
            _details(error),
        ) from error
    except Preempted:
        raise
    except RlifError as error:
        cause = error.__cause__
        if cause is None or not (foreign or at(cause)):
            raise
        raise RewardFailed(f"{error}{at(cause)}", _details(cause)) from error
    except (Exception, SystemExit) as error:  # a function of the user's may raise anything
        if not foreign and not at(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise RewardFailed(f"the reward {name} failed ({reason}){at(error)}", _details(error)) from error
    finally:
        if limited:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _details(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
