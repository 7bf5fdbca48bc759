"""The fixture that runs a fuzz test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import rlif

DAILY = 15


@pytest.fixture(params=[DAILY, pytest.param(400, marks=pytest.mark.sweep)], ids=lambda many: f"{many} cases")
def fuzz(request, record_property):
    """Calls a function with many values. It may raise an RlifError of one line; any other error is a defect."""

    def run(strategy: Any, body: Callable[[Any], Any]) -> None:
        cases = []

        @settings(
            max_examples=request.param,
            derandomize=request.config.getoption("--hypothesis-seed") is None,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(value: Any) -> None:
            cases.append(1)
            try:
                body(value)
            except rlif.RlifError as error:
                assert "\n" not in str(error).strip(), f"more than a line: {error}"

        each()
        record_property("cases", len(cases))

    return run
