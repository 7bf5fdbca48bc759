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
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
TURNS = ("system", "developer", "user", "assistant")
CALLS = ("tool_calls", "function_call", "tools")
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
    if usual["prompt"] == "prompt" and found.get("prompt", "") is None:
        found["prompt"] = next(filter(None, (find_column(row, name) for name in CONVERSATIONS)), None)
    given |= {key: row[name] for key, name in found.items() if name is not None}
    names = {**usual, **{key: name for key, name in found.items() if name}, **columns}
    if "prompt" not in given:
        raise DataError(f"{where} has no {names['prompt']!r}; it has {names_of(row)}; {HINT}.")
    text, history, last = _prompt(given["prompt"], names["prompt"], where)
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
    return tuple(text for each in values if (text := as_text(each, name, where)))


def _prompt(value: Any, name: str, where: str) -> tuple[str, tuple[Message, ...], str | None]:
    """Reads text or a conversation: its last user message, those before it, and what the assistant said last."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = _written_out(value, f"{name!r} in {where}")
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


def _written_out(text: str, what: str) -> str | list[Any]:
    """Reads a conversation that a cell holds as JSON; other text stays.

    Raises:
        DataError: the conversation is as Python prints it, which has no single meaning.
    """
    if re.match(r"\s*\[\{'(role|content|from|value)': ", text):
        raise DataError(
            f"{what} is a conversation as Python prints it; write it as JSON, or use JSON lines or parquet."
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    found = isinstance(value, list) and all(isinstance(each, dict) and each.keys() & {"role", "from"} for each in value)
    return value if found else text


def read_turns(value: Sequence[Any], name: str, where: str) -> list[Message]:
    """Reads a conversation in either layout."""
    return [_message(each, f"message {number} of {name!r} in {where}") for number, each in enumerate(value, start=1)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {json.dumps(value, default=str):.40}; expected role and content.")
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    role = ROLES.get(role.lower(), role.lower()) if isinstance(role, str) else role
    if any(value.get(name) for name in CALLS) or role in ("tool", "function", "function_call", "observation"):
        raise DataError(f"{where} calls a tool; rlif trains on text alone.")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if any(part.get("type") != "text" for part in content):
            kinds = ", ".join(sorted({str(part.get("type")) for part in content} - {"text"}))
            raise DataError(f"{where} holds {kinds}; rlif trains on text alone.")
        content = "".join(str(part.get("text", "")) for part in content)
    if role not in TURNS or not isinstance(content, str):
        raise DataError(
            f"{where} has the role {role!r:.40} and a content that is a {type(content).__name__}; expected a role of"
            f" {', '.join(TURNS)} and text."
        )
    return {"role": role, "content": content}
