"""Tests the fingerprint of a run's problems and model, which a resume compares."""

from __future__ import annotations

from datetime import date

import pytest

import rlif
from rlif.runs import fingerprint
from rlif.types import Problem

NAMES = {"problems": "the problems of math", "model": "the model m", "columns": "a column of math"}


def facts(folder, problems=("a", "b"), gold="1"):
    (folder / "config.json").write_text("{}")
    rows = [Problem(id=str(i), text=text) for i, text in enumerate(problems)]
    return fingerprint.compute(rows, {"cups": [Problem("0", "how many?", gold=gold)]}, str(folder))


def test_an_equal_or_missing_fingerprint_is_accepted(tmp_path):
    fingerprint.check(facts(tmp_path), facts(tmp_path), tmp_path, NAMES)
    fingerprint.check({}, facts(tmp_path), tmp_path, NAMES)  # killed before it was written


def test_each_change_is_named(tmp_path):
    begun = facts(tmp_path)
    for now, what in (
        (facts(tmp_path, problems=("b", "a")), r"the problems of math changed since the run began \(other rows\)"),
        (facts(tmp_path, problems=("a",)), r"\(2 rows then, 1 now\); put back what .* began with, or start a new run"),
        (facts(tmp_path, gold="2"), r"the held-out cups changed since the run began \(other rows\)"),
        (facts(tmp_path) | {"held_out": {}}, r"the held-out cups changed since the run began \(gone\)"),
    ):
        with pytest.raises(rlif.RlifError, match=what):
            fingerprint.check(begun, now, tmp_path, NAMES)
    (tmp_path / "config.json").write_text("{ }")
    with pytest.raises(rlif.RlifError, match=r"the model m changed .*\(config.json\)"):
        now = begun | {"model": fingerprint.compute([], {}, str(tmp_path))["model"]}
        fingerprint.check(begun, now, tmp_path, NAMES)


def test_columns_that_a_reward_reads_are_compared_and_others_are_not(tmp_path):
    """Golds alone are part of the problems. Runs of earlier versions kept no columns."""
    rows = [Problem("0", "a", row={"level": level, "day": date(2026, 1, 1)}) for level in (1, 2)]
    begun, now = (fingerprint.compute([row], {}, str(tmp_path), columns=True) for row in rows)
    with pytest.raises(rlif.RlifError, match="a column of math changed since the run began"):
        fingerprint.check(begun, now, tmp_path, NAMES)
    plain = fingerprint.compute(rows[:1], {}, str(tmp_path))
    fingerprint.check(plain, now, tmp_path, NAMES)
    fingerprint.check(begun, begun, tmp_path, NAMES)


def test_large_files_are_told_apart_by_parts_of_them(tmp_path, monkeypatch):
    """What an older version kept, only the size, is compared by the size."""
    monkeypatch.setattr(fingerprint, "SMALL", 4)
    (tmp_path / "weights").write_bytes(b"12345")
    begun = fingerprint.compute([], {}, str(tmp_path))
    (tmp_path / "weights").write_bytes(b"12346")
    now = fingerprint.compute([], {}, str(tmp_path))
    with pytest.raises(rlif.RlifError, match=r"the model m changed .*\(weights\)"):
        fingerprint.check(begun, now, tmp_path, NAMES)
    fingerprint.check(begun | {"model": {"weights": {"bytes": 5}}}, now, tmp_path, NAMES)


def test_other_versions_and_threads_are_listed():
    then = {"python": "3.11.1", "packages": {"torch": "2.6", "trl": "1.10"}, "threads": 1, "commit": "abc"}
    now = {"python": "3.11.1", "packages": {"torch": "2.7", "trl": "1.10"}, "threads": 2, "commit": "def"}
    assert fingerprint.differences(then, now) == ["torch 2.6 then, 2.7 now", "threads 1 then, 2 now"]
    assert fingerprint.differences(then, then) == []
