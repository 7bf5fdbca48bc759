"""Code of one's own by dotted path or file: where it is found, and what is said where it is not."""

from __future__ import annotations

import re

import pytest

from rlif.config.loading import load_recipe
from rlif.errors import RecipeError
from rlif.files import own
from rlif.tasks.prompts import Prompt, find_prompt, spelled_out

CODE = """
from rlif.tasks import Task
from rlif.types import Problem

class Riddles(Task):
    def load(self, split, *, source=None, limit=None, seed=0):
        return [Problem(str(i), f"What is {i} + 1?", str(i + 1)) for i in range(4)][:limit]

def wordy(completions, **_):
    return [1.0 for _ in completions]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("my_module:Name", True),
        ("package.module:Name.protocol", True),
        ("tasks/riddles.py:Riddles", True),
        ("/abs o lute/riddles.py:Riddles", True),
        ("riddles.py", True),
        ("gsm8k.lighteval", False),
        ("trl.rewards.accuracy_reward", False),
        ("owner/model", False),
        ("reasoning_gym/chain_sum", False),
        ("verifiers/my-env", False),
    ],
)
def test_the_form_of_a_name(name, wanted):
    assert own.is_own(name) is wanted


def test_a_file_is_imported_once_and_finds_its_neighbours(here):
    (here / "words.py").write_text("WORDS = []\n")
    (here / "mine_of_test_own.py").write_text("from words import WORDS\nWORDS.append(1)\ndef f(): return WORDS\n")
    (here / "a folder").mkdir()
    found = own.load("mine_of_test_own.py:f", "reward")
    assert found() == own.load(f"{here}/mine_of_test_own.py:f", "reward")() == [1]
    assert found is own.load("a folder/../mine_of_test_own.py:f", "reward")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("x = 1\n1 / 0\n", "f", "importing the task {}:f raises ZeroDivisionError: division by zero at {}, line 2."),
        ("def f(:\n", "f", "importing the task {}:f raises SyntaxError: "),
        ("\nimport no_such_module_\n", "f", "No module named 'no_such_module_' at {}, line 2."),
        ("raise SystemExit(3)", "f", "raises SystemExit: 3 at {}, line 1."),
        ("class Riddles: pass", "Ridles", "has no 'Ridles', which the task {}:Ridles names; did you mean 'Riddles'?"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_sentence_with_file_and_line(here, text, name, message):
    path = here / "faulty.py"
    path.write_text(text)
    with pytest.raises(RecipeError) as found:
        own.load(f"{path}:{name}", "task")
    assert message.format(path, path) in str(found.value) and "\n" not in str(found.value)
    if "Syntax" in message:
        assert str(found.value).endswith(f"at {path}, line 1.")


def test_a_file_that_is_not_there_or_without_a_name(here):
    with pytest.raises(RecipeError, match=r"there is no file gone\.py, which the task gone\.py:f names; give its path"):
        own.load("gone.py:f", "task")
    (here / "mine.py").write_text(CODE)
    with pytest.raises(RecipeError, match=r"name what to use of it as mine\.py:NAME\. It defines Riddles, wordy\."):
        own.load("mine.py", "task")


def test_names_in_a_recipe_are_looked_up_beside_the_recipe_first(here):
    """From another folder they stand for the same; a base's names are beside the base."""
    project, bases = here / "project", here / "bases"
    for folder in (project, bases, here):
        (folder / "tasks").mkdir(parents=True)
        (folder / "tasks/riddles.py").write_text(CODE)
    (project / "beside_the_recipe.py").write_text(CODE)
    (bases / "base.yaml").write_text("task: tasks/riddles.py:Riddles\nprompt: 'tasks/riddles.py:SHORT'\n")
    (project / "mine.yaml").write_text(
        "base: ../bases/base.yaml\nevaluate: {tasks: [Riddles, clock, gone.py:X]}\n"
        "reward: {beside_the_recipe:wordy: 1, tasks/riddles.py:wordy: 0, self_certainty: 1}\n"
    )
    recipe = load_recipe(project / "mine.yaml")
    assert recipe.task == f"{bases}/tasks/riddles.py:Riddles"
    assert recipe.prompt == f"{bases}/tasks/riddles.py:SHORT"
    assert recipe.evaluate.tasks == [f"{project}/tasks/riddles.py:Riddles", "clock", "gone.py:X"]
    assert list(recipe.weights) == [
        f"{project}/beside_the_recipe.py:wordy", f"{project}/tasks/riddles.py:wordy", "self_certainty",
    ]  # fmt: skip
    (project / "farm.yaml").write_text("system: Be brief.\n")
    (project / "short.yaml").write_text("prompt: farm.yaml\n")
    assert load_recipe(project / "short.yaml").prompt == f"{project}/farm.yaml"
    assert load_recipe("demo", ["task=Riddles"]).task == f"{here}/tasks/riddles.py:Riddles"
    assert load_recipe("demo", ["reward=json:dumps"]).reward == "json:dumps"  # on Python's path


def test_a_class_that_two_files_define_is_refused(here):
    (here / "tasks").mkdir()
    for name in ("a", "b"):
        (here / f"tasks/{name}.py").write_text(CODE)
    with pytest.raises(RecipeError, match=r"both tasks/a\.py and tasks/b\.py define Riddles|both .*a\.py and .*b"):
        load_recipe("demo", ["task=Riddles"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("from rlif.tasks.prompts import Prompt\nP = Prompt('Q: {problem}', end='')", Prompt("Q: {problem}", end="")),
        ("P = {'system': 'Be brief.'}", Prompt(system="Be brief.")),
        ("P = {'user': 'no place'}", r"needs \{problem\}"),
        ("P = {'usr': '{problem}'}", "has the texts system, user and end"),
        ("P = 3", "is a int; expected a template's name"),
    ],
)
def test_prompts_of_ones_own(here, text, wanted):
    (here / "prompts.py").write_text(text)
    if isinstance(wanted, str):
        with pytest.raises(RecipeError, match=wanted):
            find_prompt("prompts.py:P")
        return
    assert find_prompt("prompts.py:P") == wanted
    assert find_prompt(spelled_out("prompts.py:P")) == wanted  # as the run folder keeps it
    assert spelled_out("boxed") == "boxed"


def test_a_prompt_in_a_yaml_file(here):
    (here / "p.yaml").write_text("system: Be brief.\n")
    assert find_prompt("p.yaml") == Prompt(system="Be brief.") and spelled_out("p.yaml") == {"system": "Be brief."}


def test_code_of_a_run_folder_is_refused_wherever_its_recipe_points(here, monkeypatch):
    run, elsewhere = here / "runs/run", here / "elsewhere"
    for folder in (run, elsewhere, here / "current"):
        folder.mkdir(parents=True)
        (folder / "evil_kept.py").write_text(f"open({str(here / 'canary')!r}, 'w')")
    inside = "names code that lies in itself"
    for name in (f"{run}/evil_kept.py:f", "runs/run/evil_kept.py:f", "runs.run.evil_kept:f", "runs.run.evil_kept.f"):
        with pytest.raises(RecipeError, match=inside):
            own.check_from_run(name, run)
    monkeypatch.chdir(run)
    with pytest.raises(RecipeError, match=inside):
        own.check_from_run("evil_kept:f", run)
    monkeypatch.chdir(here / "current")
    with pytest.raises(RecipeError, match=rf"outside of the current folder, {re.escape(str(elsewhere))}/evil_kept"):
        own.check_from_run(f"{elsewhere}/evil_kept.py:f", run)
    own.check_from_run(f"{here}/current/evil_kept.py:f", run)
    own.check_from_run("trl.rewards.accuracy_reward", run)
    assert not (here / "canary").exists()


def test_the_code_is_hashed_by_its_file(here):
    (here / "hashed.py").write_text("def f(): pass")
    first = own.code_hashes([f"{here}/hashed.py:f", "gone.py:f", "no_such_module_:f"])
    (here / "hashed.py").write_text("def f(): return 1")
    assert list(first) == [f"{here}/hashed.py:f"] and own.code_hashes(first) != first
