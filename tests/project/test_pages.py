"""Tests the pages: trees and paths exist, links have targets, and shown commands and code run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from project.test_architecture import FLOORS
from support import small_rounds
from support.models import byte_tokenizer, tiny_model

from rlif.cli.main import app
from rlif.engines.rounds.choices import CHOICES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rlif"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def tree(text: str) -> list[str]:
    """Reads the paths of a tree drawn by indentation; folders end with a slash."""
    above: list[str] = []
    found = []
    for line in text.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        above = [*above[:depth], line.split()[0]]
        found.append("".join(above))
    return found


def on_disk() -> list[str]:
    """Lists folders and modules of the package; of all `__init__.py` only the package's own is listed."""
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent == PACKAGE]
    folders = [path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    named = [str(path.relative_to(PACKAGE)) for path in modules]
    return named + [f"{path.relative_to(PACKAGE)}/" for path in folders]


def test_the_architectures_tree_names_every_file():
    (block,) = (text for text in blocks(ROOT / "docs/architecture.md", "") if text.startswith("rlif/\n"))
    drawn = tree(block)
    grown = re.compile(r"(signals|graders)/\w+\.py")  # new ones need no line here, only in docs/signals.md
    new = {path for path in on_disk() if not grown.fullmatch(path)} - set(drawn)
    assert {"gone": sorted(set(drawn) - set(on_disk())), "new": sorted(new)} == {"gone": [], "new": []}
    assert len(drawn) == len(set(drawn))
    assert max(map(len, block.splitlines())) <= 80


def test_the_architectures_floors_are_those_of_the_test():
    rows = re.findall(r"^\| \d+ \| (.*) \|$", ARCHITECTURE, re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == FLOORS


def test_the_drawing_shows_the_folders():
    """Except for the data, and for files/, which every folder uses."""
    drawing = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    names = " ".join(re.findall(r'class="name"[^>]*>([^<]*)<', drawing)).replace("the run folder", "")
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(re.findall(r"\w+", names)) == folders - {"files", "recipes", "models"}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_text_exist(page):
    """The log is exempt, as its old entries stay unchanged."""
    if page.name != "log.md":
        named = re.findall(r"`((?:rlif|tests|scripts|benchmarks|examples)/[\w./-]+)`", page.read_text(encoding="utf-8"))
        made = {"rlif/signals/mean_probability.py"}  # the worked example makes it
        assert {path for path in named if not (ROOT / path).exists()} - made == set()


def test_the_readme_has_at_most_150_lines():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150


@pytest.mark.sweep
def test_the_readmes_five_lines_train_on_own_prompts(tmp_path):
    """A shell runs the lines, with the `rlif` of this Python."""
    (lines,) = blocks(ROOT / "README.md", "sh")
    assert len(lines.splitlines()) == 5
    command = f'rlif() {{ {shlex.quote(sys.executable)} -m rlif "$@"; }}\nset -e\n{lines}'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs/mine"
    assert (run / "model/model.safetensors").exists() and (run / "report.html").exists()
    assert "finished at step 5 of 5" in done.stdout


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.stem)
def test_python_of_a_page_runs(page, monkeypatch):
    """Blocks run from top to bottom. Other tests run those of signals.md, stories.md and relatives.md."""
    monkeypatch.chdir(ROOT)
    if page.name not in ("signals.md", "stories.md", "relatives.md"):
        code = compile("\n".join(blocks(page, "python")), page.name, "exec")
        exec(code, {"model": tiny_model(), "tokenizer": byte_tokenizer()})


def test_the_choice_of_the_page_about_rounds_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(CHOICES, "shortest", None)  # so that it is gone afterwards
    exec("\n".join(blocks(ROOT / "docs/relatives.md", "python")), {})
    keys = ["algorithm=dpo", "rounds.reference=base", "rounds.choose=shortest", "rounds.number=1", "evaluate={}"]
    run = small_rounds.train(
        "tiny-reasoner", tmp_path, "max_prompt_tokens=64", *keys, "training.max_completion_length=56"
    )
    pairs = small_rounds.lines(run.at("rounds", "round-001", "data.jsonl"))
    assert pairs and all(len(pair["chosen_ids"]) < len(pair["rejected_ids"]) for pair in pairs)


def commands() -> list[str]:
    """Finds all `rlif` commands of the pages, one line each, without comments."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "log.md").replace("\\\n", " ")
    lines = re.findall(r"^ {4}(rlif .*)$", text, re.MULTILINE)
    return sorted({re.sub(r"\s+#.*", "", line) for line in lines})


@pytest.mark.sweep
@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("rlif plan")])
def test_plans_of_the_pages_fit(command):
    words = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "rlif", *words, "--problems", "7500"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  fits, ", done.stdout, re.MULTILINE), done.stdout


def test_options_of_commands_on_the_pages_exist():
    table = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in commands():
        name, *words = shlex.split(line.replace("...", ""))[1:]
        known = {option for parameter in table[name].params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)} <= known, line
