"""Renders prompts for a model, by its chat template or as plain text; training, evaluation and scoring all use this.

A chat template is a program that comes with the tokenizer. It may take arguments (`enable_thinking=False`) and may
refuse a conversation, for example one with a system message.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlif.errors import ModelError, RecipeError, first_line
from rlif.tasks.prompts import Prompt
from rlif.types import Message

Chat = bool | Mapping[str, Any]
"""Whether a prompt goes through the chat template; a mapping holds arguments for the template."""


def render(tokenizer: Any, prompt: Prompt, problem: str | Sequence[Message], chat: Chat) -> list[int]:
    """Renders a problem as token ids, the same as TRL's in training."""
    return encode(tokenizer, prompt.messages(problem) if chat else prompt.text(problem), chat)


def encode(tokenizer: Any, prompt: str | Sequence[Message], chat: Chat = True) -> list[int]:
    """Turns a prompt into token ids: a conversation through the chat template, text as it is."""
    if isinstance(prompt, str):
        return tokenizer(text=[prompt])["input_ids"][0]
    return _apply(tokenizer, prompt, chat, add_generation_prompt=True, tokenize=True, return_dict=False)


def conversation_text(tokenizer: Any, messages: Sequence[Message], chat: Chat = True) -> str:
    """Renders a conversation that ends with the model's turn as text."""
    return _apply(tokenizer, messages, chat, tokenize=False)


def _apply(tokenizer: Any, messages: Sequence[Message], chat: Chat, **fixed: Any) -> Any:
    """Applies the chat template; raises a ModelError if it refuses the conversation."""
    arguments = dict(chat) if isinstance(chat, Mapping) else {}
    if taken := sorted(fixed.keys() & arguments):
        raise RecipeError(f"training.chat_template_kwargs gives {', '.join(taken)}, which rlif sets; leave it out.")
    try:
        return tokenizer.apply_chat_template(list(messages), **fixed, **arguments)
    except Exception as error:  # a template is a program by somebody else, and can raise anything
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ModelError(
            f"the chat template refuses its prompt: {first_line(error)} (messages: {roles}); use a prompt of roles that"
            " it takes, or plain prompts (chat=false, --no-chat)."
        ) from error
