"""Builds the models that are measured: the one that ships, and random ones with the shapes of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from rlif.config.loading import load_recipe
from rlif.errors import lookup
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.tasks import TASKS

SMALL: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any] | None] = {
    "reasoner": None,  # the model that ships, with its trained weights: V = 196
    "tiny": SMALL | {"vocab_size": 512},
    "wide-32k": SMALL | {"vocab_size": 32_000},
    "wide-152k": SMALL | {"vocab_size": 151_936},
    "qwen2.5-0.5b-2-layers": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 2, "num_attention_heads": 14,
        "vocab_size": 151_936,
    },
    "qwen2.5-0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "vocab_size": 151_936,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "vocab_size": 151_936,
    },
    "qwen2.5-3b": {
        "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "vocab_size": 151_936,
    },
}  # fmt: skip


def build(shape: str, dtype: str = "float32", device: str = "cpu", **changes: Any) -> Any:
    """Builds the model of a shape in evaluation mode: a random Qwen2 with a tied head, or the model that ships.

    Args:
        changes: sizes that replace those of the shape, such as vocab_size.
    """
    sizes = lookup(SHAPES, shape, "shape")
    if sizes is None:
        return load_model(load_recipe("demo-long", [f"dtype={dtype}"]), device)
    torch.manual_seed(0)
    config = Qwen2Config(
        **sizes | changes,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    return model.eval()


def save(shape: str, folder: Path, dtype: str = "float32", device: str = "cpu") -> None:
    """Saves the model of a shape with the shipped tokenizer, whose ids are below any V here."""
    build(shape, dtype, device).save_pretrained(folder)
    load_tokenizer(load_recipe("demo-long")).save_pretrained(folder)


def problems(count: int, joined: int = 1) -> list[str]:
    """Loads problems of the clock task. A prompt has `joined` of them, to make it long."""
    texts = [problem.text for problem in TASKS["clock"].load("train", limit=count * joined)]
    return [" ".join(texts[i : i + joined]) for i in range(0, len(texts), joined)]


def body_parameters(model: Any) -> int:
    """Counts the parameters that every token passes through, without the head."""
    return sum(p.numel() for p in model.base_model.layers.parameters())


def forward_flops(model: Any, tokens: int, length: int, head_tokens: int) -> float:
    """Counts floating-point operations of a forward pass: two per weight and token, causal attention, and the head.

    Args:
        tokens: how many go through the layers, in rows of `length`.
        head_tokens: positions that the head is applied to.
    """
    config = model.config
    attention = 2 * config.num_hidden_layers * config.hidden_size * length  # QK and PV, half of the square
    return (
        tokens * (2.0 * body_parameters(model) + attention) + 2.0 * head_tokens * config.hidden_size * config.vocab_size
    )
