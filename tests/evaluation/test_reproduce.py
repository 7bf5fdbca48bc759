"""Tests the grading of recorded outputs, from whole, torn and foreign files."""

from __future__ import annotations

import gzip
import json
import os
import re

import pytest

import rlif
from rlif.evaluation.published import rounding
from rlif.evaluation.reproduce import check_graders, table


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in content) if ".jsonl" in path.name else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def folders(tmp_path):
    """Two problems of ZeroEval's gsm, one model that solves one of them, and its entry."""
    data, checks = tmp_path / "data", tmp_path / "data" / "checks"
    write(
        data / "zeroeval" / "gsm.questions.jsonl.gz",
        [{"id": f"gsm8k-{i}", "prompt": "?", "answer": f"# {i}"} for i in range(2)],
    )
    outputs = [{"id": f"gsm8k-{i}", "output": '{"reasoning": "", "answer": "1"}'} for i in range(2)]
    write(checks / "zeroeval_gsm" / "some-model.jsonl.gz", outputs)
    write(checks / "expected.json", {"zeroeval_gsm/some-model": {"items": 2, "published": 50.0, "tolerance": 0.01}})
    return checks


def expect(checks, **changes):
    expected = json.loads((checks / "expected.json").read_text())
    for facts in expected.values():
        facts.update(changes)
    write(checks / "expected.json", expected)


def test_published_figures_are_compared(folders, monkeypatch):
    monkeypatch.setenv("RLIF_DATA", "elsewhere")
    (row,) = check_graders(folders)
    assert row.within and row.items == 2 and row.ours == (50.0,) and row.difference == (0.0,)
    assert os.environ["RLIF_DATA"] == "elsewhere"
    for changes in ({"published": 50.02}, {"published": 50.0, "items": 3}):
        expect(folders, **changes)
        (row,) = check_graders(folders)
        assert not row.within
    assert "expected 3 items, there are 2" in row.note
    assert [line[-2] for line in table([row])] == ["", "OUT"]
    expect(folders, items=2, tolerance=None)
    assert check_graders(folders)[0].within, "null leaves the tolerance to the written digits"


def test_another_data_folder_can_be_given(folders, tmp_path):
    (row,) = check_graders(folders, tmp_path)
    assert not row.within and "no such data file" in row.note


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "there is no .*some-model.jsonl.gz"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "cannot read"),
        (lambda path: write(path, [{"id": "other", "output": ""}, {"id": "gsm8k-0", "output": ""}]), "is 'other'"),
        (lambda path: write(path, [{"id": "gsm8k-0", "output": ""}] * 2), "'gsm8k-0' occurs more than once"),
        (lambda path: write(path, [{"id": "gsm8k-0"}]), "KeyError: 'output'"),
        (lambda path: write(path, ["a line"]), "holds a str; expected an object per line"),
    ],
)
def test_an_entry_that_cannot_be_checked_has_a_note_and_the_others_are_checked(folders, spoil, message):
    expected = json.loads((folders / "expected.json").read_text())
    write(folders / "zeroeval_gsm" / "whole.jsonl.gz", [{"id": f"gsm8k-{i}", "output": "none"} for i in range(2)])
    write(
        folders / "expected.json",
        expected | {"zeroeval_gsm/whole": {"published": 0.0}, "new_bench/x": {"published": 1}},
    )
    spoil(folders / "zeroeval_gsm" / "some-model.jsonl.gz")
    torn, whole, foreign = check_graders(folders)
    assert not torn.within and re.search(message, torn.note)
    assert whole.within and whole.note == "no answer in 100.00 %"
    assert not foreign.within and "the name must begin with a family" in foreign.note


def test_a_folder_without_expectations_is_refused(tmp_path):
    with pytest.raises(rlif.RlifError, match=r"cannot read .*expected\.json"):
        check_graders(tmp_path)


def test_tolerance_is_half_of_the_last_written_digit():
    assert rounding(34.6) == pytest.approx(0.05) and rounding(68.409) == pytest.approx(0.0005)


def test_published_verdicts_of_cruxeval(tmp_path):
    """The labels may leave out answers that repeat the call."""
    checks = tmp_path / "checks"
    row = {"id": "sample_0", "code": "def f(x):\n    return x", "input": "3", "output": "3"}
    write(tmp_path / "cruxeval" / "cruxeval.jsonl", [row])
    write(checks / "cruxeval_o" / "run.generations.json.gz", {"sample_0": ["3", "4", "f(3)"]})
    write(checks / "expected.json", {"cruxeval_o/run": {"items": 1, "published": 33.3}})
    for labels, published, within in (
        ([True, False, False], 33.3, True),
        ([True, True, False], 33.3, False),
        ([True, False], 50.0, True),
        ([True], 50.0, False),
    ):
        write(checks / "cruxeval_o" / "run.labels.json.gz", {"sample_0": labels})
        expect(checks, published=published)
        (row,) = check_graders(checks)
        assert row.within is within, row.note


def test_published_verdicts_of_livecodebench(tmp_path, sandbox):
    """Two programs, one labelled right and one whose failed test is recorded; then the labels are exchanged."""
    tests = json.dumps([{"input": "2 3", "output": "5", "testtype": "stdin"}])
    problem = {"question_id": "a", "question_content": "Add.", "public_test_cases": tests, "private_test_cases": "[]"}
    write(tmp_path / "livecodebench" / "test.jsonl", [problem])
    good, bad = "print(sum(map(int, input().split())))", "print(7)"
    failed = {"error_code": -2, "error_message": "Wrong", "inputs": "1 1", "expected": "2", "output": "7"}
    checks = tmp_path / "checks"
    write(checks / "expected.json", {"lcb_x": {"items": 2, "published": 50.0}})
    for first, second, code, within in ((good, bad, good, True), (bad, good, bad, False), (good, bad, "else", False)):
        rows = [
            {"question_id": "a", "output": f"```python\n{first}\n```", "code": code, "graded": True, "metadata": {}},
            {"question_id": "b", "output": f"```\n{second}\n```", "code": second, "graded": False}
            | {"metadata": json.dumps(failed)},
        ]  # fmt: skip
        write(checks / "lcb_x.jsonl.gz", rows)
        (row,) = check_graders(checks)
        assert row.within is within and "1 labelled right" in row.note and "1 labelled wrong" in row.note


def test_published_verdicts_of_evalplus(tmp_path, sandbox):
    row = {"task_id": "Mbpp/3", "prompt": '"""Double."""\n', "entry_point": "f", "atol": 0}
    row |= {"canonical_solution": "def f(x): return 2 * x", "base_input": [[1]], "plus_input": [[-1]]}
    write(tmp_path / "mbpp" / "MbppPlus-v0.1.0.jsonl.gz", [row])
    checks = tmp_path / "checks"
    published = {"mbpp": {"pass@1": 100.0}, "mbpp+": {"pass@1": 0.0}}
    write(checks / "expected.json", {"mbpp_x": {"items": 1, "published": published}})
    write(checks / "mbpp_x.generated.jsonl.gz", [{"task_id": "Mbpp/3", "completion": "def f(x): return 2 * abs(x)"}])
    for labels, told in ((["pass", "fail"], "1 of 1"), (["pass", "pass"], "0 of 1")):
        write(checks / "mbpp_x.labels.json", {"Mbpp/3": labels})
        (row,) = check_graders(checks)
        assert row.within is (told == "1 of 1") and row.ours == (100.0, 0.0)
        assert f"base: 1 of 1 verdicts as labelled; plus: {told} verdicts" in row.note


@pytest.mark.sweep
def test_published_verdicts_of_humaneval_plus(data_folder, tmp_path, sandbox):
    name, checks = "humaneval_qwen25coder_1.5b-base", data_folder / "checks"
    for path in checks.glob(f"{name}.*"):
        (tmp_path / path.name).symlink_to(path)
    write(tmp_path / "expected.json", {name: json.loads((checks / "expected.json").read_text())[name]})
    (row,) = check_graders(tmp_path, data_folder)
    assert row.within and [round(share or 0, 1) for share in row.ours] == [43.9, 36.6]
    assert "plus: 164 of 164 verdicts as labelled" in row.note


@pytest.mark.sweep
def test_real_outputs_that_need_no_sandbox(data_folder, tmp_path):
    """Checks a few entries; `rlif check-graders` checks all."""
    checks = data_folder / "checks"
    expected = json.loads((checks / "expected.json").read_text())
    chosen = [name for name in expected if name.startswith(("zeroeval_crux/", "mmlu_pro/", "math500"))]
    for name in chosen:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for path in (checks / name).parent.glob(f"{(checks / name).name}.json*"):
            (tmp_path / name).parent.joinpath(path.name).symlink_to(path)
    write(tmp_path / "expected.json", {name: expected[name] for name in chosen})
    rows = check_graders(tmp_path, data_folder)
    assert len(rows) == len(chosen) > 3
    assert all(row.within for row in rows), [row.note for row in rows]
