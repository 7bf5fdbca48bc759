"""Makes tiny models and tokenizers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification, Qwen2Tokenizer

torch.set_num_threads(1)
os.fsync = lambda fd: None  # it is slow, and tests kill processes, not machines

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(chat: bool = True) -> Qwen2Tokenizer:
    """Makes a tokenizer of one token per byte, which can encode any text."""
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], unk_token=None, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[2:]})
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def chatml_tokenizer() -> Qwen2Tokenizer:
    """Makes the same with the turns of Qwen's template, which verl looks for in the tokenizer of a Qwen model."""
    special = ["<|pad|>", "<|im_end|>", "<|im_start|>", "<|unused|>", "<|also unused|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], unk_token=None, pad_token="<|pad|>", eos_token="<|im_end|>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[2:]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
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


def classifier_folder(folder: Path, labels: int = 1, template: bool = True) -> str:
    """Writes a tiny random sequence classifier into a folder; with one label it is a reward model."""
    torch.manual_seed(0)
    Qwen2ForSequenceClassification(tiny_config(num_labels=labels)).save_pretrained(folder)
    byte_tokenizer(template).save_pretrained(folder)
    return str(folder)


def entailment_folder(folder: Path) -> str:
    """Writes a tiny random classifier of entailment into a folder."""
    classifier_folder(folder, labels=2)
    config = json.loads((folder / "config.json").read_text())
    labels = {"id2label": {"0": "entailment", "1": "other"}, "label2id": {"entailment": 0, "other": 1}}
    (folder / "config.json").write_text(json.dumps(config | labels))
    return str(folder)
