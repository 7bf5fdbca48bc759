"""Tests that the planner says "fits" to each command of the pages that needs a GPU."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from support.commands import main

from rlif.config.about import read_about
from rlif.config.loading import load_recipe, shipped_recipes
from rlif.config.steps import plan_steps
from rlif.errors import DataError
from rlif.launching.commands import wants_server

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = {24: "4090", 40: "a100-40", 80: "h100"}  # GB that a recipe is for
OWN_PROMPTS = "rlif train intuitor-qwen2.5-3b-prompts-24gb source=prompts.txt"


@cache
def commands() -> tuple[str, ...]:
    """Finds the commands of the pages: indented, fenced and inline; without comments, variables and redirections."""
    found = set()
    for page in PAGES:
        if page.name == "log.md":
            continue
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
        lines = re.findall(r"^ {4}(.*)$", text, re.MULTILINE) + fenced.splitlines()
        lines += [" ".join(code.split()) for code in re.findall(r"`(rlif [^`]+)`", text)]
        for line in lines:
            if start := re.match(r"(?:\w+=\S+ )*(rlif .*)", line):
                found.add(re.sub(r"\s+(#|>).*", "", start.group(1)))
    return tuple(sorted(found))


def words_of(command: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Splits a command into names of recipes that ship, options, and changes to the recipe."""
    words, options, recipes, changes = shlex.split(command)[2:], {}, [], []
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            takes = words and word not in ("--dry-run", "--slurm") and "=" not in word
            options[word] = words.pop(0) if takes else ""
        elif "=" in word:
            changes.append(word)
        elif word in shipped_recipes():
            recipes.append(word)
    return recipes, options, changes


def on_gpus() -> list[str]:
    """Lists the commands that train or probe a shipped recipe which does not say that it is for the CPU."""
    found = []
    for command in commands():
        kind = command.split()[1]
        if kind not in ("train", "launch", "probe", "compare", "plan"):
            continue
        recipes, options, changes = words_of(command)
        if "--dry-run" in options and kind == "train":
            continue  # loads nothing
        known = [load_recipe(name, changes) for name in recipes]
        if any(recipe.engine == "verl" or recipe.rounds for recipe in known):
            continue  # `rlif plan` knows online training with TRL alone, and refuses these
        if any(not recipe.training.get("use_cpu") for recipe in known):
            found.append(command)
    return found


def test_the_commands_that_users_need_are_there():
    kinds = [command.split()[1] for command in on_gpus()]
    assert {"train", "launch", "plan"} <= set(kinds)
    recipes = {words_of(command)[0][0] for command in on_gpus()}
    assert {f"intuitor-qwen2.5-3b-{end}" for end in ("math", "math-80gb", "math-24gb", "prompts-24gb")} <= recipes
    assert OWN_PROMPTS in on_gpus()


@pytest.mark.parametrize("command", on_gpus())
def test_a_command_of_the_pages_fits(command, monkeypatch, capsys):
    """On the hardware that its recipe names, or with `rlif plan` on that of the command."""
    recipes, options, changes = words_of(command)
    for name in recipes:
        about = read_about(name)
        if command.startswith("rlif plan"):
            wanted = [part for pair in options.items() for part in pair]
        else:
            processes = int(options.get("--processes", 1))
            server = int(options.get("--server-gpus", 1)) if wants_server(load_recipe(name, changes)) else 0
            wanted = ["--gpus", str(processes + server), "--strategy", options.get("--strategy", "ddp")]
            wanted += ["--gpu", CARDS[about.memory or 0]]
        code, out, err = main(monkeypatch, capsys, "plan", name, *changes, *wanted, "--problems", "7500")
        assert code == 0, err
        assert re.search(r"^  fits, ", out, re.MULTILINE), out


def test_a_command_that_does_not_fit_is_found(monkeypatch, capsys):
    with pytest.raises(AssertionError, match="does not fit"):
        test_a_command_of_the_pages_fits("rlif train intuitor-qwen2.5-3b-math", monkeypatch, capsys)


def test_the_number_of_own_prompts_is_that_of_the_recipe():
    recipes, _, changes = words_of(OWN_PROMPTS)
    recipe = load_recipe(recipes[0], changes)
    (number,) = re.findall(r"needs (\d+) prompts or more", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert plan_steps(recipe, int(number), 1).steps == 1
    with pytest.raises(DataError, match="too few"):
        plan_steps(recipe, int(number) - 1, 1)


def test_own_prompts_are_put_as_they_stand():
    """No command of the pages puts prompts of the user's own in a template for mathematics."""
    for command in commands():
        recipes, _, changes = words_of(command)
        for recipe in (load_recipe(name, changes) for name in recipes):
            assert recipe.task != "prompts" or recipe.prompt in (None, "plain"), command
