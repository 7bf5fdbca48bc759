"""Draws how rules of best-of-N scale with N. Needs matplotlib: pip install 'rlif[plot]'."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlif.errors import MachineError

# Okabe and Ito's colours, which colour-blind readers can distinguish; markers for prints in grey.
DRAWN: dict[str, tuple[str, str, str]] = {
    "pass@N": ("#000000", ":", ""),
    "self_certainty": ("#D55E00", "-", "o"),
    "borda": ("#0072B2", "-", "s"),
    "plurality": ("#009E73", "-", "^"),
    "deepconf_tail_top10": ("#CC79A7", "-", "v"),
    "likelihood": ("#56B4E9", "-", "D"),
    "random": ("#999999", "-", "x"),
    "mean@1": ("#000000", "--", ""),
}
BANDS = ("self_certainty", "borda", "plurality")


def draw(tables: Mapping[str, Mapping[str, Any]], path: Path, names: Sequence[str] = tuple(DRAWN)) -> None:
    """Draws one panel per table of `rlif.selection.scaling.scaling`, by title; bands show the intervals of BANDS."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MachineError("the figure needs matplotlib: pip install 'rlif[plot]'.") from error
    figure = Figure(figsize=(3.2 * len(tables) + 2.0, 3.4), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axis, (title, table) in zip(panels, tables.items(), strict=True):
        for name in names:
            if name in table["accuracy"]:
                _line(axis, name, table["n"], table["accuracy"][name])
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xscale("log", base=2)
        axis.set_xticks(table["n"], [str(n) for n in table["n"]])
        axis.set_xlabel("samples per problem, N")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(0, 1.02)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panels[0].set_ylabel("accuracy")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path)


def _line(axis: Any, name: str, ns: Sequence[int], cells: Sequence[Mapping[str, Any]]) -> None:
    colour, style, marker = DRAWN[name]
    means = [cell["mean"] for cell in cells]
    axis.plot(ns, means, style, color=colour, marker=marker, markersize=4, linewidth=1.5, label=name)
    if name in BANDS:
        low, high = ([cell["mean"] if cell[end] is None else cell[end] for cell in cells] for end in ("low", "high"))
        axis.fill_between(ns, low, high, color=colour, alpha=0.1, linewidth=0)
