"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "rlif").rglob("*.py"))

# The order in which data flows: an import may only point back. `folder.*` is every module of a folder where people add
# things that has no place of its own; such modules do not import each other.
ORDER = [
    ["errors", "types"],
    ["disk", "lock", "time_limit", "yaml_files"],
    ["checkpoints", "weights"],
    ["beginning"],
    ["inheritance"],
    ["extraction", "grading_worker", "intervals", "jsonl", "selection", "tasks.rows"],
    ["grading"],
    ["sandbox_values", "sandbox_room", "sandbox_bwrap"],
    ["sandbox_call", "sandbox_host"],
    ["sandbox_worker", "sandbox"],
    ["tasks.task", "tasks.zeroeval", "tasks.evalplus_oracle"],
    ["tasks.programs"],
    ["tasks.evalplus", "tasks.stdin_tests"],
    ["tasks.alpaca_eval", "tasks.miniature", "tasks.mathematics", "tasks.mmlu_pro", "tasks.prompts_file"],
    ["tasks.cruxeval", "tasks.humaneval", "tasks.livecodebench", "tasks.mbpp"],
    ["tasks.code_contests"],
    ["tasks", "prompts", "signs", "vitals"],
    ["guard"],
    ["config"],
    ["policy", "plan", "about", "supervise"],
    ["hardware"],
    ["launch"],
    ["slurm"],
    ["scoring"],
    ["taps", "meaning", "graders.batch"],
    ["signals.*", "graders.*"],
    ["signals", "graders", "early_stop"],
    ["costs"],
    ["knobs"],
    ["rollout", "terms", "rewards"],
    ["places"],
    ["run"],
    ["records", "score_file", "vllm_capture", "rollback", "prompt_check", "faults", "together"],
    ["vllm_capture_v2"],
    ["rollout_vllm"],
    ["evaluate"],
    ["examination", "samples", "scaling", "scaling_figure", "judge", "win_rate", "recorded"],
    ["judged", "check_graders"],
    ["engines.annotator", "engines.callbacks", "engines.survival", "engines.trl_vllm"],
    ["engines.rewarding"],
    ["engines.trl"],
    ["engines.trl_setup", "engines.guarding"],
    ["job"],
    ["session"],
    ["training", "trainability"],
    ["history", "analysis"],
    ["verdict", "figures", "watch", "kept"],
    ["kept_file", "series", "outcomes", "comparable"],
    ["comparison"],
    ["comparison_table"],
    ["panels"],
    ["browse"],
    ["reporting"],
    [
        "cli_alpaca",
        "cli_choose",
        "cli_compare",
        "cli_eval",
        "cli_guard",
        "cli_launch",
        "cli_look",
        "cli_plan",
        "cli_recipes",
    ],
    ["cli"],
    ["__main__"],
]
PLACES = {place: rank for rank, places in enumerate(ORDER) for place in places}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "rlif").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place_of(module: str) -> str:
    """Its own, or the one it shares with the others of its folder."""
    return module if module in PLACES else f"{module.rpartition('.')[0]}.*"


RANK = {module: PLACES[place_of(module)] for module in map(name_of, MODULES) if place_of(module) in PLACES}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_module_has_its_place():
    modules = {name_of(path) for path in MODULES} - {"", "engines"}
    assert modules == set(RANK)
    assert {place_of(module) for module in modules} == set(PLACES), "a place for modules that are not there"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_back(path):
    if name_of(path) in RANK:
        ours = {found.removeprefix("rlif.") for found in imports(path) if found.startswith("rlif.")}
        later = {other for other in ours & set(RANK) if RANK[other] >= RANK[name_of(path)]}
        assert not later


def test_trl_is_the_engine_adapters_business():
    users = {name_of(path) for path in MODULES if any(re.match(r"trl(\.|$)", found) for found in imports(path))}
    assert users == {"engines.trl", "engines.trl_setup", "engines.trl_vllm"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_small(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    assert path.name not in ("utils.py", "helpers.py", "common.py", "misc.py", "base.py")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node) or ""
            length = (node.end_lineno or 0) - node.lineno - len(docstring.splitlines())
            assert length <= 60, f"{node.name} has {length} lines"


def test_tests_stay_small_too():
    longest = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert {name: lines for name, lines in longest.items() if lines > 400} == {}


def test_the_readmes_tree_is_the_disk():
    """Each file and folder by its name; `*.py` is those of a folder that are not named themselves."""
    tree = re.search(r"```\n(rlif/\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    named, folders = set(), []
    for line in tree.group(1).splitlines():
        entry = line.strip().split("  ")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [entry]
        named.add("".join(folders))
    on_disk = {
        str(path.relative_to(ROOT)) + ("/" if path.is_dir() else "")
        for path in (ROOT / "rlif").rglob("*")
        if "__pycache__" not in path.parts and (path.is_dir() or path.suffix == ".py") and path.name != "__init__.py"
    }
    on_disk |= {"rlif/", "rlif/__init__.py"}
    on_disk = {path for path in on_disk if not path.startswith("rlif/models/tiny")}

    def entry_of(path: str) -> str:
        several = re.sub(r"[^/]+\.py$", "*.py", path)
        return path if path in named or several not in named else several

    assert named - {"rlif/models/tiny-reasoner/"} == {entry_of(path) for path in on_disk}
