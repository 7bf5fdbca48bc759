"""Tests the notebooks: they run from top to bottom, offline, and hold the kinds of outputs that running them makes."""

from __future__ import annotations

import json

import pytest
from support.commands import ROOT
from support.scripts import load

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FEWER = {  # so that the tests are quick
    "training": {"STEPS = 12": "STEPS = 1", "evaluate.limit=128": "evaluate.limit=4"},
    "reading-a-run": {"STEPS = 10": "STEPS = 1", "evaluate.limit=64": "evaluate.limit=8"},
    "selecting": {"PROBLEMS = 64": "PROBLEMS = 4"},
    "scoring": {"limit=64, n=8": "limit=8, n=4"},
}
SMALL = {"training.max_steps={STEPS}": 'training.max_steps={STEPS}", "problems_per_update=8'}


def kinds(cells):
    """Lists the kinds of output of each cell of code."""
    return [
        [sorted(output.get("data", {})) or output["output_type"] for output in cell["outputs"]]
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def changes(name):
    return FEWER[name] | (SMALL if "STEPS" in str(FEWER[name]) else {})


@pytest.mark.sweep
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_outputs_are_kept(path, monkeypatch):
    pytest.importorskip("nbclient", reason="no nbclient; pip install -e .[dev]")
    pytest.importorskip("ipykernel", reason="no ipykernel; pip install -e .[dev]")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kept = json.loads(path.read_text(encoding="utf-8"))["cells"]
    made = load("scripts/notebooks.py").run(path, changes(path.stem))
    assert kinds(kept) == kinds(made.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_whole_and_name_no_machine(path):
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not {output.get("name") for output in outputs} & {"stderr"}
    assert not any(word in text for word in ("/home/", "/tmp/", "/Users/", "site-packages"))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert len(text) < 2**18, "figures are small"
    for old in changes(path.stem):
        assert old in "".join("".join(cell["source"]) for cell in cells)
