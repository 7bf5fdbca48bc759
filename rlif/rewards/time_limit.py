"""Limits the time of a reward, and turns what fails outside the package into one sentence with file and line.

A mistake of this package's own is raised as it is, with its traceback.
"""

from __future__ import annotations

import signal
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rlif.errors import Preempted, RewardError, RlifError, first_line

PACKAGE = Path(__file__).parents[1]
LIBRARIES = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


class TimeOver(BaseException):
    """Raised when the time is over. Code that catches every `Exception` does not catch it."""


class RewardFailed(RewardError):
    """A function from outside the package raised or took too long.

    Attributes:
        details: its traceback as text; "" where there is none.
    """

    def __init__(self, sentence: str, details: str = ""):
        super().__init__(sentence)
        self.details = details


@contextmanager
def rewarding(name: str, seconds: float, *, foreign: bool = False) -> Iterator[None]:
    """Ends a reward that does not return, and names the one that fails.

    Python code and calls that return to Python now and then are interrupted. A call that stays in C is not. Outside the
    main thread there is no limit, because a process has one alarm clock.

    Args:
        name: of the reward.
        seconds: of wall-clock time.
        foreign: whether it comes from outside the package. Any other reward is, too, where the error passed through a
            file of the user's.

    Raises:
        RewardFailed: it took longer; or it raised, and it is foreign.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeOver

    watched = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGALRM)
    if watched:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TimeOver as error:
        raise RewardFailed(
            f"the reward {name} took more than {seconds:g} s for one batch{_at(error)}; give it more with"
            " reward_seconds, or find out what it waits for",
            _details(error),
        ) from error
    except Preempted:
        raise
    except RlifError as error:
        cause = error.__cause__
        if cause is None or not (foreign or users_line(cause)):
            raise
        raise RewardFailed(f"{error}{_at(cause)}", _details(cause)) from error
    except (Exception, SystemExit) as error:  # a function of the user's may raise anything
        if not foreign and users_line(error) is None:
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise RewardFailed(f"the reward {name} failed ({reason}){_at(error)}", _details(error)) from error
    finally:
        if watched:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def users_line(error: BaseException) -> str | None:
    """The last line of a traceback that is neither ours nor a library's, as "file, line n"; None without one."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in (PACKAGE, *LIBRARIES)):
            return f"{path}, line {frame.lineno}"
    return None


def _at(error: BaseException) -> str:
    line = users_line(error)
    return f" at {line}" if line else ""


def _details(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
