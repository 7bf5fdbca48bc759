"""Tests that every `>>>` example of the package gives the result in its docstring."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples() -> Iterator[Any]:
    """Finds module and docstring of each example without importing them."""
    for path in sorted((ROOT / "rlif").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                docstring = ast.get_docstring(node) or ""
                if ">>>" in docstring:
                    yield pytest.param(module, docstring, id=f"{module}.{getattr(node, 'name', '')}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for examples: `results/`, and the runs of seed 0 that results/demo.json and demo-long.json keep."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "results").symlink_to(ROOT / "results")
    for name in ("demo", "demo-long"):
        kept = json.loads((ROOT / f"results/{name}.json").read_text(encoding="utf-8"))
        for run in kept["runs"]:
            if run["seed"] == 0:
                write_run(folder / "runs" / run["method"], run, kept)
    return folder


def write_run(path: Path, run: dict[str, Any], kept: dict[str, Any]) -> None:
    (path / "eval").mkdir(parents=True)
    with (path / "recipe.yaml").open("w") as file:
        YAML().dump(kept["methods"][run["method"]] | {"seed": 0}, file)
    columns = run["metrics"]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "alarms.jsonl").write_text("".join(json.dumps(alarm) + "\n" for alarm in run["alarms"]))
    (path / "environment.json").write_text(json.dumps(run["environment"]))
    (path / "summary.json").write_text(json.dumps({"steps": run["steps"]}))
    for task, columns in run["curves"].items():
        for values in zip(*columns.values(), strict=True):
            scores = kept["tasks"][task] | dict(zip(columns, values, strict=True))
            step = scores.pop("step")
            scores["accuracy"] = {key: scores.pop(key) for key in ("n", "mean", "low", "high")}
            (path / f"eval/step-{step:06d}-{task}.json").write_text(json.dumps(scores))


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names that every example may use: rlif, and the shipped model with two completions."""
    import rlif
    from rlif.config.recipe import Recipe
    from rlif.sampling.loading import load_model, load_tokenizer

    recipe = Recipe(model="tiny-reasoner", dtype="float32")
    tokenizer = load_tokenizer(recipe)
    prompt_ids = [tokenizer("A ball is under cup D. Swap C and E. Where is the ball?").input_ids] * 2
    completion_ids = [tokenizer(text).input_ids for text in ("The answer is \\boxed{D}.", "The answer is \\boxed{E}.")]
    model = load_model(recipe, "cpu").eval()
    return {"rlif": rlif, "model": model, "tokenizer": tokenizer} | {
        "prompt_ids": prompt_ids,
        "completion_ids": completion_ids,
    }


@pytest.mark.parametrize(("module", "docstring"), examples())
def test_an_example_gives_the_result_in_its_docstring(module, docstring, folder, names, monkeypatch, request):
    if module == "rlif.sandbox.runner":
        request.getfixturevalue("sandbox")
    monkeypatch.chdir(folder)
    space = {**vars(importlib.import_module(module)), **names}
    example = doctest.DocTestParser().get_doctest(docstring, space, module, None, 0)
    said = StringIO()
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.write)
    assert not said.getvalue(), said.getvalue()
