"""Applies chat templates, and refuses in one sentence what one of them cannot do.

A chat template is a program that comes with a tokenizer. transformers runs it in a sandbox, which bounds neither time
nor memory. So each conversation is rendered in another process before it is rendered here, many at once by
`try_ahead`:

    time, memory, length    a template that exceeds them is refused
    messages                a template that leaves out the system or the user message is refused
    arguments               one that the template never reads is refused, because a misspelt one would do nothing
    date                    a template that writes the date of today is warned of
"""

import logging
import os
import re
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from itertools import takewhile
from typing import Any

from jinja2 import TemplateSyntaxError

from rlif import progress
from rlif.errors import ModelError, RecipeError, first_line
from rlif.types import Message

SECONDS, MEMORY = 10, 2**30  # that a template may take for one conversation, in bytes
LENGTH, GROWTH = 1_000_000, 50  # characters that it may write: so many, and so many for each of its conversation
INSTEAD = "plain prompts (chat=false, --no-chat)"
CLOCK = "strftime_now"  # a function that transformers gives to templates
READ = ("system", "developer", "user")  # roles whose text no template may leave out
FINE, MEMORY_OUT, LONG = b"f", b"m", b"l"  # of a conversation; a digit is the place in READ of a role left out
PATIENCE = 12  # times SECONDS, after which a process that gives no sign is stuck: waiting costs a processor nothing
REMEMBERED = 2**20  # conversations, some hundred bytes each

LOG = logging.getLogger(__name__)
Rendered = tuple[list[Message], dict[str, Any], bool]  # messages, arguments, whether the model's turn is opened
_tried: set[int] = set()  # hashes of conversations that rendered well
_looked_at: set[tuple[str, str]] = set()  # templates with arguments that were tried for a date


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


def chat_of(chat: Chat | bool | None) -> Chat:
    """Returns how a chat template is used; True, False and None say only whether it is, None that it is open.

    Raises:
        RecipeError: it is none of these.
    """
    if not isinstance(chat, Chat | bool | None):
        raise RecipeError(f"chat is {chat!r:.40}; expected True, False or a Chat of rlif.tasks.chat_template.")
    return chat if isinstance(chat, Chat) else Chat(chat)


def apply(tokenizer: Any, messages: Sequence[Message], chat: Chat | bool, **fixed: Any) -> Any:
    """Applies the chat template of a tokenizer.

    Args:
        fixed: arguments of `apply_chat_template` that are not left to the user.

    Raises:
        ModelError: the template refuses the conversation, cannot be read, or does not end.
        RecipeError: an argument for the template that it never reads, or that is not the user's to give.
    """
    messages, arguments, opens = _as_rendered(messages, chat, fixed.get("add_generation_prompt", False))
    if arguments:
        _check_arguments(tokenizer, arguments)
    try:
        _try(tokenizer, (messages, arguments, opens))
        _warn_of_date(tokenizer, (messages, arguments, opens))
        return tokenizer.apply_chat_template(messages, **fixed, **arguments)
    except ModelError:
        raise
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template cannot be read: {first_line(error)} (line {error.lineno}); put it right in"
            f" chat_template.jinja or tokenizer_config.json of the model, or use {INSTEAD}."
        ) from error
    except Exception as error:  # a template is a program by somebody else, and can raise anything
        roles = _roles(messages)
        raise ModelError(
            f"the chat template refuses its prompt: {first_line(error).rstrip('.')} (messages: {', '.join(roles)});"
            f" {_remedy(roles)}."
        ) from error


def with_merged_system(messages: Sequence[Message]) -> list[Message]:
    """Puts the text of system messages at the beginning before that of the user's first message."""
    head = list(takewhile(lambda message: message.get("role") == "system", messages))
    rest = messages[len(head) :]
    texts = [message.get("content") for message in (*head, *rest[:1])]
    if not head or not rest or rest[0].get("role") != "user" or not all(isinstance(text, str) for text in texts):
        return list(messages)
    return [{**rest[0], "content": "\n\n".join(map(str, texts))}, *rest[1:]]


def reads(tokenizer: Any, argument: str) -> bool:
    """Tells whether a chat template mentions an argument."""
    return re.search(rf"\b{re.escape(argument)}\b", str(tokenizer.chat_template)) is not None


def _remedy(roles: Sequence[str]) -> str:
    if "system" in roles:
        return f"put the system text into the user's message (merge_system=true, --merge-system), or use {INSTEAD}"
    return f"use a prompt of roles that it takes, or use {INSTEAD}"


def _check_arguments(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    taken = {"messages", *signature(tokenizer.apply_chat_template).parameters}
    if ours := sorted(taken & arguments.keys()):
        raise RecipeError(f"chat_template_kwargs gives {', '.join(ours)}, which rlif sets; leave it out.")
    if unread := [name for name in arguments if not reads(tokenizer, name)]:
        raise RecipeError(
            f"the chat template never reads {', '.join(unread)}, which chat_template_kwargs gives; correct the name, or"
            " leave it out."
        )


def try_ahead(tokenizer: Any, conversations: Sequence[Sequence[Message]], chat: Chat | bool, opens: bool) -> None:
    """Tries many conversations in one process, so that `apply` starts none for each. What is wrong is raised there.

    Args:
        opens: whether the model's turn is opened.
    """
    found = [_as_rendered(messages, chat, opens) for messages in conversations]
    new = {key: each for each in found if (key := _key(tokenizer, each)) not in _tried}
    if len(new) > 1:
        with progress.task("trying the chat template", len(new)) as advance:
            verdicts = _verdicts(tokenizer, [*new.values()], advance)
        if len(_tried) > REMEMBERED:
            _tried.clear()
        _tried.update(key for key, verdict in zip(new, verdicts, strict=False) if verdict == FINE)


def _as_rendered(messages: Sequence[Message], chat: Chat | bool, opens: bool) -> Rendered:
    chat = chat_of(chat)
    merged = with_merged_system(messages) if chat.merge_system else list(messages)
    return merged, dict(chat.arguments or {}), opens


def _key(tokenizer: Any, each: Rendered) -> int:
    return hash((str(tokenizer.chat_template), repr(each)))


def _try(tokenizer: Any, each: Rendered) -> None:
    """Renders a conversation in another process, unless that was done before, and refuses what a template does to it.

    Raises:
        ModelError: it takes too much, or leaves out a message.
    """
    if (key := _key(tokenizer, each)) in _tried:
        return
    messages = each[0]
    verdict = b"".join(_verdicts(tokenizer, [each]))
    if verdict.isdigit():
        raise ModelError(
            f"the chat template leaves out the text of the {READ[int(verdict)]} message; {_remedy(_roles(messages))}."
        )
    if verdict != FINE:
        why = {
            MEMORY_OUT: f"takes more than {MEMORY >> 20:,} MiB of memory",
            LONG: f"writes more than {_room(messages):,} characters",
        }.get(verdict, f"does not end within {SECONDS} s")
        begins = str(messages[-1].get("content"))[:40] if messages else ""
        raise ModelError(
            f"the chat template {why} for the prompt that begins {begins!r}; give the model another template, or use"
            f" {INSTEAD}."
        )
    _tried.add(key)


def _warn_of_date(tokenizer: Any, each: Rendered) -> None:
    messages, arguments, opens = each
    key = str(tokenizer.chat_template), repr(arguments)
    if key in _looked_at or not reads(tokenizer, CLOCK):
        return

    def render(**more: Any) -> Any:
        options = {"tokenize": False, "add_generation_prompt": opens, **arguments, **more}
        return tokenizer.apply_chat_template(messages, **options)

    whole, dated = render(), True
    with suppress(Exception):  # calling this text raises, so a template that gets by without the function is undated
        dated = render(**{CLOCK: ""}) != whole
    _looked_at.add(key)
    if dated:
        LOG.warning(
            "the chat template writes the date of today, so prompts differ from day to day; give a date by the argument"
            " that the template reads (chat_template_kwargs, often date_string) to keep them"
        )


def _roles(messages: Sequence[Message]) -> list[str]:
    return [str(message.get("role")) for message in messages]


def _room(messages: Sequence[Message]) -> int:
    return LENGTH + GROWTH * sum(len(str(message.get("content"))) for message in messages)


def _judge(tokenizer: Any, each: Rendered) -> bytes:
    """Renders a conversation, says in one letter what becomes of it; an error is raised where it is rendered again."""
    messages, arguments, opens = each
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens, **arguments)
    except MemoryError:
        return MEMORY_OUT
    except Exception:
        return FINE
    if len(text) > _room(messages):
        return LONG
    bare = "".join(text.split())
    for role, content in ((message.get("role"), message.get("content")) for message in messages):
        if role in READ and isinstance(content, str) and "".join(content.split()) not in bare:
            return str(READ.index(role)).encode()
    return FINE


def _verdicts(
    tokenizer: Any, conversations: Sequence[Rendered], advance: Callable[[int], object] = lambda count: None
) -> list[bytes]:
    """Judges conversations in a process that can be killed; the list ends before the one that killed it.

    They are judged here where a process cannot be copied: outside Linux its threads forbid that, or it has no memory.
    """
    reader, writer = os.pipe()
    try:
        process = os.fork() if sys.platform.startswith("linux") else None
    except OSError:
        process = None
    if process is None:
        os.close(reader)
        os.close(writer)
        return [_judge(tokenizer, each) for each in conversations]
    if not process:
        _judge_and_leave(tokenizer, conversations, writer)
    os.close(writer)
    letters, ready = b"", False
    with open(reader, "rb", buffering=0) as pipe:
        while (ready := bool(select.select([pipe], [], [], PATIENCE * SECONDS)[0])) and (more := pipe.read(4096)):
            letters += more
            advance(len(more))
    with suppress(ProcessLookupError, ChildProcessError):  # where a program has its children waited for
        if not ready:
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return [bytes([letter]) for letter in letters]


def _judge_and_leave(tokenizer: Any, conversations: Sequence[Rendered], writer: int) -> None:
    """Judges conversations under limits, writes their letters and ends the process."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, size + MEMORY)):
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (value if hard < 0 else min(value, hard), hard))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process
        for each in conversations:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            os.write(writer, _judge(tokenizer, each))
    finally:
        os._exit(0)
