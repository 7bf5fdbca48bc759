"""Fixtures and hooks of the whole suite."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import hooks
from support.models import byte_tokenizer, tiny_model

DATA = (
    *("alpaca_eval", "checks", "code_contests", "cruxeval", "gsm8k", "humaneval"),
    *("livecodebench", "math", "mbpp", "mmlu_pro", "zeroeval"),
)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(hooks)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2 with a byte tokenizer, as a local model folder."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real benchmark data, from the folder that RLIF_DATA names."""
    folder = os.environ.get("RLIF_DATA")
    if not folder:
        pytest.skip("no benchmark data; set RLIF_DATA to its folder")
    if missing := [name for name in DATA if not (Path(folder) / name).is_dir()]:
        pytest.skip(f"benchmark data in part; add {' '.join(missing)} to what RLIF_DATA names")
    return Path(folder)


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Skips the test if programs cannot be run safely."""
    if not shutil.which("bwrap"):
        pytest.skip("no bubblewrap; apt install bubblewrap")
    from rlif.errors import RlifError
    from rlif.sandbox.runner import require_sandbox

    try:
        require_sandbox()
    except RlifError as error:
        pytest.skip(f"no sandbox with the bubblewrap that is here; {error}")
