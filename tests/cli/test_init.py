"""`rlif init`: what it writes passes its own test, and can be named at once."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from rlif.cli.init import NEXT
from rlif.cli.main import app, main
from rlif.files.own import load
from rlif.rewards.terms import find_term
from rlif.selection.rules import find_rule
from rlif.tasks import find_task
from rlif.tasks.prompts import find_prompt

FIND = {"task": find_task, "rule": find_rule, "prompt": find_prompt}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", NEXT)
def test_the_written_test_passes_and_the_name_that_is_printed_is_found(kind, here, monkeypatch):
    result = CliRunner().invoke(app, ["init", f"my-{kind}"])
    assert result.exit_code == 0, result.output
    test = next(here.rglob("test_*.py"))
    monkeypatch.syspath_prepend(str(test.parent))
    spec = importlib.util.spec_from_file_location(f"written_{test.stem}", test)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert tests
    for each in tests:
        each()
    assert "train demo" not in result.output or f" name=my-{kind} " in result.output
    name = re.search(r"(?:tasks/)?my_\w+\.py:\w+", result.output).group()
    assert FIND.get(kind, find_term)(name) is not None
    assert load(name, kind) is not None and ast.get_docstring(ast.parse(next(here.rglob("my_*.py")).read_text()))


@pytest.mark.sweep
def test_pytest_runs_a_written_test(here):
    CliRunner().invoke(app, ["init", "my-task"])
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tasks/test_my_task.py"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("riddles", "must end with what to write: group-signal, task"),
        ("task", "is not a name for code; use letters, digits and -, for example my-task"),
        ("_task", "is not a name for code"),
        ("1-task", "is not a name for code"),
        ("../a-task", "is not a name for code"),
        ("my-task", "tasks/my_task.py exists already; give another name"),
    ],
)
def test_what_it_refuses(name, message, here, monkeypatch, capsys):
    (here / "tasks").mkdir()
    (here / "tasks/my_task.py").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["rlif", "init", name])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert (here / "tasks/my_task.py").read_text() == "mine" and len(list(here.rglob("*.py"))) == 1
