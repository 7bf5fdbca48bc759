"""Follows docs/own.md: writes its files, runs its commands, changes the code, and resumes."""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import rlif
from rlif.errors import DataError, RecipeError
from rlif.runs.folder import Run
from rlif.tasks import find_task

PAGE = (Path(__file__).parents[2] / "docs/own.md").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    for name, code in re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(code)
    return tmp_path


@pytest.mark.sweep
def test_the_commands_of_the_page_run(project):
    """A shell runs them, with the `rlif` of this Python; the run folder then holds what was asked for."""
    (lines,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    command = f'rlif() {{ {shlex.quote(sys.executable)} -m rlif "$@"; }}\nset -e\n{lines}'
    done = subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.open(project / "runs/riddles")
    recipe, row = run.recipe(), run.metrics()[-1]
    assert recipe.prompt == {"user": "First read this. {problem}"}
    assert recipe.task == f"{project}/tasks/riddles.py:Riddles" and [*run.evaluations()] == ["Riddles"]
    for name in ("hesitation.py:hesitation", "agreement.py:agreement", "steps.py:steps", "steps.py:brief"):
        assert f"{project}/{name}" in recipe.weights
        assert any(f"{project}/{name}" in key for key in row), sorted(row)
    assert {*run.fingerprint()["code"]} == {recipe.task, *recipe.weights}
    assert "rules.py:SHARED" in done.stdout or "rules.py:SHARED" in (project / "chosen/selection.md").read_text()


def test_a_resume_with_changed_code_says_so(project, monkeypatch, caplog):
    recipe = rlif.load_recipe("demo", [
        "task=Riddles", "reward=hesitation.py:hesitation", "evaluate={}", "training.max_steps=1", "name=run",
        "problems_per_update=2", "training.per_device_train_batch_size=16", f"output={project}/runs",
        "training.save_steps=1",
    ])  # fmt: skip
    run = rlif.train(recipe)
    (run.path / "summary.json").unlink()
    with (project / "hesitation.py").open("a") as file:
        file.write("\n# another\n")
    with caplog.at_level(logging.INFO, "rlif.training"):
        rlif.train(run.recipe(), resume=run)
    assert re.search(r"not the code that it was started with: .*hesitation\.py:hesitation; the steps", caplog.text)
    monkeypatch.chdir(project / "tasks")
    (run.path / "summary.json").unlink()
    with pytest.raises(RecipeError, match="names code outside of the current folder"):
        rlif.train(run.recipe(), resume=run)


def test_a_task_without_gold_is_refused_under_accuracy(project):
    path = project / "tasks/riddles.py"
    path.write_text(path.read_text().replace(", gold=ball", ""))
    recipe = rlif.load_recipe("demo", ["task=Riddles", "reward=accuracy", "evaluate={}"])
    with pytest.raises(DataError, match="the reward accuracy needs gold answers, and none of the 64 problems of"):
        rlif.train(recipe)


class Sums:
    """Stands in for the client of an OpenEnv server: the sum of a seed's digits, in one turn."""

    made = 0

    def __init__(self, base_url):
        assert base_url.startswith("http")
        Sums.made += 1

    def sync(self):
        return self

    def reset(self, seed):
        self.seed = seed
        return SimpleNamespace(observation={"prompt": f"Add the digits of {seed}."}, reward=None, done=False)

    def step(self, action):
        right = action == {"message": str(sum(map(int, str(self.seed))))}
        return SimpleNamespace(observation={"prompt": ""}, reward=float(right), done=self.seed != 13)


def test_an_environment_of_openenv_gives_prompts_and_grades(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "openenv", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "openenv.core", SimpleNamespace(GenericEnvClient=Sums))
    task = find_task("Echo")
    train, test = task.load("train", limit=14), find_task("Echo").load("test", limit=2)
    assert train[12].text == "Add the digits of 12." and not {p.text for p in train} & {p.text for p in test}
    marks = task.mark([train[12], train[7], train[12]], ["4", " 7 ", "3"])
    assert [mark.right for mark in marks] == [False, True, True] and Sums.made == 1
    with pytest.raises(DataError, match="the environment takes several turns"):
        task.mark(train[13:], ["4"])
    with pytest.raises(DataError, match="gives another prompt for the same seed"):
        task.mark([replace(train[0], text="Add.")], ["0"])
