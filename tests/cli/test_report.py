"""The line about the report that ends `rlif train`."""

from __future__ import annotations

import logging
import sys

import pytest
from support.folders import make_run

from rlif.cli import main as cli
from rlif.cli.report import report_of


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", tasks=(), steps=1)


def test_the_line_names_the_page(run):
    assert report_of(run) == f"the report: {run / 'report.html'}" and (run / "report.html").is_file()


def test_what_the_user_can_put_right_is_one_sentence(run, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert report_of(run) == "no report: this report needs jinja2: pip install 'rlif[report]'."
    assert caplog.records == []


def test_a_mistake_of_ours_is_logged_with_its_traceback(run, monkeypatch, caplog):
    def broken(histories):
        raise KeyError("our mistake")

    monkeypatch.setattr("rlif.reporting.page.reported_runs", broken)
    line = report_of(run)
    assert line == f"no report: rlif failed to write it; `rlif report {run}` tries again."
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.name == "rlif.cli.report"
    assert "KeyError: 'our mistake'" in caplog.text and "in broken" in caplog.text


def test_the_same_mistake_ends_rlif_report_itself(run, monkeypatch):
    monkeypatch.setattr("rlif.reporting.page.reported_runs", lambda histories: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["rlif", "report", str(run)])
    with pytest.raises(ZeroDivisionError):
        cli.main()
