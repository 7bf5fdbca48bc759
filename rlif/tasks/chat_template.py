"""Applies chat templates, and refuses in one sentence what one of them cannot do.

A chat template is a program that comes with a tokenizer. transformers runs it in a sandbox, which bounds neither time
nor memory. So the first conversation of each form is rendered in a process of its own before it is rendered here:

    time, memory, length    a template that exceeds them is refused
    messages                a template that leaves out the system or the user message is refused
    arguments               one that the template never reads is refused, because a misspelt one would do nothing
    date                    a template that writes the date of today is warned of
"""

import logging
import os
import re
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from itertools import takewhile
from typing import Any

from jinja2 import TemplateSyntaxError

from rlif.errors import ModelError, RecipeError, first_line
from rlif.types import Message

SECONDS, MEMORY = 10, 2**30  # that a template may take for one conversation, in bytes
LENGTH, GROWTH = 1_000_000, 50  # characters that it may write: so many, and so many for each of its conversation
INSTEAD = "plain prompts (chat=false, --no-chat)"
CLOCK = "strftime_now"  # a function that transformers gives to templates
READ = ("system", "developer", "user")  # roles whose text no template may leave out

LOG = logging.getLogger(__name__)
_tried: set[tuple[Any, ...]] = set()


@dataclass(frozen=True)
class Chat:
    """Says how conversations go through a chat template. What is None is left to a default, see `over`."""

    template: bool | None = None  # whether prompts go through it at all
    arguments: Mapping[str, Any] | None = None  # for the template, as enable_thinking
    merge_system: bool | None = None  # put the system message at the head of the user's first

    def __bool__(self) -> bool:
        return bool(self.template)

    def over(self, default: "Chat") -> "Chat":
        """Fills what is None from a default."""
        pairs = ((vars(self)[name], vars(default)[name]) for name in ("template", "arguments", "merge_system"))
        return Chat(*(other if own is None else own for own, other in pairs))

    def described(self) -> bool | dict[str, Any]:
        """Describes it as plain data, for the settings of what was rendered with it."""
        given = dict(self.arguments or {}) | ({"merge_system": True} if self.merge_system else {})
        return bool(self) and (given or True)


OPEN, WITH_TEMPLATE = Chat(), Chat(True)


def chat_of(chat: Chat | bool) -> Chat:
    """Returns a chat template's use, which may be given as whether it is used."""
    return chat if isinstance(chat, Chat) else Chat(chat)


def apply(tokenizer: Any, messages: Sequence[Message], chat: Chat | bool, **fixed: Any) -> Any:
    """Applies the chat template of a tokenizer.

    Args:
        fixed: arguments of `apply_chat_template` that are not left to the user.

    Raises:
        ModelError: the template refuses the conversation, cannot be read, or does not end.
        RecipeError: an argument for the template that it never reads, or that is not the user's to give.
    """
    chat = chat_of(chat)
    messages, arguments = list(messages), dict(chat.arguments or {})
    if chat.merge_system:
        messages = with_merged_system(messages)
    if arguments:
        _check_arguments(tokenizer, arguments)
    try:
        _try_first(tokenizer, messages, arguments, fixed.get("add_generation_prompt", False))
        return tokenizer.apply_chat_template(messages, **fixed, **arguments)
    except ModelError:
        raise
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template cannot be read: {first_line(error)} (line {error.lineno}); put it right in"
            f" chat_template.jinja or tokenizer_config.json of the model, or use {INSTEAD}."
        ) from error
    except Exception as error:  # a template is a program by somebody else, and can raise anything
        roles = [str(message.get("role")) for message in messages]
        raise ModelError(
            f"the chat template refuses its prompt: {first_line(error).rstrip('.')} (messages: {', '.join(roles)});"
            f" {_remedy(roles)}."
        ) from error


def with_merged_system(messages: Sequence[Message]) -> list[Message]:
    """Puts the text of system messages at the beginning before that of the user's first message."""
    head = list(takewhile(lambda message: message.get("role") == "system", messages))
    first, *rest = [*messages[len(head) :], {}]
    texts = [message.get("content") for message in (*head, first)]
    if not head or first.get("role") != "user" or not all(isinstance(text, str) for text in texts):
        return list(messages)
    return [{**first, "content": "\n\n".join(map(str, texts))}, *rest[:-1]]


def reads(tokenizer: Any, argument: str) -> bool:
    """Tells whether a chat template mentions an argument."""
    return re.search(rf"\b{re.escape(argument)}\b", str(tokenizer.chat_template)) is not None


def _remedy(roles: Sequence[str]) -> str:
    merge = (
        "put the system text into the user's message (merge_system=true, --merge-system), " * ("system" in roles)
        or "use a prompt of roles that it takes, "
    )
    return f"{merge}or use {INSTEAD}"


def _check_arguments(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    taken = {"messages", *signature(tokenizer.apply_chat_template).parameters}
    if ours := sorted(taken & arguments.keys()):
        raise RecipeError(f"chat_template_kwargs gives {', '.join(ours)}, which rlif sets; leave it out.")
    if unread := [name for name in arguments if not reads(tokenizer, name)]:
        raise RecipeError(
            f"the chat template never reads {', '.join(unread)}, which chat_template_kwargs gives; correct the name, or"
            " leave it out."
        )


def _try_first(tokenizer: Any, messages: list[Message], arguments: dict[str, Any], opens: bool) -> None:
    """Renders the first conversation of these roles apart, and checks what the template made of it."""
    roles = tuple(str(message.get("role")) for message in messages)
    key = (str(tokenizer.chat_template), repr(arguments), roles, opens)
    if key in _tried:
        return

    def render(**more: Any) -> str:
        options = {"tokenize": False, "add_generation_prompt": opens, **arguments, **more}
        return tokenizer.apply_chat_template(messages, **options)

    contents = [message.get("content") for message in messages]
    if why := _trouble(render, LENGTH + GROWTH * sum(len(str(content)) for content in contents)):
        raise ModelError(f"the chat template {why}; give the model another template, or use {INSTEAD}.")
    whole, dated = render(), reads(tokenizer, CLOCK)
    with suppress(Exception):  # calling this text raises, so a template that gets by without the function is undated
        dated = dated and render(**{CLOCK: ""}) != whole
    if dated:
        LOG.warning(
            "the chat template writes the date of today, so prompts differ from day to day; give a date by the argument"
            " that the template reads (chat_template_kwargs, often date_string) to keep them"
        )
    text = "".join(whole.split())
    for role, content in zip(roles, contents, strict=True):
        if role in READ and isinstance(content, str) and "".join(content.split()) not in text:
            raise ModelError(f"the chat template leaves out the text of the {role} message; {_remedy(roles)}.")
    _tried.add(key)


def _trouble(render: Callable[[], str], room: int) -> str | None:
    """Renders in a process that can be killed; says what a template takes too much of, None where it is modest.

    Nothing is tried where a process cannot be copied: outside Linux its threads forbid that, or it has no memory left.
    """
    if not sys.platform.startswith("linux"):
        return None
    reader, writer = os.pipe()
    try:
        process = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        return None
    if not process:
        _render_and_leave(render, room, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        verdict = pipe.read(1)
    with suppress(ChildProcessError):  # where a program has its children waited for
        os.waitpid(process, 0)
    return {
        b"": f"does not end within {SECONDS} s",
        b"m": f"takes more than {MEMORY >> 20:,} MiB of memory",
        b"l": f"writes more than {room:,} characters",
    }.get(verdict)


def _render_and_leave(render: Callable[[], str], room: int, writer: int) -> None:
    """Renders under limits, writes one letter and ends the process; what the template raises is raised later again."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        for limit, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, SECONDS),
            (resource.RLIMIT_AS, size + MEMORY),
        ):
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (value if hard < 0 else min(value, hard), hard))
        try:
            os.write(writer, b"l" if len(render()) > room else b"f")
        except MemoryError:
            os.write(writer, b"m")
        except Exception:
            os.write(writer, b"f")
    finally:
        os._exit(0)
