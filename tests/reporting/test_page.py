"""Tests the report as a file: what it shows of a run, what it leaves out, and how it treats damaged folders."""

from __future__ import annotations

import base64
import hashlib
import html
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
from rlif.reporting.figures import POINTS, Line, curves, figures_data, save, thinned
from rlif.reporting.page import report, safe_json
from rlif.reporting.verdict import reported_runs
from rlif.runs.history import read_history


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def data_of(page: Path) -> dict:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found
    return json.loads(found.group(1))


def keys_of(page: Path) -> list[str]:
    """Lists the figures that a page has; each has its numbers in the page's data."""
    keys = re.findall(r'<figure data-key="([^"]+)"', page.read_text(encoding="utf-8"))
    assert list(data_of(page)["figures"]) == keys
    return keys


def sections_of(page: Path) -> list[str]:
    return re.findall(r'<section id="([a-z]+)">', page.read_text(encoding="utf-8"))


def test_the_page_of_one_run(run):  # two tasks of accuracy, length, answers, separation and calibration
    place, verdicts = report([run])
    assert place == run / "report.html"
    text = place.read_text(encoding="utf-8")
    assert verdicts[0].startswith("Learned: accuracy on clock rose") and verdicts[0] in text
    assert sections_of(place) == [
        "reward",
        "accuracy",
        "length",
        "training",
        "answers",
        "separation",
        "calibration",
        "completions",
        "what",
    ]
    assert len(keys_of(place)) == 1 + 2 + 3 + 7 + 3 + 2 + 2
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


@pytest.mark.sweep
def test_figures_as_files(tmp_path):
    run = make_run(tmp_path / "run", tasks=("clock",))
    (run / "metrics.jsonl").unlink()
    report([run], tmp_path / "page.html", tmp_path / "figures")
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    drawings = "accuracy-clock length-clock answers-clock-0 answers-training-0 separation-clock-0 calibration-clock"
    assert names == set(drawings.split())
    for name in names:
        assert (tmp_path / f"figures/{name}.svg").read_text(encoding="utf-8").startswith("<?xml")
        assert (tmp_path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_pages_are_deterministic_and_their_identifiers_unique(tmp_path):
    run = make_run(tmp_path / "run", tasks=("clock",), collapse=True)
    (run / "metrics.jsonl").unlink()
    first, second = (report([run], tmp_path / name)[0].read_text(encoding="utf-8") for name in ("a.html", "b.html"))
    assert first == second
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
    assert (keys_of(place) == []) == missing.startswith("everything")


def test_nan_rewards_and_torn_lines_are_noted(run):
    rows = [metrics_row(step) | {"reward": None, "self_certainty": None} for step in range(1, 9)]
    write_lines(run / "metrics.jsonl", rows)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "rew')
    place = report([run])[0]
    text = place.read_text(encoding="utf-8")
    assert "reward is not a number in 8 of 8 logged steps." in text and "1 line of metrics.jsonl" in text
    assert "training-entropy" in keys_of(place) and "training-reward" not in keys_of(place)


def test_a_reward_that_is_always_zero_is_shown_and_said(run):
    write_json(run / "recipe.yaml", {"task": "clock", "reward": {"self_certainty": 1, "format": 0.5, "length": 0}})
    rows = [metrics_row(step) | {"format": 0.0, "format_spread": 0.0, "length": 0.0} for step in range(1, 9)]
    write_lines(run / "metrics.jsonl", rows)
    place, verdicts = report([run])
    assert keys_of(place)[:3] == ["training-reward", "training-self-certainty", "training-format"]  # terms first
    measures = re.findall(r"<tr><td>([^<]*)</td><td>[^<]*\u2192", place.read_text(encoding="utf-8"))
    assert measures[:3] == ["Reward", "Self-certainty, nats", "format"]
    assert "training-length" not in keys_of(place) and "Reward = " not in place.read_text(encoding="utf-8")
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
    assert "49" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)


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
    steps = np.arange(3.0 * POINTS)
    values = np.sin(steps)
    values[5000] = 40.0
    values[:200] = np.nan
    thin, means, low, high = thinned(Line("a", steps, values))
    assert len(thin) == len(means) == POINTS and low is not None and high is not None
    assert np.nanmax(high) == 40.0 and np.isnan(means[0]) and np.nanmean(means) == pytest.approx(0, abs=0.01)
    short = Line("a", steps[:5], values[:5])
    assert thinned(short)[0] is short.x


def test_every_value_of_ten_thousand_steps_is_in_the_page():
    """Values keep five digits, a gap is null, and lines that share their steps share one axis."""
    steps, values = np.arange(1.0, 10_001), np.linspace(0, 1, 10_000) / 3
    values[7] = np.nan
    lines = [Line("a", steps, values), Line("b", steps, -values, number=1)]
    data = json.loads(safe_json(figures_data([curves("k", "t", "g", lines), curves("l", "t", "g", lines[:1])])))
    assert list(data["figures"]) == ["k", "l"] and data["axes"] == [steps.tolist()]
    first, second = data["figures"]["k"]["lines"]
    assert first["y"][7] is None and first["y"][9_999] == 0.33333 and second["y"][1] == -0.000033337
    assert "low" not in first and first["dash"] == [] != second["dash"]


def test_every_figure_is_explained_in_a_sentence(run):
    """All parts of a reward are explained, and columns of unknown meaning are said to be unknown."""
    write_json(run / "recipe.yaml", {"task": "clock", "reward": {"self_certainty": 1, "format": 0.5}})
    more = {"format": 0.5, "format_spread": 0.1, "format_weight": 0.5, "format_unscorable": 0.1, "mine": 3.0}
    write_lines(run / "metrics.jsonl", [metrics_row(step) | more for step in (1, 2)])
    built = sections.sections(reported_runs([read_history(run)]))
    figures = {figure.key: figure for section in built for figure in section.figures}
    assert all(figure.gloss.endswith(".") and len(figure.gloss) < 140 for figure in figures.values())
    assert (
        "weight" in figures["training-format-weight"].gloss and "score" in figures["training-format-unscorable"].gloss
    )
    assert figures["training-mine"].gloss == "The run logged this number under its own name."


def test_the_only_term_of_a_reward_is_drawn_with_it(run):
    write_json(run / "recipe.yaml", {"task": "clock", "reward": "group_confidence"})  # the name of an earlier version
    rows = [metrics_row(step) | {"reward": step / 2, "mean_token_confidence": step / 2} for step in (1, 2)]
    write_lines(run / "metrics.jsonl", rows)
    reward = sections.sections(reported_runs([read_history(run)]))[0]
    assert [figure.title for figure in reward.figures] == ["Reward = mean_token_confidence"]
    rows[1]["reward"] = 2.0  # for example where a process left some rows out
    write_lines(run / "metrics.jsonl", rows)
    reward = sections.sections(reported_runs([read_history(run)]))[0]
    assert [figure.title for figure in reward.figures] == ["Reward", "mean_token_confidence"]


def test_the_page_runs_the_script_of_its_policy_and_repeats_the_licence(run):
    page = report([run])[0].read_text(encoding="utf-8")
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0]
    assert html.unescape(policy).startswith(f"default-src 'none'; script-src 'sha256-{digest}';")
    assert "Permission is hereby granted, free of charge" in script and "Leon Sorokin" in script


def test_two_runs_show_completions_of_the_same_steps(run, tmp_path):
    """Completions can only be compared at steps that both runs have kept; gold is there where it was kept."""
    other = make_run(tmp_path / "other", steps=40)
    for step in (2, 3):
        (other / f"completions/step-{step:06d}.jsonl").unlink()
    rows = [completion_row(1, i, random.Random(0)) | {"gold": None} for i in range(8)]
    write_lines(run / "completions/step-000001.jsonl", rows)
    data = data_of(report([run, other], tmp_path / "page.html")[0])
    steps = [[entry["step"] for entry in shown["steps"]] for shown in data["runs"]]
    common = [1, *range(4, 13)]
    assert steps[0] == common and steps[1] == [*common, 40]
    golds = [[c["gold"] for c in shown["steps"][0]["problems"][0]["completions"]] for shown in data["runs"]]
    assert golds == [[None] * 8, ["ten"] * 8]


def test_figures_draw_names_with_special_characters(tmp_path):
    """Mathematical text is drawn as it is, control characters are replaced, and long names are cut."""
    run = make_run(tmp_path / os.fsdecode("a$^{b$ 中文".encode()), tasks=("$\\frac{x",))
    write_lines(run / "metrics.jsonl", [{"step": step, "n\x00ame\ud800" + "x" * 99: step} for step in (1, 2)])
    figures = list(
        itertools.chain(*(section.figures for section in sections.sections(reported_runs([read_history(run)]))))
    )
    strange = [figure for figure in figures if "ame" in figure.title or "frac" in figure.title]
    assert len(strange) >= 4 and all(figure.key.isascii() for figure in figures)
    for figure in strange[:4]:
        assert "\x00" not in json.dumps(figures_data([figure])) and all(
            path.stat().st_size for path in save(figure, tmp_path)
        )


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
    keys = keys_of(report([run, other], tmp_path / "page.html")[0])
    assert "accuracy-gsm8k-zeroeval" in keys and "accuracy-clock" in keys


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
