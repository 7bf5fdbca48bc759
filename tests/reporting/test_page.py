"""Tests the report as a file: what it shows of a run, what it leaves out, and how it treats damaged folders."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.folders import HOSTILE, completion_row, make_run, metrics_row, write_json, write_lines

import rlif
from rlif.reporting import completions, sections
from rlif.reporting.figures import POINTS, Line, save, svg, thinned
from rlif.reporting.page import report, safe_json
from rlif.reporting.verdict import reported_runs
from rlif.runs.history import read_history


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Replaces figures by their names, except in tests that use the fixture `drawn`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(
            "rlif.reporting.figures.svg", lambda figure: f"<svg>{figure.key} {figure.alt.count('<')}</svg>"
        )


@pytest.fixture
def drawn():
    """Lets figures be drawn; see `quick`."""


def data_of(page: Path) -> dict:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found
    return json.loads(found.group(1))


def sections_of(page: Path) -> list[str]:
    return re.findall(r'<section id="([a-z]+)">', page.read_text(encoding="utf-8"))


def test_the_page_of_one_run(run):  # two tasks of accuracy, length, answers, separation and calibration
    place, verdicts = report([run])
    assert place == run / "report.html"
    text = place.read_text(encoding="utf-8")
    assert verdicts[0].startswith("Learned: accuracy on clock rose") and verdicts[0] in text
    assert sections_of(place) == [
        "accuracy",
        "length",
        "training",
        "answers",
        "separation",
        "calibration",
        "completions",
        "what",
    ]
    assert text.count("<svg") == 2 + 3 + 8 + 3 + 2 + 2
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text) and "url(http" not in text and "@import" not in text
    for words in ("steps taken", "self_certainty", "2 CPU cores", "abc", "Early learning", "AUROC"):
        assert words in text


def test_several_runs_share_figures_and_annotators_are_compared(run, tmp_path):
    other = make_run(tmp_path / "other/run", annotator="offline", collapse=True)
    place, verdicts = report([run, other], tmp_path / "both.html")
    assert [verdict.split(":")[0] for verdict in verdicts] == ["Learned", "Learned, then collapsed"]
    text = place.read_text(encoding="utf-8")
    assert "annotator" in sections_of(place) and "offline: run (2)" in text and "online: run (1)" in text
    assert "collapse at 8" in text and len(data_of(place)["runs"]) == 2


def test_figures_as_files(tmp_path, drawn):
    run = make_run(tmp_path / "run", tasks=("clock",))
    (run / "metrics.jsonl").unlink()
    report([run], tmp_path / "page.html", tmp_path / "figures")
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    drawings = "accuracy-clock length-clock answers-clock-0 answers-training-0 separation-clock-0 calibration-clock"
    assert names == set(drawings.split())
    for name in names:
        assert (tmp_path / f"figures/{name}.svg").read_text(encoding="utf-8").startswith("<?xml")
        assert (tmp_path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_pages_are_deterministic_and_their_identifiers_unique(tmp_path, drawn):
    run = make_run(tmp_path / "run", tasks=("clock",), collapse=True)
    (run / "metrics.jsonl").unlink()
    first, second = (report([run], tmp_path / name)[0].read_text(encoding="utf-8") for name in ("a.html", "b.html"))
    assert first == second and "currentColor" in first
    names = re.findall(r' id="([^"]+)"', first)
    assert len(names) == len(set(names))
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", first))
    assert {one or other for one, other in used} <= set(names)


@pytest.mark.parametrize(
    "missing",
    [
        "metrics.jsonl",
        "eval",
        "completions",
        "summary.json",
        "environment.json",
        "eval records",
        "everything but the recipe",
    ],
)
def test_missing_files_are_named_and_the_rest_is_shown(run, missing):
    everything = ["metrics.jsonl", "eval", "completions", "summary.json", "environment.json"]
    for name in everything if missing.startswith("everything") else [missing.removesuffix(" records")]:
        paths = [run / name] if (run / name).is_file() else list((run / name).iterdir())
        for path in paths:
            if missing != "eval records" or path.suffix == ".jsonl":
                path.unlink()
    place, verdicts = report([run])
    text = place.read_text(encoding="utf-8")
    assert "Nothing to draw" in text or 'class="missing"' in text
    assert len(verdicts) == 1 and 'class="verdict"' in text
    assert (text.count("<svg") == 0) == missing.startswith("everything")


def test_nan_rewards_and_torn_lines_are_noted(run):
    rows = [metrics_row(step) | {"reward": None, "self_certainty": None} for step in range(1, 9)]
    write_lines(run / "metrics.jsonl", rows)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "rew')
    text = report([run])[0].read_text(encoding="utf-8")
    assert "reward is not a number in 8 of 8 logged steps." in text and "1 line of metrics.jsonl" in text
    assert ">training-entropy " in text and ">training-reward " not in text


def test_a_reward_that_is_always_zero_is_shown_and_said(run):
    write_json(run / "recipe.yaml", {"task": "clock", "reward": {"self_certainty": 1, "format": 0.5, "length": 0}})
    rows = [metrics_row(step) | {"format": 0.0, "format_spread": 0.0, "length": 0.0} for step in range(1, 9)]
    write_lines(run / "metrics.jsonl", rows)
    place, verdicts = report([run])
    text = place.read_text(encoding="utf-8")
    assert ">training-format " in text and ">training-reward " in text and ">training-length " not in text
    assert "Reward = self-certainty" not in text
    assert verdicts[0].endswith("The reward format never varied: it is 0 at every step.")
    write_lines(run / "metrics.jsonl", [row | {"format_spread": 0.1} for row in rows])
    assert "never varied" not in report([run])[1][0]


def test_hostile_text_stays_text(run):
    rows = [completion_row(1, i, random.Random(0), text) for i, text in enumerate(HOSTILE)]
    for row, text in zip(rows, HOSTILE, strict=True):
        row |= {"answer": text, "problem": text, "prompt": [{"role": text, "content": text}]}
    write_lines(run / "completions/step-000001.jsonl", rows)
    write_json(run / "recipe.yaml", {"task": HOSTILE[0], "model": HOSTILE[1], "training": {"beta": HOSTILE[2]}})
    write_lines(run / "metrics.jsonl", [metrics_row(step) | {HOSTILE[0]: step, HOSTILE[1]: 2.0} for step in (1, 2)])
    place = report([run])[0]
    page = place.read_text(encoding="utf-8")
    assert page.count("<script") == 2 and page.count("</script") == 2 and "<img" not in page
    shown = [c["text"] for p in data_of(place)["runs"][0]["steps"][0]["problems"] for c in p["completions"]]
    assert shown == HOSTILE
    assert "49" not in re.sub(r"<svg.*?</svg>|<script.*?</script>", "", page, flags=re.DOTALL)


def test_json_cannot_end_its_element():
    text = safe_json({"a": HOSTILE, "</script>": "<!--"})
    assert not set("<>&") & set(text) and text.isascii()
    assert json.loads(text) == {"a": HOSTILE, "</script>": "<!--"}


def test_rows_of_old_and_damaged_folders(run):
    """Without tokens the text is shown plain; a row without a completion is left out."""
    old = {"prompt": "Go.", "completion": "text", "truncated": False, "reward": 1.0, "advantage": 0.0, "answer": None}
    broken = [
        old | {"token_chars": [2, 1], "token_self_certainty": [1.0, 2.0]},  # do not cover the text
        old | {"token_chars": [4], "token_self_certainty": [1.0, 2.0]},
        old | {"token_chars": "4", "token_self_certainty": {}},
        old | {"reward": "high", "advantage": None, "right": "yes", "completion_ids": 5, "prompt": {"a": 1}},
        {"completion": 7},
        {"reward": 1},
    ]
    write_lines(run / "completions/step-000001.jsonl", [old, *broken])
    problems = data_of(report([run])[0])["runs"][0]["steps"][0]["problems"]
    shown = [completion for problem in problems for completion in problem["completions"]]
    assert len(shown) == 5 and all("pieces" not in completion for completion in shown)
    assert shown[-1]["reward"] is None and shown[-1]["right"] is None


def test_tokens_join_to_the_text_and_share_characters():
    row = {"completion": "é, go", "token_chars": [0, 1, 1, 3, 0], "token_self_certainty": [1.0, 3.0, 5.0, None, 9.0]}
    assert completions._pieces(row) == [("é", 2.0), (",", 5.0), (" go", None), ("", 9.0)]


def test_pages_are_bounded(run):
    """A page shows a sample of many steps, many rows and long texts, and a sentence about it."""
    long = completion_row(1, 0, random.Random(0), "word " * 1300)
    for step in range(1, 301):
        write_lines(run / f"completions/step-{step:06d}.jsonl", [long | {"step": step}] * (50 if step == 1 else 1))
    shown = completions.completions_data(reported_runs([read_history(run)]))["runs"][0]
    steps = [entry["step"] for entry in shown["steps"]]
    assert len(steps) <= completions.STEPS + 1 and steps[0] == 1 and steps[-1] == 300
    assert len(shown["steps"][0]["problems"][0]["completions"]) == completions.PER_STEP
    assert all(
        len(c["text"]) == completions.LONGEST and c["cut"] for c in shown["steps"][0]["problems"][0]["completions"]
    )
    assert "300 steps" in shown["note"]


def test_whole_groups_are_shown(run):
    problems = data_of(report([run])[0])["runs"][0]["steps"][0]["problems"]
    assert [len(problem["completions"]) for problem in problems] == [8, 8]
    assert problems[0]["id"] == "clock/0" and problems[1]["prompt"][0]["text"] == "Problem 1 of step 1?"


def test_curves_are_thinned_and_keep_their_range():
    steps = np.arange(10_000.0)
    values = np.sin(steps)
    values[5000] = 40.0
    values[:200] = np.nan
    thin, means, low, high = thinned(Line("a", steps, values))
    assert len(thin) == len(means) == POINTS and low is not None and high is not None
    assert np.nanmax(high) == 40.0 and np.isnan(means[0]) and np.nanmean(means) == pytest.approx(0, abs=0.01)
    short = Line("a", steps[:5], values[:5])
    assert thinned(short)[0] is short.steps


def test_figures_draw_names_with_special_characters(tmp_path, drawn):
    """Mathematical text is drawn as it is, control characters are replaced, and long names are cut."""
    run = make_run(tmp_path / os.fsdecode("a$^{b$ 中文".encode()), tasks=("$\\frac{x",))
    write_lines(run / "metrics.jsonl", [{"step": step, "n\x00ame\ud800" + "x" * 99: step} for step in (1, 2)])
    figures = list(
        itertools.chain(*(section.figures for section in sections.sections(reported_runs([read_history(run)]))))
    )
    strange = [figure for figure in figures if "ame" in figure.title or "frac" in figure.title]
    assert len(strange) >= 4 and all(figure.key.isascii() for figure in figures)
    for figure in strange[:4]:
        assert "\x00" not in svg(figure) and all(path.stat().st_size for path in save(figure, tmp_path))


def test_columns_without_a_title_are_drawn_unless_they_are_zero(run):
    rows = [metrics_row(step) | {"negative_entropy": -step, "constant": 0.0, "epoch": step} for step in range(1, 5)]
    write_lines(run / "metrics.jsonl", rows)
    training = next(
        section for section in sections.sections(reported_runs([read_history(run)])) if section.key == "training"
    )
    keys = [figure.key for figure in training.figures]
    assert "training-negative-entropy" in keys and not {"training-constant", "training-epoch"} & set(keys)


def test_two_runs_of_different_tasks(run, tmp_path):
    other = make_run(tmp_path / "other", tasks=("gsm8k.zeroeval",), task="gsm8k")
    text = report([run, other], tmp_path / "page.html")[0].read_text(encoding="utf-8")
    assert ">accuracy-gsm8k-zeroeval" in text and ">accuracy-clock" in text


def test_errors_of_writing_and_of_missing_packages(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(rlif.RlifError, match="cannot write"):
        report([run], tmp_path / "file/page.html")
    with pytest.raises(rlif.RlifError, match="at least one run folder"):
        report([])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(rlif.RlifError, match=r"pip install 'rlif\[report\]'"):
        report([run])


def test_reports_load_no_torch(tmp_path):
    run = make_run(tmp_path / "run", tasks=(), steps=1)
    code = (
        "import sys; from rlif.reporting.page import report; from rlif.reporting.watch import watch;"
        f"report([{str(run)!r}]); watch({str(run)!r}, once=True);"
        "print(sorted(set(sys.modules) & {'torch', 'trl', 'transformers', 'pandas'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_few_of_a_hundred_thousand_completions_are_shown(run):
    row = json.dumps({"prompt": "Go.", "completion": "text", "truncated": False, "reward": 1.0})
    (run / "completions/step-000002.jsonl").write_text((row + "\n") * 100_000)
    shown = data_of(report([run])[0])["runs"][0]
    assert [len(p["completions"]) for p in shown["steps"][1]["problems"]] == [completions.PER_STEP]
