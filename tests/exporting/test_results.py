"""Tests that scores travel: lm-evaluation-harness' layout, its standard error, and its own reader where it is here."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from support.commands import main

from rlif.exporting.results import lm_eval_results, standard_error, write_lm_eval
from rlif.intervals import Interval, clustered_mean, proportion

# Keys that lm_eval/result_schema.py and lm_eval/utils.py (make_table) of version 0.4.13 read.
PER_TASK = {"results", "group_subtasks", "configs", "versions", "higher_is_better", "n-samples"}
OF_THE_MODEL = {"config", "model_source", "model_name", "model_name_sanitized"}


def scores(**more):
    protocol = {"extract": "last_boxed", "version": 3}
    accuracy = proportion(30, 40).as_dict()
    return {"task": "gsm8k", "problems": 40, "protocol": protocol, "decoding": {}, "accuracy": accuracy, **more}


def test_the_layout_is_that_of_the_harness():
    found = lm_eval_results("me/mine", {"gsm8k": scores()})
    assert set(found) == PER_TASK | OF_THE_MODEL | {"rlif_version"}
    assert all(set(found[key]) == {"gsm8k"} for key in PER_TASK)
    values = found["results"]["gsm8k"]
    assert values["accuracy,last_boxed"] == 0.75 and values["alias"] == "gsm8k" and values["sample_len"] == 40
    assert found["n-samples"]["gsm8k"] == {"original": 40, "effective": 40}
    assert found["versions"]["gsm8k"] == 3 and found["model_name_sanitized"] == "me__mine"
    assert found["higher_is_better"]["gsm8k"] == {"accuracy": True}
    share = found["configs"]["gsm8k"]["metadata"]["shares"]["accuracy"]
    assert (share["n"], share["low"], share["high"]) == (40, *[scores()["accuracy"][key] for key in ("low", "high")])


def test_the_standard_error_is_that_of_the_harness():
    """Its mean_stderr is the deviation with n - 1, over the root of n."""
    verdicts = np.array([1] * 30 + [0] * 10)
    assert standard_error(proportion(30, 40)) == pytest.approx(verdicts.std(ddof=1) / math.sqrt(40))


@pytest.mark.parametrize("shares", [[0.25, 0.5, 0.75, 0.5], [1.0, 1.0, 0.75, 1.0], [0.0, 0.25, 0.0, 0.0]])
def test_the_standard_error_of_several_samples_is_over_problems(shares):
    """Also where the interval is cut off at 0 or 1."""
    values = [float(i < 4 * share) for share in shares for i in range(4)]
    found = clustered_mean(values, [problem for problem in range(4) for _ in range(4)])
    assert standard_error(found) == pytest.approx(np.std(shares, ddof=1) / 2)


@pytest.mark.parametrize("share", [Interval(1, 1.0), Interval(8, 1.0, 0.5, 1.0, clusters=2), Interval(4, 0.5)])
def test_an_unknown_standard_error_is_not_made_up(share):
    found = standard_error(share)
    assert found is None or share.clusters is None


def test_several_samples_have_their_scores_too():
    more = {"maj@4": proportion(9, 10).as_dict(), "pass@k": {"1": proportion(5, 10).as_dict()}}
    values = lm_eval_results("x", {"gsm8k": scores(**more)})["results"]["gsm8k"]
    assert values["maj@4,last_boxed"] == 0.9 and values["pass@1,last_boxed"] == 0.5


def test_a_task_that_nothing_could_grade_is_left_out(tmp_path):
    write_lm_eval(tmp_path / "a/b.json", "x", {"one": scores(), "none": scores(accuracy={"n": 0, "mean": None})})
    assert set(json.loads((tmp_path / "a/b.json").read_text())["results"]) == {"one"}


def test_its_own_table_reads_them():
    utils = pytest.importorskip("lm_eval.utils", reason="no lm-evaluation-harness; pip install lm-eval")
    text = utils.make_table(lm_eval_results("me/mine", {"gsm8k": scores()}))
    (row,) = [line for line in text.splitlines() if "gsm8k" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["gsm8k", "3", "last_boxed"] and cells[4] == "accuracy"
    assert float(cells[-3]) == 0.75 and cells[-2:] == ["±", "0.0693"]


def test_the_eval_command_writes_them(tmp_path, monkeypatch, capsys, model_folder):
    target, output = tmp_path / "scores.json", ["--output", str(tmp_path / "evals")]
    command = ["eval", str(model_folder), "--tasks", "clock", "--limit", "4", "--max-tokens", "4", *output]
    code, out, err = main(monkeypatch, capsys, *command, "--lm-eval", str(target))
    assert code == 0 and str(target) in out, err
    found = json.loads(target.read_text())
    (kept,) = (tmp_path / "evals").rglob("clock.json")
    mean = json.loads(kept.read_text())["accuracy"]["mean"]
    assert found["results"]["clock"]["accuracy,last_boxed"] == mean and found["n-samples"]["clock"]["effective"] == 4
    two = ["eval", str(model_folder), "tiny-reasoner", *command[2:], "--lm-eval", str(target)]
    code, _, err = main(monkeypatch, capsys, *two)
    assert code == 2 and "--lm-eval is for one model, and these are 2" in err
