"""Tests docs/signals.md: its tables are complete, its worked example works; and the docstrings of signals."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlif
from rlif.config.loading import check_recipe
from rlif.files.yaml import parse_yaml
from rlif.graders import GRADERS
from rlif.rewards.terms import check_terms
from rlif.signals import GROUP_SIGNALS, NEEDS, SIGNALS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/signals.md").read_text(encoding="utf-8")
SIGNAL_FILES = sorted([*(ROOT / "rlif/signals").glob("*.py"), *(ROOT / "rlif/graders").glob("*.py")])
OTHER_FILES = {
    "__init__.py": "tables",
    "batch.py": "what graders see",
    "external.py": "what others wrote",
    "own_signal.py": "what users write",
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def rows():
    """Rows of the page's tables by the name in their first cell, without the worked example."""
    lines = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL).splitlines()
    cells = [line.strip("|").split(" | ") for line in lines if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row] for row in cells}


def test_every_signal_and_grader_has_a_row():
    assert set(rows()) - {"module:function"} == {*SIGNALS, *GROUP_SIGNALS, *GRADERS}
    assert {len(row) for row in rows().values()} == {5}
    for name, field in NEEDS.items():
        assert rows()[name][2] == f"`{field.removesuffix('_BT')}`"


@pytest.mark.parametrize("path", [p for p in SIGNAL_FILES if p.name not in OTHER_FILES], ids=lambda path: path.stem)
def test_docstrings_of_signals_and_graders_are_complete(path):
    """They give a formula, the paper, the range, how the paper uses it, and how it fails."""
    docstring = path.read_text(encoding="utf-8").split('"""')[1]
    assert re.search(r"^    \S", docstring, re.MULTILINE), "no formula"
    for word in ("Source:", "Range:", "Defaults there:", "Watch:"):
        assert docstring.count(word) == 1, f"{word} is there {docstring.count(word)} times"


@pytest.mark.parametrize("text", blocks("yaml"))
def test_recipes_of_the_page_load(text):
    recipe = check_recipe(parse_yaml(text, "docs/signals.md"))
    check_terms(recipe, rlif.TASKS[recipe.task])


def insert(path: Path, text: str, before: str) -> None:
    """Inserts text into a file before another text, which must occur once."""
    whole = path.read_text(encoding="utf-8")
    assert whole.count(before) == 1
    path.write_text(whole.replace(before, text + before))


TRAINING = (
    "engines/trl/test_rewards.py::test_all_token_signals_can_be_trained_on_together",
    "engines/trl/test_rewards.py::test_rewards_of_weight_zero_do_not_change_the_training[decode]",
)
WITH_IT = (
    "test_mean_probability",
    "test_a_peaked_distribution_has_the_larger_signal[mean_probability]",
    "test_every_signal_and_grader_has_a_row",
    "test_docstrings_of_signals_and_graders_are_complete[mean_probability]",
    "test_imports_point_down[signals.mean_probability]",
    "test_the_readmes_tree_names_the_folders",
    *(name.split("::")[1] for name in TRAINING),
)

FILES = (
    "signals/test_signals.py",
    "project/test_architecture.py::test_imports_point_down",
    "project/test_architecture.py::test_files_and_functions_stay_small",
    "project/test_architecture.py::test_the_readmes_tree_names_the_folders",
    "project/test_docs.py",
    "rewards/test_terms.py",
)


def passed_in(project: Path, *names: str) -> set[str]:
    """Runs tests in a copy of the project; all must pass. Returns their names."""
    plain = ["--override-ini", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider", "--verbose"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *plain,
            "--deselect",
            "tests/project/test_docs.py::test_the_worked_example_passes_its_tests",
        ]
        + [f"tests/{name}" for name in names],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return set(re.findall(r"::(\S+) PASSED", done.stdout))


@pytest.mark.sweep
def test_the_worked_example_passes_its_tests(tmp_path):
    """A copy of the project gets the file, line, row and test that the page shows."""
    for name in ("rlif", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    file, import_, line, test = blocks("python")
    (row,) = blocks("markdown")
    (tmp_path / "rlif/signals/mean_probability.py").write_text(file)
    insert(tmp_path / "rlif/signals/__init__.py", import_, before="from rlif.signals.negative_entropy import")
    insert(tmp_path / "rlif/signals/__init__.py", line, before="}\n\n\ndef _measure(")
    insert(tmp_path / "docs/signals.md", row, before="| **group signals**")
    with (tmp_path / "tests/signals/test_signals.py").open("a") as tests:
        tests.write("\n\n" + test)
    passed = passed_in(tmp_path, *FILES, *TRAINING)
    assert set(WITH_IT) <= passed
