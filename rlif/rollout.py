"""Samples completions outside a trainer: prompts in, completions out, longest prompts first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from rlif.prompts import Prompt
from rlif.scoring import evaluation_mode


@dataclass(frozen=True)
class Completion:
    """One completion of one prompt; `truncated` if the token limit ended it."""

    text: str
    prompt_ids: list[int]
    completion_ids: list[int]
    truncated: bool


def render(tokenizer: Any, prompt: Prompt, problem: str, chat: bool) -> list[int]:
    """The token ids of a prompt, by the chat template or without one; what TRL makes of the same prompt."""
    if not chat:
        return tokenizer(text=[prompt.text(problem)])["input_ids"][0]
    return tokenizer.apply_chat_template(
        prompt.messages(problem), add_generation_prompt=True, tokenize=True, return_dict=False
    )


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    batch_size: int = 64,
) -> list[Completion]:
    """One completion per prompt, in the order of the prompts.

    Penalties and filters that the model's own generation config may set are off: greedy is greedy.

    Args:
        model: a causal language model of transformers.
        tokenizer: with a pad token.
        prompt_ids: prompts as token ids.
        max_tokens: completion limit, in tokens.
        temperature: of sampling; 0 for greedy decoding, which touches no random state.
        batch_size: prompts per call of the model's generate.
    """
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    plain = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=bool(temperature),
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        **sampling,
    )
    order = sorted(range(len(prompt_ids)), key=lambda i: -len(prompt_ids[i]))
    completions: dict[int, Completion] = {}
    with evaluation_mode(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [list(prompt_ids[i]) for i in rows]}, padding_side="left", return_tensors="pt"
            ).to(model.device)
            output = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                generation_config=plain,
            )
            for i, row in zip(rows, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                length = next((n for n, token in enumerate(row, start=1) if token in ends), None)
                ids = row[:length]
                text = tokenizer.decode(ids, skip_special_tokens=True)
                completions[i] = Completion(text, list(prompt_ids[i]), ids, truncated=length is None)
    return [completions[i] for i in range(len(prompt_ids))]
