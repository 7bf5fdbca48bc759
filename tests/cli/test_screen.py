"""What the commands print: help and tables that fit 80 columns, the version, and tracebacks for those who ask."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys

import pytest
from support.commands import ROOT, main, run
from typer.main import get_command
from typer.testing import CliRunner

import rlif
from rlif import progress
from rlif.cli.main import app
from rlif.cli.select import _print_accuracies
from rlif.cli.tables import print_text, table_lines
from rlif.config.loading import load_recipe
from rlif.sampling.loading import load_config

COMMANDS = [command.name for command in app.registered_commands]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("RLIF_DEBUG", raising=False)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_whole_phrases(command):
    done = CliRunner().invoke(app, [*([command] if command else []), "--help"])
    assert done.exit_code == 0 and "…" not in done.output
    for line in done.output.splitlines():
        assert len(line) <= 80
        assert not line.endswith("...") or line.startswith("Usage:") or line.endswith("]...")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ([], ["--debug"]),
        (["plan"], ["--gpu", "--gpus", "--prompt-tokens", "--completion-tokens", "--problems"]),
        (["judge"], ["--difficulty"]),
        *(([command], ["--chat"]) for command in ("score", "select", "eval")),
    ],
)
def test_help_of_an_option_says_what_it_does(command, options):
    known = get_command(app).commands[command[0]] if command else get_command(app)
    helps = {name: parameter.help for parameter in known.params for name in parameter.opts}
    assert all(len(helps[option].split()) >= 8 for option in options)


@pytest.mark.parametrize("command", ["recipes", "tasks"])
def test_tables_fit_and_no_cell_is_cut_off(command, monkeypatch, capsys):
    code, out, _ = main(monkeypatch, capsys, command)
    assert code == 0 and "…" not in out and max(map(len, out.splitlines())) <= 80
    names = rlif.TASKS if command == "tasks" else ["intuitor-qwen2.5-3b-math-batch224-offline", "demo"]
    assert all(any(line.split()[0] == name for line in out.splitlines()) for name in names)


def test_a_table_that_is_too_wide_moves_text_to_lines_of_its_own(capsys):
    cell = {"mean": 0.5, "low": 0.25, "high": 0.75}
    name = "bottom_window_confidence_weighted_vote"
    _print_accuracies({"n": [1, 2, 4, 8, 16, 32, 64], "accuracy": {name: [cell] * 7}})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and out.splitlines()[3] == name
    assert out.count("50.0") == out.count("25-75") == 7


def test_a_table_that_is_far_too_wide_names_each_cell():
    headings, row = ["method", "seeds", *"abcdefghij"], ["demo", "0-2", *["12.3 [10.1, 14.2]"] * 10]
    lines = table_lines(headings, [row], 2, 80)
    assert max(map(len, lines)) <= 80 and "demo" in lines
    assert " ".join(" ".join(lines).split()).count("12.3 [10.1, 14.2]") == 10
    assert table_lines(headings, [row], 2, 10**6)[2].split() == " ".join(row).split()


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "intuitor-qwen2.5-3b-math", "--problems", "1000"],
        ["plan", "demo", "--gpus", "1"],
        ["eval", "tiny-reasoner", "--tasks", "clock", "--limit", "2"],
        ["compare", str(ROOT / "results/demo.json")],
        ["select", "-m", "tiny-reasoner", "-t", "clock", "-n", "2", "--limit", "2"],
    ],
)
def test_what_is_printed_fits_and_begins_without_an_empty_line(args, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlif.launching.hardware.config_of", lambda recipe: load_config(load_recipe("demo")))
    code, out, err = main(monkeypatch, capsys, *args)
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert out[0] != "\n" and not err.startswith("\n")


def test_a_paragraph_that_is_too_wide_is_indented_below_its_first_line(capsys):
    print_text("Keys in which demo-collapse differs from demo: " + "; ".join(["training.beta: 0.005"] * 4))
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("0.005;") and rest and all(line.startswith("  ") for line in rest)


def test_version():
    assert run("--version").stdout == f"rlif {rlif.__version__}\n"


@pytest.mark.parametrize("args", [["--debug", "train", "dmo"], ["train", "dmo", "--debug"]])
def test_debug_shows_the_traceback_before_the_sentence(args, monkeypatch, capsys):
    monkeypatch.setenv("RLIF_DEBUG", "0")
    code, _, err = main(monkeypatch, capsys, *args)
    assert code == 2 and err.startswith("Traceback") and "find_recipe" in err
    assert err.splitlines()[-1].startswith("rlif: ") and "did you mean 'demo'" in err.splitlines()[-1]


def test_the_environment_asks_for_tracebacks_too_and_a_cause_is_shown(monkeypatch, capsys):
    monkeypatch.setenv("RLIF_DEBUG", "1")
    code, _, err = main(monkeypatch, capsys, "train", "demo", "model=nobody/nothing")
    assert code == 2 and "direct cause" in err and err.splitlines()[-1].startswith("rlif: cannot load the model")
    monkeypatch.setenv("RLIF_DEBUG", "")
    assert "Traceback" not in main(monkeypatch, capsys, "train", "dmo")[2]


def test_warnings_are_lines_on_the_error_stream_while_a_command_runs(monkeypatch, capsys):
    logger = logging.getLogger("rlif")
    monkeypatch.setattr("rlif.tasks.TASKS", {})
    monkeypatch.setattr("rlif.cli.tasks.print_table", lambda *_, **__: logging.getLogger("rlif.tasks").warning("odd"))
    assert main(monkeypatch, capsys, "tasks")[2] == "rlif: odd\n"
    assert logger.handlers == []


@pytest.mark.parametrize(("configured", "shown"), [(False, "is now called mean_token_confidence\n"), (True, "")])
def test_a_program_that_configures_logging_decides_what_is_shown(configured, shown):
    """Else Python prints warnings on the error stream."""
    code = "import logging, rlif\n"
    code += "logging.getLogger('rlif').addHandler(logging.NullHandler())\n" * configured
    code += "rlif.SIGNALS['group_confidence']"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.endswith(shown) and len(done.stderr.splitlines()) == len(shown.splitlines())


NOTHING = "nothing was written; give the same command again"
ANEW = "the same command begins anew; with --out it goes on where it ended"
MODEL = ["-m", "tiny-reasoner"]
LOADS, DRAWS = "selection.scorer.load_scorer", "selection.drawing.Drawing.draw"
SAMPLES, EVALUATES = ["select", "--samples", "rows.jsonl", "--out=best"], "evaluation.grid.evaluate_candidate"
EVAL = ["eval", "tiny-reasoner", "--tasks=clock"]


@pytest.mark.parametrize(
    ("where", "args", "kept"),
    [
        (LOADS, ["score", "rows.jsonl", *MODEL], ANEW),
        (LOADS, ["score", "rows.jsonl", *MODEL, "-os.jsonl"], "written rows are kept in s.jsonl; give the same"),
        (DRAWS, ["select", *MODEL, "-t", "clock", "--out=best"], "drawn samples are kept in best; give the same"),
        (DRAWS, ["select", *MODEL, "-t", "clock"], ANEW),
        ("selection.scaling.report", SAMPLES, NOTHING),
        (EVALUATES, EVAL, "what was scored is kept; give the same command again"),
        (EVALUATES, [*EVAL, "--overwrite"], "what was scored is kept; --overwrite scores it again"),
        ("evaluation.evaluate.check_gold", ["eval", "--tasks", "clock", "--check-gold"], NOTHING),
        ("tasks.alpaca_eval.AlpacaEval.load", ["judge", "rows.jsonl"], NOTHING),
        ("training.forecast.probe", ["probe", "demo"], "a forecast keeps nothing"),
        ("training.lifecycle.prepare", ["train", "demo"], "interrupted before the run began, so nothing is lost"),
        ("reporting.page.report", ["report", "run"], "no report was written"),
        ("comparison.comparison.compare", ["compare", "demo"], "finished runs are kept in runs/compare"),
        ("comparison.comparison.compare", ["compare", "rows.jsonl"], NOTHING),
    ],
)
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(where, args, kept, monkeypatch, capsys, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"rlif.{where}", interrupt)
    monkeypatch.chdir(tmp_path)
    row = {"id": "1", "prompt": "a", "completion": "b", "right": True, "answer": "b", "self_certainty": 1.0}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    code, out, err = main(monkeypatch, capsys, *args)
    assert code == 130 and kept in out + err
    assert (out + err).count("interrupted") == 1 and (args[0] == "train" or out == "")


@pytest.fixture
def heeds_ctrl_c():
    """Heeds Ctrl-C as in a terminal; a shell's background jobs begin without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_a_library_turns_into_another_error(monkeypatch, capsys, heeds_ctrl_c):
    """As numpy does while it is imported. Without Ctrl-C the same error has its traceback."""

    def import_interrupted(*_, **__):
        with contextlib.suppress(KeyboardInterrupt):
            if pressed:
                signal.raise_signal(signal.SIGINT)
        raise RecursionError("partially imported")

    monkeypatch.setattr("rlif.training.forecast.probe", import_interrupted)
    pressed = True
    code, _, err = main(monkeypatch, capsys, "probe", "demo")
    assert code == 130 and "a forecast keeps nothing" in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    pressed = False
    with pytest.raises(RecursionError):
        main(monkeypatch, capsys, "probe", "demo")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["score"], "missing argument"),
        (["select", "--n", "0"], "invalid value for '--n'"),
        (["score", "--nope"], "no such option"),
        (["scor"], "no such command 'scor'"),
    ],
)
def test_a_wrong_call_is_one_sentence_with_a_hint(args, said, monkeypatch, capsys):
    code, out, err = main(monkeypatch, capsys, *args)
    assert (code, out) == (2, "") and err.startswith(f"rlif: {said}") and len(err.splitlines()) == 1
    assert err.endswith(" --help`.\n")


def test_no_command_shows_the_help(monkeypatch, capsys):
    code, out, err = main(monkeypatch, capsys)
    assert code == 2 and "Train language models by their own confidence." in out + err


def test_quiet_shows_no_progress(monkeypatch, capsys):
    asked = []

    def show(*_, **__):
        asked.append(progress._shown is not None)
        raise rlif.RlifError

    monkeypatch.setattr("rlif.evaluation.reproduce.check_graders", show)
    for options in ([], ["--quiet"]):
        main(monkeypatch, capsys, *options, "check-graders", "here")
    assert asked == [True, False]


def test_the_hub_clients_retries_are_silent_while_a_command_runs(monkeypatch, capsys):
    retries = logging.getLogger("huggingface_hub.utils._http")
    monkeypatch.setattr("rlif.cli.tasks.print_table", lambda *_, **__: retries.warning("Retrying in 1s"))
    handler = logging.StreamHandler(sys.stderr)
    retries.addHandler(handler)
    try:
        assert main(monkeypatch, capsys, "tasks")[2] == ""
        retries.warning("Retrying")
        assert capsys.readouterr().err == "Retrying\n"
    finally:
        retries.removeHandler(handler)


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: demo\ndescription: café\n", encoding="utf-8")
    code = "from rlif.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "recipes", "--show", str(tmp_path / "mine.yaml")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
    )
    assert done.returncode == 0 and r"description: caf\xe9" in done.stdout, done.stderr
