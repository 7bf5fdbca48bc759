"""Reads problems from rows as people have them: text or a conversation, golds as text, numbers or lists.

A prompt is text, or a conversation in one of two layouts:

    role, content     [{"role": "user", "content": "What is 2 + 2?"}], of the columns prompt and messages
    from, value       [{"from": "human", "value": "What is 2 + 2?"}], ShareGPT's, of the column conversations

Training and evaluation put its last user message, after those before it. Where the assistant has the last word, that
message is not part of the prompt: it becomes the worked solution, which only a reward that asks for it sees. In a
column `prompt` it is refused, because the engine would render a second turn of the assistant after it.

A list of golds means that any of them is right.

A key `columns` says which column holds what, {prompt: frage, gold: antwort}; a dot reaches into a column.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlif.errors import DataError, RecipeError, nearest
from rlif.files.jsonl import Row
from rlif.files.tables import as_text, find_column, names_of, read_table
from rlif.types import Message, Problem

KEYS = ("prompt", "gold", "solution", "id")
CONVERSATIONS = ("messages", "conversations")  # read where there is no column `prompt`
ROLES = {"human": "user"} | dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant")
TURNS = ("system", "developer", "user", "assistant")
CALLS = ("tool_calls", "function_call", "tools")
# Text that begins as a conversation that is written out, as JSON or as Python prints it.
LIKE_MESSAGES = re.compile(
    r"""\s*(array\()?\[?\s*\{\s*["'](role|from|(content|value)["']\s*:.*["'](role|from))["']\s*:""", re.DOTALL
)
HINT = "columns: {prompt: NAME} in the recipe, or --columns prompt=NAME, says which column holds it"


@dataclass(frozen=True)
class Entry:
    """One row, read."""

    text: str  # the last user message
    history: tuple[Message, ...]  # the messages before it
    golds: tuple[str, ...]
    solution: str | None
    id: str | None
    row: Row  # as it is in the file

    def problem(self, name: str, golds: Sequence[str], solution: str | None = None) -> Problem:
        """Makes a problem with these golds; `name` is its id where the row has none."""
        return Problem(
            self.id or name,
            self.text,
            golds[0] if golds else None,
            solution if self.solution is None else self.solution,
            history=self.history,
            other_golds=tuple(golds[1:]),
            row=self.row,
        )


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuses a key that names nothing a problem has."""
    for key in columns:
        if key not in KEYS:
            raise RecipeError(f"columns has no {key!r}; {nearest(key, KEYS)}")


def read_entries(source: str, split: str, usual: Mapping[str, str], columns: Mapping[str, str]) -> list[Entry]:
    """Reads all rows of a source.

    Args:
        usual: the task's own column of each key of `KEYS`; without one a key is read only where `columns` names it.
        columns: the columns that the user names.
    """
    return [
        _entry(row, f"row {number} of {source}", usual, columns)
        for number, row in enumerate(read_table(source, split), start=1)
    ]


def _entry(row: Row, where: str, usual: Mapping[str, str], columns: Mapping[str, str]) -> Entry:
    given = {key: named_column(row, name, key, where) for key, name in columns.items()}
    found = {key: find_column(row, name) for key, name in usual.items() if key not in columns}
    if usual["prompt"] == "prompt" and "prompt" in found:  # a table that joins several data sets has null in the others
        places = [place for name in ("prompt", *CONVERSATIONS) if (place := find_column(row, name)) is not None]
        found["prompt"] = next((place for place in places if row[place] is not None), next(iter(places), None))
    given |= {key: row[name] for key, name in found.items() if name is not None}
    names = {**usual, **{key: name for key, name in found.items() if name}, **columns}
    if "prompt" not in given:
        raise DataError(f"{where} has no {names['prompt']!r}; it has {names_of(row)}; {HINT}.")
    if twice := [key for key in given if key != "prompt" and names[key] == names["prompt"]]:
        raise DataError(
            f"{names['prompt']!r} in {where} is both the prompt and the {twice[0]}; columns: names another."
        )
    text, history, last = read_prompt(given["prompt"], names["prompt"], where)
    inside = f"in {where}"
    solution = as_text(given.get("solution"), names.get("solution", ""), inside)
    return Entry(
        text,
        history,
        _golds(given.get("gold"), names.get("gold", ""), inside),
        last if solution is None else solution,
        as_text(given.get("id"), names.get("id", ""), inside),
        row,
    )


def named_column(row: Row, name: str, key: str, where: str) -> Any:
    """Returns the value of a column that the user names; a dot reaches into it."""
    value: Any = row
    for part in [name] if name in row else name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise DataError(f"{where} has no {name!r}, which columns names as its {key}; it has {names_of(row)}.")
        value = value[part]
    return value


def _golds(value: Any, name: str, where: str) -> tuple[str, ...]:
    """Reads one answer or a list of them; those that are null or empty are left out."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(text for each in values if (text := as_text(each, name, where)) and text.strip())


def read_prompt(value: Any, name: str, where: str) -> tuple[str, tuple[Message, ...], str | None]:
    """Reads text or a conversation: its last user message, those before it, and what the assistant said last."""
    value = written_out(value, f"{name!r} in {where}")
    if isinstance(value, list | tuple):
        turns = read_turns(value, name, where)
        last = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else None
        if last is not None and name.rpartition(".")[2] == "prompt":
            raise DataError(f"{name!r} in {where} ends with the assistant's turn; end it with the user's.")
        if not turns or turns[-1]["role"] != "user":
            raise DataError(f"{name!r} in {where} has no message of the user to end with.")
        text, history = turns[-1]["content"], tuple(turns[:-1])
    else:
        text, history, last = as_text(value, name, f"in {where}"), (), None
    if text is None or not text.strip():
        kind = "null" if text is None else "empty"
        raise DataError(f"{name!r} in {where} is {kind}; expected text or a conversation.")
    return text, history, last


def written_out(value: Any, what: str) -> Any:
    """Reads a conversation that a cell holds as JSON; anything else stays.

    Raises:
        DataError: it is cut off, or as Python prints it, or one message without a list.
    """
    if not (isinstance(value, str) and LIKE_MESSAGES.match(value)):
        return value
    try:
        value = json.loads(value)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise DataError(
            f"{what} begins like a conversation and is not a list of messages in JSON; write it as JSON, or use JSON"
            " lines or parquet."
        )
    return value


def read_turns(value: Sequence[Any], name: str, where: str) -> list[Message]:
    """Reads a conversation in either layout."""
    return [_message(each, f"message {number} of {name!r} in {where}") for number, each in enumerate(value, start=1)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {json.dumps(value, default=str):.40}; expected role and content.")
    role, content = (
        value[ours] if value.get(ours) is not None else value.get(other)
        for ours, other in (("role", "from"), ("content", "value"))
    )
    role = ROLES.get(role.strip().lower(), role.strip().lower()) if isinstance(role, str) else role
    if any(value.get(name) for name in CALLS) or role in ("tool", "function", "function_call", "observation"):
        raise DataError(f"{where} calls a tool; rlif trains on text alone.")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        others = sorted({str(part.get("type", "text")) for part in content} - {"text"})
        if others or not all(isinstance(part.get("text"), str) for part in content):
            raise DataError(f"{where} holds {', '.join(others) or 'a part without text'}; rlif trains on text alone.")
        content = "".join(part["text"] for part in content)
    if role not in TURNS or not isinstance(content, str):
        raise DataError(
            f"{where} has the role {role!r:.40} and a content that is a {type(content).__name__}; expected a role of"
            f" {', '.join(TURNS)} and text."
        )
    return {"role": role, "content": content}
