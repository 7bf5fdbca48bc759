"""Shows runs in the terminal while they train: progress, latest numbers with their history, accuracy.

It reads only run folders. So it can start and stop at any time, also on another machine that shares the folders. A
killed run looks like a slow one, so the age of the last step is shown.
"""

import itertools
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlif.errors import RlifError
from rlif.reporting.analysis import accuracies, tokens_per_second
from rlif.reporting.verdict import label, reward_terms, run_names
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


def watch(
    runs: str | Path | Sequence[str | Path], *, once: bool = False, every: float = 1.0, console: Console | None = None
) -> None:
    """Shows one run or several until all are finished, or until q or Ctrl-C.

    Args:
        runs: run folders; the view waits until each exists and can be read.
        every: seconds between updates.

    Raises:
        RlifError: with `once` or without a terminal, none of them is a run folder.
    """
    console = console or Console()
    paths = [Path(path) for path in ([runs] if isinstance(runs, str | Path) else runs)]
    if once or not console.is_terminal:
        histories, errors = _read(paths)
        if not histories:
            raise errors[paths[0]]
        console.print(Group(table(histories), *map(Text, map(str, errors.values()))))
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live, _keys() as pressed:
        while True:
            histories, errors = _read(paths)
            waiting = [
                Text(f"waiting: {error}" if path.exists() else f"waiting for {path} ...")
                for path, error in errors.items()
            ]
            live.update(Group(*([table(histories)] if histories else []), *waiting), refresh=True)
            finished = not waiting and all(history.summary for history in histories)
            if finished or "q" in pressed(every):
                return


def _read(paths: Sequence[Path]) -> tuple[list[History], dict[Path, RlifError]]:
    """Reads the runs that are there; returns the errors of the others too."""
    histories, errors = [], {}
    for path in paths:
        try:
            histories.append(read_history(path))
        except RlifError as error:
            errors[path] = error
    return histories, errors


def table(histories: Sequence[History]) -> Group:
    """Makes a headline per run, and a row per measure and run: latest value, least and most, and its course."""
    names = run_names(histories)
    columns = [_measures(history) for history in histories]
    several = len(histories) > 1
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    headings = [("", "left"), *([("run", "left")] if several else [])]
    for heading, justify in (*headings, ("now", "right"), ("least", "right"), ("most", "right"), ("course", "left")):
        shown.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for measure in dict.fromkeys(itertools.chain(*columns)):
        first = measure
        for name, measures in zip(names, columns, strict=True):
            finite = measures[measure][np.isfinite(measures[measure])] if measure in measures else np.empty(0)
            if len(finite):
                figures = [f"{number:.4g}" for number in (finite[-1], finite.min(), finite.max())]
                shown.add_row(Text(first), *([Text(name)] if several else []), *figures, sparkline(finite))
                first = ""
    lines = []
    for history, name in zip(histories, names, strict=True):
        lines.append(Text(f"{name}: {headline(history)}", style="bold"))
        lines += [Text(history.failures)] if history.failures else []
    return Group(*lines, shown)


def _measures(history: History) -> dict[str, np.ndarray]:
    """Collects the reward, its terms, the other measures and the accuracies, in this order."""
    rate = tokens_per_second(history.metrics)
    columns = history.metrics | ({} if rate is None else {"tokens_per_second": rate})
    names = dict.fromkeys(("reward", *reward_terms(history), *SHOWN))
    measures = {label(name): columns[name] for name in names if name in columns}
    for task, evaluations in history.evaluations.items():
        measures[f"accuracy {label(task)}"] = np.array([share.mean for share in accuracies(evaluations).values()])
    return measures


def headline(history: History) -> str:
    """Describes how far a run is, and how long ago it took its last step."""
    planned = history.planned_steps
    step = f"step {history.last_step:,}" + (f" of {planned:,}" if planned else "")
    if history.summary:
        return f"finished at {step}"
    path = history.run.path / "metrics.jsonl"
    if not path.is_file():
        return "no step yet"
    return f"{step}, logged {max(0.0, time.time() - path.stat().st_mtime):,.0f} s ago"


def sparkline(values: np.ndarray) -> str:
    """Draws the course of a measure as a line of bars, of means where there are more values than characters.

    Example:
        >>> sparkline(np.array([0.0, 1.0, 2.0]))
        '▁▅█'
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return ""
    finite = finite / (np.abs(finite).max() or 1.0)  # so that sums and differences of large numbers stay finite
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
