"""Writes numbers as tables show them."""

from __future__ import annotations

from typing import Any


def share(interval: dict[str, Any] | None) -> str:
    """Writes a share in percent with its interval; a dash for none."""
    if interval is None or interval["mean"] is None:
        return "-"
    low, high = interval["low"], interval["high"]
    return f"{interval['mean']:.1%}" + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
