"""Tiny models and tokenizers, made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification, Qwen2Tokenizer

torch.set_num_threads(1)
os.fsync = lambda fd: None  # slow, and tests end processes, not machines

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(chat: bool = True) -> Qwen2Tokenizer:
    """One token per byte, so that any text can be encoded."""
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], unk_token=None, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[2:]})
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def tiny_config(**changes: object) -> Qwen2Config:
    settings = {
        "vocab_size": 261,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "initializer_range": 0.3,
    }
    return Qwen2Config(**settings | changes)


def tiny_model(seed: int = 0, **changes: object) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(tiny_config(**changes)).eval()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="everything at full length; see make torture")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if unlike := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"the name of a test is another in each process: {unlike[0]}")
    if not config.getoption("--torture"):
        for item in items:
            if item.get_closest_marker("torture"):
                item.add_marker(pytest.mark.skip(reason="part of make torture"))


def classifier_folder(folder: Path, labels: int = 1, template: bool = True) -> str:
    """A tiny random sequence classifier as a local folder; a reward model if it has one label."""
    torch.manual_seed(0)
    Qwen2ForSequenceClassification(tiny_config(num_labels=labels)).save_pretrained(folder)
    byte_tokenizer(template).save_pretrained(folder)
    return str(folder)


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
    from rlif.sandbox import require_sandbox

    try:
        require_sandbox()
    except RlifError as error:
        pytest.skip(str(error))
