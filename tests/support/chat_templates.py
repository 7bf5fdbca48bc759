"""Chat templates in the forms that models have, short versions of our own, with tokenizers and models to match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedTokenizerFast

from rlif.scoring.head import LOOKED_AT
from support.models import tiny_model


@dataclass(frozen=True)
class Shape:
    """One form of chat template."""

    template: str
    eos: str  # the tokenizer's
    end: str  # what closes the assistant's turn
    special: Sequence[str]  # tokens of their own beside these and BOS
    rendered: str  # the conversation (system "Be brief.", user "Go.") up to the assistant's turn
    bos: str | None = None  # put in front of plain text too, where there is one
    arguments: dict[str, Any] = field(default_factory=dict)
    merge_system: bool = False


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPES = {
    "chatml": Shape(
        CHATML,
        eos="<|endoftext|>",
        end="<|im_end|>",
        special=["<|im_start|>"],
        rendered="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama-3": Shape(
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        eos="<|end_of_text|>",
        end="<|eot_id|>",
        special=["<|start_header_id|>", "<|end_header_id|>"],
        bos="<|begin_of_text|>",
        rendered="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGo.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": Shape(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('No system role here') }}{% endif %}"
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must take turns') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        eos="<eos>",
        end="<end_of_turn>",
        special=["<start_of_turn>"],
        bos="<bos>",
        rendered="<bos><start_of_turn>user\nBe brief.\n\nGo.<end_of_turn>\n<start_of_turn>model\n",
        merge_system=True,
    ),
    "mistral": Shape(
        "{% set first = messages[0].content ~ '\n\n' if messages[0].role == 'system' else '' %}{{ bos_token }}"
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ first if loop.index0 < 2 }}{{ m.content }}[/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        eos="</s>",
        end="</s>",
        special=["[INST]", "[/INST]"],
        bos="<s>",
        rendered="<s>[INST] Be brief.\n\nGo.[/INST]",
    ),
    "phi": Shape(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        eos="<|endoftext|>",
        end="<|end|>",
        special=["<|system|>", "<|user|>", "<|assistant|>"],
        rendered="<|system|>\nBe brief.<|end|>\n<|user|>\nGo.<|end|>\n<|assistant|>\n",
    ),
    "qwen-3": Shape(
        CHATML.replace(
            "assistant\n{% endif",
            "assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
            "{% endif %}{% endif",
        ),
        eos="<|im_end|>",
        end="<|im_end|>",
        special=["<|im_start|>", "<think>", "</think>"],
        rendered="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n",
        arguments={"enable_thinking": False},
    ),
    "granite": Shape(
        "{% if messages[0].role != 'system' %}<|start_of_role|>system<|end_of_role|>You help.<|end_of_text|>\n"
        "{% endif %}{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}"
        "<|end_of_text|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        eos="<|end_of_text|>",
        end="<|end_of_text|>",
        special=["<|start_of_role|>", "<|end_of_role|>"],
        rendered="<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Go.<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    ),
}


def tokenizer_of(shape: Shape, *, appends_eos: bool = False) -> PreTrainedTokenizerFast:
    """Makes a tokenizer of one token per byte, which puts BOS in front of text if the shape has one."""
    special = dict.fromkeys(["<pad>", shape.eos, shape.end, *([shape.bos] if shape.bos else []), *shape.special])
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    around = [shape.bos] * bool(shape.bos), [shape.eos] * appends_eos
    if any(around):
        inner.post_processor = processors.TemplateProcessing(
            single=[*around[0], "$A", *around[1]],
            special_tokens=[(token, vocabulary[token]) for part in around for token in part],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token=shape.eos, bos_token=shape.bos, padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in special if token != "<pad>"]})
    tokenizer.chat_template = shape.template
    return tokenizer


def model_with(shape: Shape, folder: Path, **options: Any) -> Path:
    """Writes a tiny random model with a shape's tokenizer into a folder."""
    tokenizer = tokenizer_of(shape, **options)
    tiny_model(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def entering_ids(padding: int = 0) -> Iterator[list[list[int]]]:
    """Collects the token ids of every row that enters any model, without padding; not those that check its head."""
    rows: list[list[int]] = []

    def collect(module: torch.nn.Module, arguments: Any) -> None:
        if isinstance(module, torch.nn.Embedding) and arguments[0].dim() == 2 and arguments[0].shape[1] > LOOKED_AT:
            rows.extend([token for token in row if token != padding] for row in arguments[0].tolist())

    handle = register_module_forward_pre_hook(collect)
    try:
        yield rows
    finally:
        handle.remove()
