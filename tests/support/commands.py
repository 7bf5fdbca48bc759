"""Runs the command line in this process or in a new one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlif.cli import main as cli

ROOT = Path(__file__).parents[2]


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = "from rlif.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=cwd or ROOT)


def main(monkeypatch, capsys, *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["rlif", *args])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    output = capsys.readouterr()
    err = re.sub(r"^rlif: [a-z ]+: \d+ s\n", "", output.err, flags=re.MULTILINE)  # said on a slow machine alone
    return int(exit_.value.code or 0), output.out, err
