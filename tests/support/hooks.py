"""Hooks of pytest: the order of tests, sweeps, and messages of skipped tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

SWEEP = "sweep; make test-all"
FIRST = ("launching", "training", "engines", "project")  # long tests begin first, so that workers end together


def mark_rest(items: list[pytest.Item]) -> None:
    """Marks as sweeps what `daily(every=N)` leaves out: all but each N-th case of a test."""
    seen: Counter[str] = Counter()
    for item in items:
        if marker := item.get_closest_marker("daily"):
            name = item.nodeid.partition("[")[0]
            if seen[name] % marker.kwargs["every"]:
                item.add_marker(pytest.mark.sweep)
            seen[name] += 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if unlike := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"the name of a test is another in each process: {unlike[0]}")
    mark_rest(items)
    items.sort(key=lambda item: [f"tests/{folder}/" not in item.nodeid for folder in FIRST])
    if "sweep" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("sweep"):
                item.add_marker(pytest.mark.skip(reason=SWEEP))


def reason_of(report: Any) -> str:
    """The reason of a skipped test as it was given."""
    return report.longrepr[2].removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Fails a test that is skipped without saying what to do about it."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and "; " not in (reason := reason_of(report)):
        report.outcome, report.longrepr = "failed", f"skipped as {reason!r}; say after a semicolon what to do about it"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says in one line what was skipped, and what to install or set for it."""
    reasons = Counter(reason_of(report) for report in terminalreporter.stats.get("skipped", []))
    parts = [f"{count} {reason.replace('; ', ' (', 1)})" for reason, count in reasons.most_common()]
    if parts:
        terminalreporter.write_line(f"skipped: {', '.join(parts)}")
