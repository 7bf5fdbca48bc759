"""Tests that a skipped test says what to do about it, and that a run ends with a list of skips."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support import hooks


def skipped(reason: str) -> SimpleNamespace:
    return SimpleNamespace(skipped=True, outcome="skipped", longrepr=("test_x.py", 7, f"Skipped: {reason}"))


@pytest.mark.parametrize(
    ("reason", "outcome"), [("no GPU; run it where one is", "skipped"), ("no GPU", "failed"), ("", "failed")]
)
def test_a_skip_that_does_not_say_what_to_do_fails(reason, outcome):
    hook = hooks.pytest_runtest_makereport()
    next(hook)
    with pytest.raises(StopIteration) as result:
        hook.send(skipped(reason))
    assert result.value.value.outcome == outcome


def test_the_last_line_lists_skips_and_what_to_do_about_them():
    lines: list[str] = []
    reports = [skipped(reason) for reason in ("no GPU; use one", "sweep; make test-all", "sweep; make test-all")]
    hooks.pytest_terminal_summary(SimpleNamespace(stats={"skipped": reports}, write_line=lines.append))
    hooks.pytest_terminal_summary(SimpleNamespace(stats={}, write_line=lines.append))
    assert lines == ["skipped: 2 sweep (make test-all), 1 no GPU (use one)"]
