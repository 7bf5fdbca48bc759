"""Imports files of the project outside the package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from support.commands import ROOT


def load(path: str) -> ModuleType:
    """Imports a file by its path from the root of the project: `load("scripts/torture.py")`."""
    folder = str((ROOT / path).parent)
    if folder not in sys.path:  # files of a folder import each other
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for the module there
    spec.loader.exec_module(module)
    return module
