"""Runs the notebooks from top to bottom, and keeps their outputs in them.

    python scripts/notebooks.py                      # all of notebooks/
    python scripts/notebooks.py notebooks/scoring.ipynb

Each runs in an empty folder. What Python prints on the error stream is left out, since it is progress.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from refusals import call

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(path: Path, changes: Mapping[str, str] | None = None, seconds: int = 600) -> Any:
    """Runs a notebook; returns it with its outputs.

    Args:
        changes: text that is replaced in its code first; each must be there.
        seconds: limit for one cell.

    Raises:
        CellExecutionError: a cell raises.
        ValueError: a text that is to be replaced is in no cell.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in (changes or {}).items():
        if not any(old in cell.source for cell in cells):
            raise ValueError(f"{path.name} has no {old!r}")
        for cell in cells:
            cell.source = cell.source.replace(old, new)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=seconds, record_timing=False, coalesce_streams=True)
        client.execute(cwd=folder)
    for cell in cells:
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)  # it names the version of Python
    return notebook


def main() -> None:
    for path in map(Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        nbformat.write(run(path), path)
        print(path)


if __name__ == "__main__":
    call(main)
