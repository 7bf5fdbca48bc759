"""Options and fixtures of the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.models import byte_tokenizer, tiny_model


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="everything at full length; see make torture")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if unlike := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"the name of a test is another in each process: {unlike[0]}")
    if not config.getoption("--torture"):
        for item in items:
            if item.get_closest_marker("torture"):
                item.add_marker(pytest.mark.skip(reason="part of make torture"))


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
        pytest.skip("RLIF_DATA names no folder of benchmark data")
    return Path(folder)


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Skips where programs cannot be run safely."""
    from rlif.errors import RlifError
    from rlif.sandbox.runner import require_sandbox

    try:
        require_sandbox()
    except RlifError as error:
        pytest.skip(str(error))
