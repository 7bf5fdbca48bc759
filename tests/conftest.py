"""Fixtures of the whole suite, and what it says of tests that were skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support.models import byte_tokenizer, tiny_model

SWEEP = "sweep; make test-all"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if unlike := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"the name of a test is another in each process: {unlike[0]}")
    if "sweep" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("sweep"):
                item.add_marker(pytest.mark.skip(reason=SWEEP))


def reason_of(report: Any) -> str:
    """Why a test was skipped, in the words of the skip."""
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


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2 with a byte tokenizer, as a local model folder."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real benchmark data, from the folder that RLIF_DATA names."""
    folder = os.environ.get("RLIF_DATA")
    if not folder:
        pytest.skip("no benchmark data; set RLIF_DATA to its folder, see docs/evaluation.md")
    return Path(folder)


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Skips where programs cannot be run safely."""
    from rlif.errors import RlifError
    from rlif.sandbox.runner import require_sandbox

    try:
        require_sandbox()
    except RlifError as error:
        pytest.skip(f"no sandbox; {error}")
