"""Draws figures, the same for the page and for files.

`svg` makes a `Figure` part of a page; its ink is `currentColor`, which fits light and dark. `save` writes .svg and
.png files. Each figure shows one measure, so a page stays readable on a telephone.

Colours are Okabe and Ito's, which colour-blind readers can distinguish; runs also differ in their dashes. A curve of
more than POINTS steps is drawn as means of neighbouring steps, with their range shaded.
"""

import io
import logging
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rlif.reporting.analysis import ANSWER_TYPES, Calibration, Graded, Separation

POINTS = 300
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
RIGHT, WRONG = COLOURS[0], COLOURS[1]
INK = "#010203"  # stands for the page's own text colour until the drawing is done
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Figure:
    """Holds something to draw."""

    key: str  # its file name; unique in a report
    title: str  # what is shown, with its unit
    alt: str  # the same in a sentence, for readers who cannot see it
    # draws onto an empty matplotlib figure, given the colour of ink and whether to name the runs
    draw: Callable[[Canvas, str, bool], None]
    caption: str = ""  # what a reader needs to understand it
    height: float = 2.5  # in inches; the width is 4.2


@dataclass(frozen=True)
class Line:
    """Holds a curve: its steps and values, NaN where there is none, and a band around it."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    number: int = 0  # of the run, for colour and dashes
    collapse: int | None = None  # the step to mark as the run's collapse

    @property
    def colour(self) -> str:
        return COLOURS[self.number % len(COLOURS)]


def curves(key: str, title: str, lines: Sequence[Line], percent: bool = False) -> Figure:
    """Draws values over training steps, one line per run, and marks collapses."""

    def draw(canvas: Canvas, ink: str, names: bool) -> None:
        axes = canvas.add_subplot()
        for number, line in enumerate(lines):
            steps, values, low, high = thinned(line)
            marker = "o" if np.isfinite(values).sum() <= 15 else None
            (drawn,) = axes.plot(steps, values, color=line.colour, label=line.label, marker=marker, zorder=3)
            if dashes := DASHES[line.number % len(DASHES)]:
                drawn.set_dashes(dashes)
            drawn.set_gid(f"{key}-mark-{number}")
            if low is not None and high is not None:
                axes.fill_between(steps, low, high, color=line.colour, alpha=0.13, linewidth=0, zorder=1)
        for line in lines:
            if line.collapse is not None:
                axes.axvline(line.collapse, color=line.colour, linewidth=1, dashes=(1, 2), zorder=0)
                axes.annotate(
                    "collapse", (line.collapse, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=7.5,
                    color=ink, ha="right", va="top", xytext=(-1, -1), textcoords="offset points",
                )  # fmt: skip
        _finish(axes, title, ink, percent, steps=True)
        if percent and axes.get_ylim()[0] < 0:
            axes.set_ylim(0, max(axes.get_ylim()[1], 0.01))
        if names and len(lines) > 1:
            axes.legend(handlelength=2.2)

    return Figure(key, title, _alt(title, lines, percent), draw)


def thinned(line: Line) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Reduces a line to POINTS means of neighbouring steps, with the range of its band or else of its values."""
    if len(line.steps) <= POINTS:
        return line.steps, line.values, line.low, line.high
    low, high = (line.values if band is None else band for band in (line.low, line.high))
    cuts = [part for part in np.array_split(np.arange(len(line.steps)), POINTS) if len(part)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all values of a stretch may be NaN; so is its mean
        return (
            np.array([line.steps[part].mean() for part in cuts]),
            np.array([np.nanmean(line.values[part]) for part in cuts]),
            np.array([np.nanmin(low[part]) for part in cuts]),
            np.array([np.nanmax(high[part]) for part in cuts]),
        )


def histograms(key: str, title: str, evaluations: Sequence[Graded]) -> Figure:
    """Draws the self-certainty of right and wrong completions, one row per evaluation, on one axis."""
    edges = np.histogram_bin_edges(np.concatenate([evaluation.certainty for evaluation in evaluations]), bins=28)
    headings = [f"step {evaluation.step}: {_test_text(evaluation.separation)}" for evaluation in evaluations]

    def draw(canvas: Canvas, ink: str, names: bool) -> None:
        rows = np.atleast_1d(canvas.subplots(len(evaluations), 1, sharex=True))
        for number, (axes, evaluation) in enumerate(zip(rows, evaluations, strict=True)):
            certainty, right = np.array(evaluation.certainty), np.array(evaluation.right)
            groups = [("wrong", WRONG, ~right, "////"), ("right", RIGHT, right, None)]
            groups.sort(key=lambda group: -group[2].sum())  # the smaller one in front
            for name, colour, chosen, hatch in groups:
                counts, _ = np.histogram(certainty[chosen], edges)
                drawn = axes.stairs(
                    counts, edges, fill=True, color=colour, alpha=0.45, hatch=hatch, label=f"{name} ({chosen.sum():,})"
                )
                drawn.set_gid(f"{key}-mark-{number}-{name}")
            _finish(axes, headings[number], ink)
            axes.set_ylim(top=1.3 * axes.get_ylim()[1])
            axes.legend(loc="upper left", ncols=2, handlelength=1.2, borderaxespad=0.2)
            axes.set_ylabel("completions")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        rows[-1].set_xlabel(_wrapped(f"{title}, nats"))

    alt = f"Histograms of {title}. {'; '.join(headings)}."
    return Figure(key, title, alt, draw, height=1.75 * len(evaluations) + 0.4)


def _test_text(test: Separation | None) -> str:
    if test is None:
        return "nothing to compare"
    return f"U = {test.u:,.0f}, p = {test.p:.2g}, r = {test.r:.2f}, AUROC {test.auroc:.2f}"


def calibrations(key: str, title: str, parts: Sequence[tuple[str, int, int, Calibration]]) -> Figure:
    """Draws accuracy by tenth of confidence.

    Args:
        parts: label, number of the run, number of its evaluations before this one, and the numbers.
    """

    def draw(canvas: Canvas, ink: str, names: bool) -> None:
        axes = canvas.add_subplot()
        for number, (label, run, place, numbers) in enumerate(parts):
            places = (np.arange(len(numbers.bins)) + 0.5) / len(numbers.bins)
            (drawn,) = axes.plot(
                places, [b.accuracy for b in numbers.bins], color=COLOURS[run % len(COLOURS)], label=label,
                marker="sDo"[min(place, 2)], linestyle=(":", "--", "-")[min(place, 2)],
                markerfacecolor=None if place else "none",
            )  # fmt: skip
            drawn.set_gid(f"{key}-mark-{number}")
        _finish(axes, title, ink, percent=True)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xticks([0, 0.5, 1], ["least sure", "", "most sure"])
        axes.legend(handlelength=2)

    slopes = ", ".join(f"{label}: slope {numbers.slope:+.2f}" for label, _, _, numbers in parts)
    return Figure(key, title, f"{title}. {slopes}.", draw, caption=slopes)


def stacks(key: str, title: str, counts: Mapping[int, Mapping[str, int]]) -> Figure:
    """Draws the shares of the types of answers over steps, as stacked bars."""
    steps = [step for step in sorted(counts) if sum(counts[step].values())]
    shares = np.array([[counts[step][kind] / sum(counts[step].values()) for kind in ANSWER_TYPES] for step in steps])

    def draw(canvas: Canvas, ink: str, names: bool) -> None:
        axes = canvas.add_subplot()
        middles = (np.array(steps[1:]) + np.array(steps[:-1])) / 2
        half = middles[0] - steps[0] if len(steps) > 1 else 0.5
        edges = np.array([steps[0] - half, *middles, steps[-1] + half])
        floor = np.zeros(len(steps))
        for number, (kind, colour) in enumerate(zip(ANSWER_TYPES, ("#999999", COLOURS[5], COLOURS[0]), strict=True)):
            bars = axes.bar(
                edges[:-1], shares[:, number], np.diff(edges), bottom=floor, align="edge", color=colour, label=kind,
                edgecolor=colour, linewidth=0.4,
            )  # fmt: skip
            for place, bar in enumerate(bars):
                bar.set_gid(f"{key}-mark-{number}-{place}")
            floor = floor + shares[:, number]
        _finish(axes, title, ink, percent=True, grid=False, steps=True)
        axes.set_title(_wrapped(title), pad=18)
        axes.set_ylim(0, 1)
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=3, handlelength=0.9, handletextpad=0.4,
            columnspacing=0.9, borderaxespad=0.1, fontsize=8,
        )  # fmt: skip

    ends = "; ".join(
        f"step {step}: " + ", ".join(f"{share:.0%} {kind}" for kind, share in zip(ANSWER_TYPES, row, strict=True))
        for step, row in (*zip(steps[:1], shares[:1], strict=True), *zip(steps[-1:], shares[-1:], strict=True))
    )
    return Figure(key, title, f"{title}. {ends}.", draw)


def _finish(axes: Axes, title: str, ink: str, percent: bool = False, grid: bool = True, steps: bool = False) -> None:
    axes.set_title(_wrapped(title))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if grid:
        axes.grid(axis="y", color=ink, alpha=0.14, linewidth=0.6)
    if steps:
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_axisbelow(True)
    axes.margins(x=0.02)


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.wrap(title, 54))


def _alt(title: str, lines: Sequence[Line], percent: bool) -> str:
    def text(line: Line) -> str:
        finite = np.flatnonzero(np.isfinite(line.values))
        if not len(finite):
            return f"{line.label}: no numbers"
        first, last = finite[0], finite[-1]
        form = "{:.1%}" if percent else "{:.4g}"
        ends = (form.format(line.values[i]) + f" at step {line.steps[i]:.0f}" for i in (first, last))
        mark = "" if line.collapse is None else f", collapse at {line.collapse}"
        return f"{line.label}: from {' to '.join(ends)}{mark}"

    return f"{title} over training steps. " + "; ".join(map(text, lines)) + "."


def _drawn(figure: Figure, ink: str, names: bool, **output: Any) -> bytes:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: Any = {**STYLE, **dict.fromkeys(inked, ink), "svg.hashsalt": figure.key}
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = Canvas(figsize=(4.2, figure.height))
        figure.draw(canvas, ink, names)
        buffer = io.BytesIO()
        canvas.savefig(buffer, **output)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """Draws a figure as an element of a page: transparent, ink in the page's colour, each identifier used once."""
    text = _drawn(figure, INK, names=False, format="svg", transparent=True, metadata={"Date": None}).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    for size in ("width", "height"):
        text = re.sub(rf'(<svg [^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    return text.replace(INK, "currentColor")


def save(figure: Figure, folder: Path) -> list[Path]:
    """Writes `<key>.svg` and `<key>.png`, on white, with the names of the runs."""
    paths = [folder / f"{figure.key}.svg", folder / f"{figure.key}.png"]
    for path in paths:
        form: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 200}
        path.write_bytes(_drawn(figure, "#1a1a1a", names=True, format=path.suffix[1:], **form))
    return paths
