"""Prints paragraphs and tables on a screen of any width, no cell cut off, and writes numbers for them."""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

SMALLEST = 24  # columns that are enough for the text of a last column
NO_WIDTH = 10**6  # a file or a pipe has no width


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Prints a table in the width of the screen. The first `left` columns hold text, the others numbers."""
    print("\n".join(table_lines(headings, rows, left, screen_width())))


def print_text(text: str) -> None:
    """Prints a paragraph, wrapped at the width of the screen; later lines are indented."""
    print(textwrap.fill(text, screen_width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def screen_width() -> int:
    """Returns the number of columns of the screen; a file or a pipe has no limit."""
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if wide else NO_WIDTH


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int, width: int) -> list[str]:
    r"""Lays out a table. If it is too wide, text columns move to lines of their own, then every cell gets its heading.

    Example:
        >>> print(*table_lines(["task", "n", "right"], [["clock", "64", "50.0%"]], 1, 80), sep="\n")
        task    n  right
        -----  --  -----
        clock  64  50.0%
        >>> print(*table_lines(["task", "n", "right"], [["clock", "64", "50.0%"]], 1, 12), sep="\n")
        task
           n  right
          --  -----
        clock
          64  50.0%
    """
    return [line for block in _blocks([list(headings), *map(list, rows)], left, width) for line in block]


def _blocks(table: list[list[str]], left: int, width: int) -> list[list[str]]:
    """Lays out each row as lines. The first row holds the headings and ends with a rule."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    *fixed, last = widths
    rest = min(last, width - sum(fixed) - 2 * len(fixed))
    text = left == len(widths)
    if rest == last or (text and rest >= SMALLEST):
        widths[-1] = rest
        blocks = [_aligned(row, widths, left) for row in table]
        blocks[0].append("  ".join("-" * size for size in widths))
        return blocks
    if left > 0 and len(widths) > 1:
        below = _blocks([row[1:] for row in table], left - 1, width - 2)
        return [
            [row[0]] * bool(row[0]) + [f"  {line}" for line in block] for row, block in zip(table, below, strict=True)
        ]
    named = [
        "; ".join(f"{heading} {cell}" for heading, cell in zip(table[0], row, strict=True) if cell) for row in table
    ]
    return [[], *(textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in named[1:])]


def _aligned(row: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    """Aligns one row in columns; wraps a last column of text."""
    cells = [
        cell.ljust(size) if i < left else cell.rjust(size)
        for i, (cell, size) in enumerate(zip(row, widths, strict=True))
    ]
    if left < len(row) or len(row[-1]) <= widths[-1]:
        return ["  ".join(cells).rstrip()]
    parts = textwrap.wrap(row[-1], widths[-1], break_long_words=False)
    start = "".join(f"{cell}  " for cell in cells[:-1])
    return [start + parts[0], *(" " * len(start) + part for part in parts[1:])]


def share(interval: dict[str, Any] | None) -> str:
    """Writes a share in percent with its interval; a dash for none."""
    from rlif.intervals import Interval

    return str(Interval.read(interval) or "-")


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
