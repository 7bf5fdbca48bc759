"""What a command shows besides its results: work that takes long, what Ctrl-C leaves, silence of the libraries."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import typer

from rlif import progress
from rlif.errors import Interrupted, RlifError

NOTHING = "nothing was written; give the same command again"
NOT_KEPT = "the same command begins anew; with --out it goes on where it ended"
_KEPT = ContextVar("what Ctrl-C leaves", default=NOTHING)
_SHOWS = ContextVar("whether long work is shown", default=True)


@contextmanager
def working(name: str, kept: str = NOTHING) -> Iterator[None]:
    """Decorates a command: its work is shown where it takes long, and Ctrl-C says what is kept and how to go on.

    Args:
        name: of the work, in a few words, while no part of it has a name of its own.
        kept: what to say of Ctrl-C, until the command says something else by `keeps`.
    """
    token = _KEPT.set(kept)
    with _noticing_ctrl_c() as pressed:
        try:
            with progress.shown() if _SHOWS.get() else nullcontext(), progress.task(name):
                yield
        except (Interrupted, RlifError, typer.Exit):  # said already, by a part of the work
            raise
        except (KeyboardInterrupt, Exception) as error:  # a library that is interrupted may raise anything
            if not pressed and not isinstance(error, KeyboardInterrupt):
                raise
            print(f"rlif: interrupted; {_KEPT.get()}", file=sys.stderr)
            raise Interrupted from None
        finally:
            _KEPT.reset(token)


@contextmanager
def _noticing_ctrl_c() -> Iterator[list[int]]:
    """Yields a list that holds something once Ctrl-C was pressed, unless a program handles that itself."""
    pressed: list[int] = []

    def note(number: int, frame: Any) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


def keeps(what: str) -> None:
    """Says what Ctrl-C leaves from now on, and how to go on."""
    _KEPT.set(what)


def show_work(wanted: bool) -> None:
    """Decides whether commands show long work; of several processes only the first one does."""
    _SHOWS.set(wanted and os.environ.get("RANK", "0") == "0")


def quiet_transformers() -> None:
    """Turns off the progress bars and warnings of transformers, which would break our lines."""
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.disable_progress_bar()
