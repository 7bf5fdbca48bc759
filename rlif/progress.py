"""Shows long work: what is done, how much of it, and the time left. Silent unless a program asks, by `shown`.

    with task("grading", total=len(rows)) as advance:
        for row in rows:
            grade(row)
            advance()

Work that takes less than three seconds shows nothing. In a terminal longer work has a bar. Elsewhere it is a plain
line, the next one after twice the time. `rlif` shows work on the error stream; a program may do so as well:

    with rlif.progress.shown():
        rlif.compare(["demo"])
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

FIRST = 3.0  # seconds without a sign of life before work is shown
LAST = 300.0  # longest time between two lines about the same work
SHARE = 10  # a line about other work comes after this part of the time so far, so that an hour has some seventy
TICK = 0.25


class Work:
    """Counts one piece of work; a call adds to what is done."""

    def __init__(self, name: str, total: int | None, done: int, now: float):
        self.name, self.total, self.done = name, total, done
        self.started, self.note = now, ""  # a few words about the latest part
        self._before: tuple[int, float] = done, now

    def __call__(self, more: int = 1) -> None:
        self.done += more

    def found(self, done: int, now: float | None = None) -> None:
        """Counts what an earlier process had done, which says nothing about the time left."""
        self.done += done
        self._before = self.done, time.monotonic() if now is None else now

    def text(self, now: float) -> str:
        """Says how much is done, and the time so far and left."""
        parts = [] if self.total is None else [f"{self.done:,} of {self.total:,}"]
        if self.note:
            parts.append(self.note)
        parts.append(duration(now - self.started))
        left = self.seconds_left(now)
        return ", ".join(parts if left is None else [*parts, f"about {duration(left)} left"])

    def seconds_left(self, now: float) -> float | None:
        """Estimates the time left by the speed so far; None where there is none yet."""
        done, since = self._before
        if self.total is None or self.done <= done or now <= since:
            return None
        return max(0.0, (self.total - self.done) * (now - since) / (self.done - done))


class Shown:
    """Shows the work in progress on a console, as lines or as bars."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.console, self.clock = console, clock
        self.works: list[Work] = []  # the outermost first
        self.last, self.name, self.wait = clock(), "", FIRST  # time and work of the last line, wait for the next
        self.bars: Any = None

    def look(self) -> None:
        """Shows what is due by now."""
        now, works = self.clock(), list(self.works)
        if self.console.is_interactive:
            self._draw(works, now)
        elif works:
            old = [work for work in works if now - work.started >= 1] or works[:1]
            inner = old[1:] if old[0].total is None else old  # the whole command says nothing where a part does
            self._say(inner or old, now, begun=works[0].started)

    def close(self) -> None:
        """Removes the bars."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None

    def _say(self, works: list[Work], now: float, begun: float) -> None:
        name, text = works[0].name, "; ".join(f"{work.name}: {work.text(now)}" for work in works)
        other = name != self.name
        if now - max(self.last, begun) < (max(FIRST, (now - begun) / SHARE) if other else self.wait):
            return
        self.wait = 2 * FIRST if other else min(2 * self.wait, LAST)
        self.last, self.name = now, name
        self.console.print(f"rlif: {text}", highlight=False, soft_wrap=True, markup=False, emoji=False)

    def _draw(self, works: list[Work], now: float) -> None:
        if self.bars is None and not any(now - work.started >= FIRST for work in works):
            return
        inner = works[1:] or works  # the whole command has a bar where nothing in it has one
        wanted = {id(work): work for work in inner if now - work.started >= TICK}
        if not wanted:
            self.close()
            return
        if self.bars is None:
            self.bars = _bars(self.console)
            self.bars.start()
        known = {task.fields["key"]: task.id for task in self.bars.tasks}
        for key in known.keys() - wanted.keys():
            self.bars.remove_task(known[key])
        for key, work in wanted.items():
            if key not in known:
                known[key] = self.bars.add_task(work.name, key=key, text="")
            self.bars.update(known[key], total=work.total, completed=work.done, text=work.text(now))


_shown: Shown | None = None


@contextmanager
def task(name: str, total: int | None = None, done: int = 0) -> Iterator[Work]:
    """Reports a piece of work while it lasts; yields what counts its parts. Also a decorator of functions.

    The name is a few words, as "loading the model". A total of None is unknown, and some parts may be done already.
    """
    shown = _shown
    work = Work(name, total, done, time.monotonic() if shown is None else shown.clock())
    if shown is None:
        yield work
        return
    shown.works.append(work)
    try:
        yield work
    finally:
        shown.works.remove(work)


@contextmanager
def shown(console: Console | None = None) -> Iterator[None]:
    """Shows long work until the end of the block, by default on the error stream; an outer `shown` goes before."""
    global _shown
    if _shown is not None:
        yield
        return
    from rich.console import Console

    view = Shown(console or Console(stderr=True))
    ended = threading.Event()

    def follow() -> None:
        with suppress(Exception):  # a closed stream, or another display on it: showing work must never end it
            while not ended.wait(TICK):
                view.look()

    thread = threading.Thread(target=follow, name="rlif-progress", daemon=True)
    _shown = view
    thread.start()
    try:
        yield
    finally:
        _shown = None
        ended.set()
        thread.join()
        view.close()


def draws() -> bool:
    """Tells whether work has bars, so that lines about it are not needed."""
    return _shown is not None and _shown.console.is_interactive and not _shown.console.quiet


def spoken() -> None:
    """Tells the view that a line was printed, so that the next one waits."""
    if _shown is not None:
        _shown.last = _shown.clock()


def duration(seconds: float) -> str:
    """Writes a time in one or two units.

    Example:
        >>> duration(4.2), duration(200), duration(5000)
        ('4 s', '3 min 20 s', '1 h 23 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(seconds / 60)} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _bars(console: Console) -> Any:
    """Makes the bars; other output goes above them, and a stream that is not a terminal keeps its own."""
    import sys

    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
