"""Tests docs/stories.md: each section runs, from top to bottom, in a folder of its own.

A block that begins with a comment that names a file is written there. Others are run: sh by a shell, with the `rlif` of
this Python, and python by this Python. The hub is a stand-in on this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import ROOT
from support.hub import TOKEN, Hub, serving

TEXT = (ROOT / "docs/stories.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
PYTHON = shlex.quote(sys.executable)
SHELL = f'rlif() {{ {PYTHON} -m rlif "$@"; }}\npython() {{ {PYTHON} "$@"; }}\nset -e\n'


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_block(language: str, text: str, folder: Path) -> None:
    if named := re.match(r"# ([\w-]+\.\w+)\n", text):
        (folder / named.group(1)).write_text(text)
        return
    commands = {"sh": ["bash", "-c", SHELL + text], "python": [sys.executable, "-c", text]}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(commands[language], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, text + done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("title", "text"),
    [
        pytest.param(title, text, id=title, marks=[] if title == "Your own script" else pytest.mark.sweep)
        for title, text in SECTIONS
    ],
)
def test_a_section_runs(title, text, tmp_path, monkeypatch):
    assert {language for language, _ in blocks(text)} <= {"sh", "python", "yaml"} and "sh" in dict(blocks(text))
    with serving() as address:
        for name, value in {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN}.items() if "hub" in title else ():
            monkeypatch.setenv(name, value)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if "hub" in title else ():
            monkeypatch.delenv(name, raising=False)
        for language, block in blocks(text):
            run_block(language, block, tmp_path)
    if "hub" in title:
        assert Hub.repositories["me/my-model"]["private"] and "README.md" in Hub.repositories["me/my-model"]["files"]
    if "tracker" in title:
        assert list((tmp_path / "runs/tracked").rglob("events.out.tfevents.*")), "find fails for no file too"


@pytest.mark.parametrize("text", ["false\n", "rlif train nothing\n", "x=$(rlif --nothing)\n"])
def test_a_command_that_fails_fails_its_section(text, tmp_path):
    with pytest.raises(AssertionError):
        run_block("sh", text, tmp_path)


def test_every_block_is_in_a_section():
    assert len(SECTIONS) >= 7 and "Your own script" in dict(SECTIONS)
    assert sum(len(blocks(text)) for _, text in SECTIONS) == len(blocks(TEXT))
