"""Progress bars, and silence of the libraries below."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar on the error stream; yields the function that advances it. Other output keeps its own stream."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)  # which prints an empty line for a bar where there is no terminal
    with Progress(console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda rows: bar.update(task, advance=rows)


def quiet_transformers() -> None:
    """Turns off the progress bars and warnings of transformers, which would break our lines."""
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.disable_progress_bar()
