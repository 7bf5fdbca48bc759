"""Shows a run in the terminal while it trains: progress, latest numbers with their history, accuracy.

It reads only the run folder. So it can start and stop at any time, also on another machine that shares the folder. A
killed run looks like a slow one, so the age of the last step is shown.
"""

import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlif.errors import RlifError
from rlif.reporting.analysis import accuracies, tokens_per_second
from rlif.runs.history import History, read_history

try:
    import termios
    import tty
except ImportError:  # Windows: Ctrl-C ends the view there
    termios = tty = None

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32  # characters of a sparkline
SHOWN = (
    "reward", "self_certainty", "reward_spread", "completion_length", "truncated", "kl", "entropy", "clip_ratio",
    "grad_norm", "tokens_per_second",
)  # fmt: skip


def watch(path: str | Path, *, once: bool = False, every: float = 1.0, console: Console | None = None) -> None:
    """Shows a run until it is finished, or until q or Ctrl-C.

    Args:
        path: the run folder; the view waits until it exists.
        every: seconds between updates.

    Raises:
        DataError: there is no run folder, with `once` or without a terminal.
    """
    console = console or Console()
    if once or not console.is_terminal:
        console.print(table(read_history(path)))
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live, _keys() as pressed:
        while True:
            shown, finished = Text(f"waiting for {path} ..."), False
            with suppress(RlifError):
                history = read_history(path)
                shown, finished = table(history), bool(history.summary)
            live.update(shown)
            if finished or "q" in pressed(every):
                return


def table(history: History) -> Group:
    """Makes a headline and a row per measure: latest value, least and most, and its course."""
    rate = tokens_per_second(history.metrics)
    columns = history.metrics | ({} if rate is None else {"tokens_per_second": rate})
    measures = {name: columns[name] for name in SHOWN if name in columns}
    for task, evaluations in history.evaluations.items():
        measures[f"accuracy {task}"] = np.array([share.mean for share in accuracies(evaluations).values()])
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, justify in (("", "left"), ("now", "right"), ("least", "right"), ("most", "right"), ("course", "left")):
        shown.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name, values in measures.items():
        finite = values[np.isfinite(values)]
        if len(finite):
            figures = [f"{number:.4g}" for number in (finite[-1], finite.min(), finite.max())]
            shown.add_row(Text(name), *figures, sparkline(finite))
    failures = [Text(history.failures)] if history.failures else []
    return Group(Text(headline(history), style="bold"), *failures, shown)


def headline(history: History) -> str:
    """Describes how far a run is, and how long ago it took its last step."""
    planned = history.planned_steps
    step = f"step {history.last_step:,}" + (f" of {planned:,}" if planned else "")
    if history.summary:
        return f"{history.name}: finished at {step}"
    path = history.run.path / "metrics.jsonl"
    if not path.is_file():
        return f"{history.name}: no step yet"
    return f"{history.name}: {step}, logged {max(0.0, time.time() - path.stat().st_mtime):,.0f} s ago"


def sparkline(values: np.ndarray) -> str:
    """Draws the course of a measure as a line of bars, of means where there are more values than characters.

    Example:
        >>> sparkline(np.array([0.0, 1.0, 2.0]))
        '▁▅█'
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return ""
    means = np.array([part.mean() for part in np.array_split(finite, min(WIDTH, len(finite)))])
    low, high = means.min(), means.max()
    if high == low:
        return BARS[0] * len(means)
    heights = ((means - low) / (high - low) * (len(BARS) - 1)).round().astype(int)
    return "".join(BARS[height] for height in heights)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Reads single keys where there is a keyboard: a function that waits some seconds and returns the key pressed."""
    if termios is None or tty is None or not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds) or ""
        return
    settings = termios.tcgetattr(sys.stdin)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        tty.setcbreak(sys.stdin)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
