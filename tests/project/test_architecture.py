"""Tests the rules of the project's layout."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rlif.cli.main import app

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rlif"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the lowest floor to the highest. A folder imports from lower floors, or from itself.
FLOORS = [
    ["types", "errors", "intervals", "version", "progress"],
    ["files"],
    ["answers", "sandbox", "scoring", "judging"],
    ["signals", "tasks", "guard"],
    ["graders", "config"],
    ["rewards", "sampling"],
    ["selection", "runs"],
    ["engines", "evaluation", "reporting", "launching", "exporting"],
    ["training", "trl"],
    ["comparison"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
TABLES = ("signals", "graders", "tasks", "cli")  # folders that grow: a file for each thing added
DATA = ("recipes", "models")  # folders without Python
COMMANDS = {(c.callback.__module__, c.callback.__name__) for c in app.registered_commands if c.callback}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_folder_has_a_floor():
    assert {folder_of(path) for path in MODULES} - {"__init__"} == set(FLOOR)


def test_few_modules_lie_outside_of_the_folders():
    assert len([path for path in MODULES if path.parent == PACKAGE]) <= 8


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    own = folder_of(path)
    if own == "__init__":  # it names public functions of every floor and loads them when asked
        return
    others = {found.split(".")[1] for found in imports(path) if found.startswith("rlif.")} & set(FLOOR) - {own}
    assert {other for other in others if FLOOR[other] >= FLOOR[own]} == set()


@pytest.mark.parametrize(("library", "engines"), [("trl", ("trl", "rounds")), ("verl", ("verl",))])
def test_only_an_engines_own_folder_imports_it(library, engines):
    users = {path for path in MODULES if any(re.match(rf"{library}(\.|$)", found) for found in imports(path))}
    folders = {path.relative_to(PACKAGE / "engines").parts[0] for path in users}
    assert folders == set(engines)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_small(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    assert path.name not in ("utils.py", "helpers.py", "common.py", "misc.py", "base.py")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node) or ""
            length = (node.end_lineno or 0) - node.lineno - len(docstring.splitlines())
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_have_at_most_eight_parameters(path):
    """Not counted are self and cls. Functions of commands are exempt: they have a parameter for each option."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
            named += [extra.arg for extra in (node.args.vararg, node.args.kwarg) if extra]
            known = len(named) <= 8 or (f"rlif.{name_of(path)}", node.name) in COMMANDS
            assert known, f"{node.name} has {len(named)} parameters: {', '.join(named)}"


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES} - {PACKAGE}), ids=lambda f: f.name)
def test_folders_stay_small_and_have_a_map(folder):
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert folder.name in TABLES or len(files) <= 10
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    if folder == PACKAGE / "sandbox":
        # The folder is mounted inside the sandbox, so its map is the docstring of runner.py.
        assert text == ""
    else:
        assert ast.get_docstring(ast.parse(text)), "the docstring of __init__.py is the map of the folder"


def test_tests_stay_small_and_mirror_the_package():
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert {path.name for path in tests if len(path.read_text(encoding="utf-8").splitlines()) > 400} == set()
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in tests} - {"conftest.py"}
    assert folders <= {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {"support", "project", "scripts"}


def test_the_readmes_tree_names_the_folders():
    tree = re.search(r"```\n(rlif/\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree
    named = {line.split()[0].rstrip("/") for line in tree.group(1).splitlines()[1:] if line.strip()}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named == folders
