"""What commands print with: the console and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the error stream; gives what moves it on. What is printed meanwhile still goes to standard output."""
    from rich.progress import Progress

    with Progress(console=make_console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda rows: bar.update(task, advance=rows)


def make_console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)
