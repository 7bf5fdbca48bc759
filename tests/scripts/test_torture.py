"""Tests the table of docs/reliability.md: every promise has tests, and skipped tests are counted."""

from __future__ import annotations

import ast

import pytest
from support.commands import ROOT
from support.scripts import load

torture = load("scripts/torture.py")


@pytest.mark.parametrize("row", torture.ROWS, ids=lambda row: row[0])
def test_every_promise_names_existing_tests(row):
    for prefix in row[1].split():
        file, _, name = prefix.partition("::")
        source = (ROOT / "tests" / torture.FILES[file]).read_text(encoding="utf-8")
        found = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        assert any(test.startswith(name.rstrip("[") or "test_") for test in found), prefix


def test_the_table_counts_passed_and_skipped_tests(tmp_path):
    junit = """<testsuites><testsuite>
      <testcase classname="tests.training.test_kills" name="test_two_processes[a]"/>
      <testcase classname="tests.training.test_kills" name="test_two_processes[b]"><failure/></testcase>
      <testcase classname="tests.training.test_kills" name="test_two_processes[c]"><skipped/></testcase>
      <testcase classname="tests.project.test_fuzz" name="test_recipes">
        <properties><property name="cases" value="1015"/></properties></testcase>
      </testsuite></testsuites>"""
    (tmp_path / "junit.xml").write_text(junit)
    table = torture.table(torture.read_cases(tmp_path / "junit.xml")).splitlines()
    (two,) = [line for line in table if "two processes: the same" in line]
    assert two.endswith("| `tests/training/test_kills.py` `test_two_processes...` | 1/2 kills (1 skipped) |")
    assert table[-1].endswith(
        "| `tests/project/test_fuzz.py`, `tests/project/test_fuzz_data.py` | 1/1 tests, 1,015 cases |"
    )
