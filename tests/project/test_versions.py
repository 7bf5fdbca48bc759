"""Tests that `make test-oldest` installs the lower bound of every dependency, and that messages name the same range."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

from rlif.engines.trl.contract import TESTED_TRL

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
OURS = [text for text in REQUIREMENTS if "[" not in text]  # the others repeat one of these with an extra


def test_make_installs_the_lower_bound_of_every_dependency(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["make", ".venv-oldest/constraints.txt"], cwd=tmp_path, check=True, capture_output=True)
    constraints = (tmp_path / ".venv-oldest/constraints.txt").read_text(encoding="utf-8").split()
    assert {text.split(",")[0].replace(">=", "==") for text in OURS} <= set(constraints)


def test_the_message_about_trl_names_the_lower_bound():
    (bound,) = (text for text in OURS if re.match(r"trl\b", text))
    assert bound.startswith(f"trl>={TESTED_TRL.split()[0]},")
