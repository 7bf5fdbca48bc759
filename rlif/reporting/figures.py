"""Describes figures as numbers, which the page draws with uPlot and `save` draws as .svg and .png files.

A `Figure` is a title, a sentence that explains it, and lines. Each shows one measure, so a page stays readable on a
telephone. Colours are Okabe and Ito's, which colour-blind readers can distinguish; runs also differ in their dashes.
All points of a figure reach the page, up to POINTS; beyond, a line holds means of neighbouring steps, with their range.
"""

import logging
import math
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlif.reporting.analysis import ANSWER_TYPES, Calibration, Graded, Separation

POINTS = 20_000  # of all lines of a figure together
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ((), (6, 3), (2, 2), (8, 3, 2, 3))
RIGHT, WRONG = COLOURS[0], COLOURS[1]
TYPES = ("#999999", COLOURS[5], COLOURS[0])  # colours of ANSWER_TYPES
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Line:
    """Holds values over x, NaN where there is none, and a band around them."""

    label: str
    x: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    number: int = 0  # of the run, for colour and dashes
    collapse: int | None = None  # the step to mark as the run's collapse
    step: int | None = None  # the evaluation that it belongs to, where x is not the step; the page's slider chooses one
    note: str = ""  # a number about the whole line
    tint: str = ""  # a colour other than the run's

    @property
    def colour(self) -> str:
        return self.tint or COLOURS[self.number % len(COLOURS)]

    @property
    def dashes(self) -> tuple[float, ...]:
        return () if self.tint else DASHES[self.number % len(DASHES)]


@dataclass(frozen=True)
class Figure:
    """Holds something to draw."""

    key: str  # its file name; unique in a report
    title: str  # what is shown, with its unit
    gloss: str  # a sentence that explains it
    alt: str  # its numbers in a sentence, for readers who cannot see it
    lines: Sequence[Line]
    kind: str = "curve"  # or bars that overlap (`bars`), or that stand on each other (`stack`)
    axis: str = "step"  # what x is
    percent: bool = False  # values are shares
    smooth: bool = False  # values are logged at every step, so the page may smooth them


def curves(key: str, title: str, gloss: str, lines: Sequence[Line], percent: bool = False, **more: Any) -> Figure:
    """Describes values over training steps, one line per run, with collapses marked."""
    return Figure(key, title, gloss, _alt(title, lines, percent), lines, percent=percent, **more)


def thinned(line: Line, most: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Reduces a line to `most` means of neighbouring steps, with the range of its band or else of its values."""
    if len(line.x) <= most:
        return line.x, line.values, line.low, line.high
    low, high = (line.values if band is None else band for band in (line.low, line.high))
    cuts = np.array_split(np.arange(len(line.x)), most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all values of a stretch may be NaN; so is its mean
        return (
            np.array([line.x[part].mean() for part in cuts]),
            np.array([np.nanmean(line.values[part]) for part in cuts]),
            np.array([np.nanmin(low[part]) for part in cuts]),
            np.array([np.nanmax(high[part]) for part in cuts]),
        )


def histograms(key: str, title: str, gloss: str, evaluations: Sequence[Graded]) -> Figure:
    """Describes the self-certainty of right and wrong completions, per evaluation, on one axis."""
    edges = np.histogram_bin_edges(np.concatenate([evaluation.certainty for evaluation in evaluations]), bins=28)
    lines, heads = [], []
    for evaluation in evaluations:
        certainty, right = np.array(evaluation.certainty), np.array(evaluation.right)
        test = _test_text(evaluation.separation)
        heads.append(f"step {evaluation.step}: {test}")
        for name, tint, chosen, note in (("wrong", WRONG, ~right, test), ("right", RIGHT, right, "")):
            counts, _ = np.histogram(certainty[chosen], edges)
            middles = (edges[1:] + edges[:-1]) / 2
            label = f"{name} ({chosen.sum():,})"
            lines.append(Line(label, middles, counts.astype(float), step=evaluation.step, note=note, tint=tint))
    alt = f"{title}. {'; '.join(heads)}."
    return Figure(key, title, gloss, alt, lines, kind="bars", axis="self-certainty, nats")


def _test_text(test: Separation | None) -> str:
    if test is None:
        return "nothing to compare"
    return f"U = {test.u:,.0f}, p = {test.p:.2g}, r = {test.r:.2f}, AUROC {test.auroc:.2f}"


def calibrations(key: str, title: str, gloss: str, parts: Sequence[tuple[str, int, int, Calibration]]) -> Figure:
    """Describes accuracy by tenth of confidence; `parts` are label, number of the run, step, and the numbers."""
    lines = []
    for label, run, step, numbers in parts:
        places = (np.arange(len(numbers.bins)) + 0.5) / len(numbers.bins)
        shares = np.array([b.accuracy for b in numbers.bins])
        lines.append(Line(label, places, shares, number=run, step=step, note=f"slope {numbers.slope:+.2f}"))
    alt = f"{title}. {', '.join(f'{line.label}: {line.note}' for line in lines)}."
    return Figure(key, title, gloss, alt, lines, axis="rank of confidence, least to most sure", percent=True)


def stacks(key: str, title: str, gloss: str, counts: Mapping[int, Mapping[str, int]]) -> Figure:
    """Describes the shares of the types of answers over steps."""
    steps = np.array([step for step in sorted(counts) if sum(counts[step].values())], float)
    totals = [sum(counts[int(step)].values()) for step in steps]
    shares = {
        kind: np.array([counts[int(step)][kind] / total for step, total in zip(steps, totals, strict=True)])
        for kind in ANSWER_TYPES
    }
    lines = [Line(kind, steps, shares[kind], tint=tint) for kind, tint in zip(ANSWER_TYPES, TYPES, strict=True)]
    ends = "; ".join(
        f"step {steps[place]:.0f}: " + ", ".join(f"{shares[kind][place]:.0%} {kind}" for kind in ANSWER_TYPES)
        for place in dict.fromkeys((0, len(steps) - 1))
    )
    return Figure(key, title, gloss, f"{title}. {ends}.", lines, kind="stack", percent=True)


def _alt(title: str, lines: Sequence[Line], percent: bool) -> str:
    def text(line: Line) -> str:
        finite = np.flatnonzero(np.isfinite(line.values))
        if not len(finite):
            return f"{line.label}: no numbers"
        first, last = finite[0], finite[-1]
        form = "{:.1%}" if percent else "{:.4g}"
        ends = (form.format(line.values[i]) + f" at step {line.x[i]:.0f}" for i in (first, last))
        mark = "" if line.collapse is None else f", collapse at {line.collapse}"
        return f"{line.label}: from {' to '.join(ends)}{mark}"

    return f"{title} over training steps. " + "; ".join(map(text, lines)) + "."


def figures_data(figures: Iterable[Figure]) -> dict[str, Any]:
    """Returns the figures as the page's data: each by its key, and the x values that lines share, each once."""
    axes: dict[bytes, int] = {}
    shared: list[list[float | None]] = []

    def line_data(line: Line, most: int) -> dict[str, Any]:
        x, values, low, high = thinned(line, most)
        place = axes.setdefault(x.tobytes(), len(shared))
        if place == len(shared):
            shared.append(_plain(x, 8))
        found: dict[str, Any] = {"label": line.label, "colour": line.colour, "run": line.number, "x": place}
        found |= {"y": _plain(values), "dash": line.dashes, "note": line.note, "step": line.step}
        found["collapse"] = line.collapse
        return found | ({} if low is None or high is None else {"low": _plain(low), "high": _plain(high)})

    found = {}
    for figure in figures:
        most = max(2, POINTS // max(1, len(figure.lines)))
        lines = [line_data(line, most) for line in figure.lines]
        found[figure.key] = {"kind": figure.kind, "axis": figure.axis, "percent": figure.percent, "lines": lines}
        found[figure.key]["smooth"] = figure.smooth
    return {"figures": found, "axes": shared}


def _plain(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Makes numbers of so many digits, None for NaN."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values.tolist()]


def save(figure: Figure, folder: Path) -> list[Path]:
    """Writes `<key>.svg` and `<key>.png`, on white, with the names of the lines."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    parts = sorted({line.step for line in figure.lines if line.step is not None}) if figure.kind == "bars" else [None]
    paths = [folder / f"{figure.key}.svg", folder / f"{figure.key}.png"]
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": figure.key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = Canvas(figsize=(4.2, 2.5 if len(parts) == 1 else 1.75 * len(parts) + 0.4))
        for axes, step in zip(np.atleast_1d(canvas.subplots(len(parts), 1, sharex=True)), parts, strict=True):
            lines = [line for line in figure.lines if step is None or line.step == step]
            _draw(axes, figure, lines)
            title = figure.title if step is None else f"step {step}: {lines[0].note}"
            stacked = figure.kind == "stack"
            axes.set_title("\n".join(textwrap.wrap(title, 54)), pad=18 if stacked else 6)
            axes.set_xlabel(figure.axis if step in (None, parts[-1]) else "")
            axes.grid(axis="y", alpha=0.3, linewidth=0.6)
            axes.set_axisbelow(True)
            if figure.percent:
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
                axes.set_ylim(max(0, axes.get_ylim()[0]))
            if figure.axis == "step":
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if len(lines) > 1:
                above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.97), "ncols": 3}
                axes.legend(handlelength=1 if stacked else 2, **(above if stacked else {}))
        for path in paths:
            form: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 200}
            canvas.savefig(path, **form)
    return paths


def _draw(axes: Any, figure: Figure, lines: Sequence[Line]) -> None:
    floor = np.zeros(len(lines[0].x)) if figure.kind == "stack" else 0.0
    for line in lines:
        x, values, low, high = thinned(line)
        if figure.kind != "curve":
            width = float(np.diff(x).min()) if len(x) > 1 else 1.0
            alpha = 1 if figure.kind == "stack" else 0.45
            axes.bar(x, values, width, bottom=floor, color=line.colour, alpha=alpha, label=line.label)
            floor = floor + values if figure.kind == "stack" else floor
            continue
        seen = [other.step for other in lines if other.number == line.number]
        marker = "osD^"[seen.index(line.step) % 4] if np.isfinite(values).sum() <= 15 else None
        label = f"{line.label}, {line.note}" if line.note else line.label
        (drawn,) = axes.plot(x, values, color=line.colour, label=label, marker=marker, zorder=3)
        if line.dashes:
            drawn.set_dashes(line.dashes)
        if low is not None and high is not None:
            axes.fill_between(x, low, high, color=line.colour, alpha=0.13, linewidth=0, zorder=1)
        if line.collapse is not None:
            axes.axvline(line.collapse, color=line.colour, linewidth=1, dashes=(1, 2), zorder=0)
            axes.text(line.collapse, 1, "collapse", rotation=90, fontsize=7.5, ha="right", va="top",
                      transform=axes.get_xaxis_transform())  # fmt: skip
