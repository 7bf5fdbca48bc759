"""Renders prompts for a model; training, prompt check, evaluation, selection, scoring and reward models all use this.

    conversation    through the chat template, which writes every special token itself
    text            as the tokenizer encodes it, with the tokens that it puts in front, as BOS, but never twice, and
                    without those that it appends: a prompt that ends in EOS is a finished text

A chat template also decides where a completion ends: `ends_of` finds the token that closes the assistant's turn.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from rlif.errors import ModelError
from rlif.tasks.chat_template import Chat, apply, try_ahead
from rlif.tasks.prompts import Prompt
from rlif.types import Message

MARK = "rlif-marks-the-end-of-this-turn"


def render(tokenizer: Any, prompt: Prompt, problem: str | Sequence[Message], chat: Chat | bool) -> list[int]:
    """Renders a problem as token ids."""
    return render_all(tokenizer, prompt, [problem], chat)[0]


def render_all(
    tokenizer: Any, prompt: Prompt, problems: Sequence[str | Sequence[Message]], chat: Chat | bool
) -> list[list[int]]:
    """Renders problems as token ids."""
    form = prompt.messages if chat else prompt.text
    return encode_all(tokenizer, [form(problem) for problem in problems], chat)


def encode_all(tokenizer: Any, prompts: Sequence[str | Sequence[Message]], chat: Chat | bool = True) -> list[list[int]]:
    """Turns prompts into token ids as `encode` does."""
    try_ahead(tokenizer, [prompt for prompt in prompts if not isinstance(prompt, str)], chat, opens=True)
    return [encode(tokenizer, prompt, chat) for prompt in prompts]


def is_text(prompt: Any) -> bool:
    """Tells whether a prompt is text alone, without images or sound."""
    contents = [] if isinstance(prompt, str) else [turn.get("content") for turn in prompt]
    parts = chain(*(content for content in contents if isinstance(content, list)))
    return all(part.get("type", "text") == "text" for part in parts)


def encode(tokenizer: Any, prompt: str | Sequence[Message], chat: Chat | bool = True) -> list[int]:
    """Turns a prompt into token ids: a conversation through the chat template, text as it is.

    Raises:
        ModelError: the chat template refuses the conversation.
    """
    if isinstance(prompt, str):
        return _encode_text(tokenizer, prompt)
    return apply(tokenizer, prompt, chat, add_generation_prompt=True, tokenize=True, return_dict=False)


def conversation_text(tokenizer: Any, messages: Sequence[Message], chat: Chat | bool = True) -> str:
    """Renders a conversation that ends with the model's turn as text."""
    return apply(tokenizer, messages, chat, tokenize=False)


def _encode_text(tokenizer: Any, text: str) -> list[int]:
    whole = tokenizer(text=[text])["input_ids"][0]
    bare = tokenizer(text=[text], add_special_tokens=False)["input_ids"][0]
    if whole == bare:
        return whole
    if not bare:
        return whole[: whole[0] == tokenizer.bos_token_id]
    starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
    before = whole[: next(starts, 0)]
    return bare if bare[: len(before)] == before else before + bare


def turn_end(tokenizer: Any, chat: Chat | bool = True) -> int | None:
    """Finds the token of its own that closes the assistant's turn in the chat template.

    Returns:
        None where there is none, or the template takes no turn of an assistant.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
    try:
        after = conversation_text(tokenizer, turns, chat).partition(MARK)[2].strip()
    except ModelError:
        return None
    ids = tokenizer(text=after, add_special_tokens=False)["input_ids"] if after else []
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    return next((token for token in ids if token in special), None)


def ends_of(tokenizer: Any, chat: Chat | bool) -> tuple[int, ...]:
    """Returns the tokens that end a completion beside the end-of-sequence token: the one that closes a turn.

    There are none where it would stay in the decoded text.
    """
    end = turn_end(tokenizer, chat) if chat else None
    stays = end is not None and tokenizer.decode([end], skip_special_tokens=True)
    return () if end is None or stays or end == tokenizer.eos_token_id else (end,)
