"""Tests the view of a run in the terminal."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from rich.console import Console
from support.commands import main
from support.folders import make_run, metrics_row, write_lines

import rlif
from rlif.cli import main as cli
from rlif.reporting.verdict import reward_terms
from rlif.reporting.watch import BARS, sparkline, watch
from rlif.runs.history import read_history


def shown(*paths, **settings) -> str:
    console = Console(file=io.StringIO(), width=120, **settings)
    watch(paths, once=True, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_running_run(tmp_path):
    text = shown(make_run(tmp_path / "run", finished=False))
    assert "run: step 12 of 12, logged " in text
    for name in ("reward", "self_certainty", "kl", "tokens_per_second", "accuracy clock", "accuracy cups"):
        assert name in text
    assert BARS[-1] in text and "path" not in text


def test_a_finished_run_and_one_without_steps(tmp_path):
    assert "run: finished at step 12 of 12" in shown(make_run(tmp_path / "run"))
    empty = make_run(tmp_path / "empty", steps=0, tasks=(), finished=False)
    (empty / "metrics.jsonl").unlink()
    assert "empty: no step yet" in shown(empty)


def test_several_runs_stand_side_by_side(tmp_path):
    """A row per measure and run, the terms of the reward first; a measure that one run lacks has one row."""
    first = make_run(tmp_path / "first", tasks=(), reward={"format": 0.5, "self_certainty": 1})
    rows = [metrics_row(step) | {"format": 0.25} for step in (1, 2)]
    write_lines(first / "metrics.jsonl", rows)
    second = make_run(tmp_path / "second/first", tasks=("clock",), finished=False)
    text = shown(first, second)
    assert "first (1): finished at step 12" in text and "first (2): step 12 of 12, logged" in text
    lines = [line.split() for line in text.splitlines() if line.strip()]
    table = lines[next(i for i, line in enumerate(lines) if "now" in line) + 2 :]
    assert [line[0] for line in table[:4]] == ["reward", "first", "format", "self_certainty"]
    assert table[2][:4] == ["format", "first", "(1)", "0.25"]
    assert table[4][:2] == ["first", "(2)"] and table[-1][:2] == ["accuracy", "clock"]


def test_rewards_that_only_log_are_not_terms(tmp_path):
    """A weight may be a number, a schedule, or part of an entry for some rows."""
    reward = {
        "format": {"weight": 0, "rows": "labelled"},
        "accuracy": {"rows": "labelled"},
        "length": 0,
        "self_certainty": {"linear": [[0, 1.0], [5, 0.0]]},
    }
    history = read_history(make_run(tmp_path / "run", reward=reward))
    assert reward_terms(history) == ["accuracy", "self_certainty"]


def test_the_view_of_several_waits_for_each(tmp_path, monkeypatch):
    """It shows the run that there is, names the one that is missing, and ends when both are finished."""
    made = make_run(tmp_path / "made")
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    keys = iter([lambda: None, lambda: make_run(tmp_path / "late") and None])
    monkeypatch.setattr("rlif.reporting.watch._keys", lambda: nullcontext(lambda seconds: next(keys)() or ""))
    watch([made, tmp_path / "late"], console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "waiting for" in text and "late: finished at step 12" in text and list(keys) == []


def test_the_view_says_why_it_waits_where_a_run_cannot_be_read(tmp_path, monkeypatch):
    """The folder is there and holds no run yet."""
    (tmp_path / "late").mkdir()
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    keys = iter([lambda: (tmp_path / "late").rmdir() or (make_run(tmp_path / "late") and None)])
    monkeypatch.setattr("rlif.reporting.watch._keys", lambda: nullcontext(lambda seconds: next(keys)() or ""))
    watch(tmp_path / "late", console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "waiting: " in text and "late is not a run folder" in text and "waiting for" not in text
    assert "late: finished at step 12" in text and list(keys) == []


def test_the_view_ends_with_the_run(tmp_path):
    """In a terminal, a finished run is shown once more, then the view ends."""
    run = make_run(tmp_path / "run")
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    watch(run, console=console, every=0.01)
    assert "finished at step 12" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_view_waits_for_the_folder_and_for_the_end(tmp_path, monkeypatch):
    """There is no folder at first, then a running run, then its summary."""
    seen = []

    def wait(seconds: float) -> str:
        seen.append(seconds)
        if len(seen) == 1:
            make_run(tmp_path / "run", finished=False)
        elif len(seen) == 2:
            (tmp_path / "run/summary.json").write_text('{"steps": 12}')
        return ""

    monkeypatch.setattr("time.sleep", wait)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    watch(tmp_path / "run", console=console)
    assert len(seen) == 2


def test_q_ends_the_view(tmp_path, monkeypatch):
    keys = iter(["", "x", "q"])
    monkeypatch.setattr("rlif.reporting.watch._keys", lambda: nullcontext(lambda seconds: next(keys)))
    watch(make_run(tmp_path / "run", finished=False), console=Console(file=io.StringIO(), force_terminal=True))
    assert list(keys) == []


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(rlif.RlifError, match="is not a run folder"):
        watch(tmp_path, once=True)


def test_a_folder_without_a_run_hides_no_other_run(tmp_path):
    text = shown(tmp_path / "none", make_run(tmp_path / "run", finished=False))
    assert "run: step 12 of 12, logged " in text and "none is not a run folder" in " ".join(text.split())


def test_tracebacks_of_rewards_are_named_by_watch_and_report(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run", tasks=(), finished=False)
    (run / "errors").mkdir()
    for step in (12, 13):
        (run / f"errors/reward-step-0000{step}.txt").write_text("Traceback")
    named = "see errors/reward-step-000012.txt, errors/reward-step-000013.txt in the run folder."
    for command in (["watch", str(run), "--once"], ["report", str(run)]):
        out = main(monkeypatch, capsys, *command)[1]
        assert named in " ".join(out.split())
    assert named in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0.0, 1.0, 2.0], "▁▅█"),
        ([3.0, 3.0], "▁▁"),
        ([], ""),
        ([np.nan], ""),
        ([np.nan, 1.0, 0.0], "█▁"),
        ([-1e308, 1e308], "▁█"),
    ],
)
def test_sparklines(values, line):
    assert sparkline(np.array(values)) == line


def test_sparklines_have_a_width():
    line = sparkline(np.arange(1000.0))
    assert len(line) == 32 and line[0] == BARS[0] and line[-1] == BARS[-1] and list(line) == sorted(line)


def test_the_commands_report_and_watch(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run", tasks=())
    (run / "metrics.jsonl").unlink()
    monkeypatch.setattr(sys, "argv", ["rlif", "report", str(run), "--figures", str(tmp_path / "figures")])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out = capsys.readouterr().out
    assert exit_.value.code == 0 and "Nothing was logged" in out and f"the report: {run / 'report.html'}" in out
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "answers-training-0.svg",
        "answers-training-0.png",
    }
    monkeypatch.setattr(sys, "argv", ["rlif", "watch", str(tmp_path / "nothing"), "--once"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2 and "is not a run folder" in capsys.readouterr().err
