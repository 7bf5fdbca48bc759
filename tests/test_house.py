"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "rlif").rglob("*.py"))

# The order in which data flows: an import may only point back.
ORDER = [
    ["errors", "types", "weights"],
    ["checkpoints", "disk", "lock", "time_limit", "yaml_files"],
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
    ["launch", "hardware"],
    ["costs"],
    ["scoring"],
    ["taps", "meaning", "graders.batch"],
    ["signals.group_confidence", "signals.likelihood", "signals.negative_entropy", "signals.self_certainty"],
    ["signals.self_certainty_topk"],
    ["signals.plurality_vote", "signals.self_consistency", "signals.semantic_entropy"],
    ["graders.accuracy", "graders.controls", "graders.form", "graders.outside", "graders.seed_grpo"],
    ["signals", "graders", "early_stop"],
    ["rollout", "terms", "rewards"],
    ["places"],
    ["run"],
    ["records", "score_file", "vllm_capture", "rollback", "prompt_check", "faults"],
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
RANK = {module: rank for rank, modules in enumerate(ORDER) for module in modules}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "rlif").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_module_has_its_place():
    assert {name_of(path) for path in MODULES} - {"", "engines"} == set(RANK)


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


def test_the_readmes_tree_is_the_disk():
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
    assert named - {"rlif/models/tiny-reasoner/"} == on_disk
