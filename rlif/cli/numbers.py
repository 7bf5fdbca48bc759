"""Writes numbers as tables show them."""

from __future__ import annotations

from typing import Any


def share(interval: dict[str, Any] | None) -> str:
    """Writes a share in percent with its interval; a dash for none."""
    from rlif.intervals import Interval

    return str(Interval.read(interval) or "-")


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
