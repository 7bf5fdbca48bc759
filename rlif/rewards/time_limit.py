"""A limit of time and one sentence around what others wrote: rewards, above all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rlif.errors import Preempted, RlifError, first_line


class Late(BaseException):
    """The time is over. Not an `Exception`, so that code which catches all of those does not catch it."""


@contextmanager
def rewarding(name: str, seconds: float) -> Iterator[None]:
    """Ends a reward that does not return, and names the one that fails.

    Python code and anything that returns to Python now and then is interrupted. A call that never leaves C is not, and
    off the main thread there is no limit: the system has one alarm clock for a process.

    Args:
        name: of the reward.
        seconds: of wall-clock time.

    Raises:
        RlifError: it took longer, or raised.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise Late

    watched = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGALRM)
    if watched:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Late as error:
        raise RlifError(
            f"the reward {name} took more than {seconds:g} s for one batch; give it more with reward_seconds, or find"
            " out what it waits for"
        ) from error
    except (RlifError, Preempted):
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise RlifError(f"the reward {name} failed ({reason})") from error
    finally:
        if watched:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
