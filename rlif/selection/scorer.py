"""Scores text by a model: `rlif.score`, and the scorer behind it, `rlif score` and `rlif select`.

A prompt is plain text or a list of messages. Text becomes the user's message of the chat template where `chat` is on.
Prompt and completion are tokenised apart, completions without special tokens. A completion is closed by the token that
ends the assistant's turn in the chat template, else by the end-of-sequence token, since ending is a decision of the
model too. It is not closed where `end` is off, or where the row has `truncated` or `stopped`. Signals are at
temperature 1.

Watch: a model may have written the same text with other tokens than its tokenizer makes of it. So scores of text are
close to those taken while sampling, and not always equal.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rlif.config.loading import check_recipe
from rlif.errors import DataError, ModelError, RecipeError, RlifError
from rlif.files.atomic import is_count
from rlif.files.hashes import hash_weights
from rlif.files.jsonl import Row
from rlif.files.own import code_hashes, is_own
from rlif.files.tables import names_of
from rlif.files.text import check_text
from rlif.sampling.limits import check_pair, check_tokenizer, check_tokens
from rlif.sampling.loading import load_config, load_model, load_tokenizer, trained_with
from rlif.sampling.sources import weights_of
from rlif.scoring.head import head_of, longest_sequence
from rlif.scoring.statistics import score_completions
from rlif.signals import GROUP_SIGNALS, RENAMED, SIGNALS, every_signal, find_signal
from rlif.signals.token_confidence import TOP_K, WINDOW
from rlif.tasks.chat_template import WITH_TEMPLATE, Chat, chat_of, try_ahead
from rlif.tasks.rendering import encode, ends_of
from rlif.tasks.rows import CONVERSATIONS, named_column, read_turns, written_out
from rlif.types import Message

Pair = tuple[list[int], list[int]]  # token ids of a prompt and of a completion
PAIR = ("prompt", "completion")
BATCHES = 8  # scored together, so that rows of like length share a pass


def score(
    model: Any,
    tokenizer: Any,
    rows: Iterable[Any],
    signals: str | Sequence[str] | None = None,
    *,
    chat: Chat | bool | None = None,
    end: bool = True,
    batch_size: int = 16,
    window: int | None = None,
) -> list[dict[str, float | None]]:
    """Scores texts: one number for each signal and row, as `rlif score` writes them.

    Args:
        model: a causal language model of transformers, or a hub name or folder, which is loaded.
        tokenizer: the model's; None for that of the hub name or folder.
        rows: mappings with `prompt` (text or messages) and `completion`, or with `messages`, whose last turn is the
            completion; pairs of a prompt and a completion; or conversations, lists of messages.
        signals: names of `rlif.SIGNALS`, and your own as `signals.py:peak`; all of the former if left out.
        chat: whether prompts go through the chat template; by default where there is one.
        end: closes completions with the token that ends a turn, but for rows with `truncated` or `stopped`.
        batch_size: rows per forward pass.
        window: tokens in the window of the tail and window confidences; 2048 if left out.

    Returns:
        A mapping of signals to numbers for each row. A number is None where the row has no tokens to score, or more
        than the model takes.

    Raises:
        RecipeError: an unknown signal, or arguments that do not go together.
        DataError: a bad row, by its number.
        ModelError: the model cannot be loaded, or the tokenizer is that of another one.

    Example:
        >>> rlif.score(model, tokenizer, [("Where is the ball?", "Under cup E.")], "self_certainty")
        [{'self_certainty': 4.49...}]
    """
    named = _names(signals)
    read = [read_pair(row, f"row {number}") for number, row in enumerate(_listed(rows), start=1)]
    scorer = scorer_of(model, tokenizer, chat=chat, end=end, batch_size=batch_size, window=window)
    scorer = replace(scorer, also=tuple(name for name in named if is_own(name)))
    pairs = [pair for _, pair in scorer.encode_all((f"row {number}", row) for number, row in enumerate(read, start=1))]
    return [{name: values[RENAMED.get(name, name)] for name in named} for values in scorer.score_ids(pairs)]


def _names(signals: str | Sequence[str] | None) -> list[str]:
    """Lists the signals to return; refuses names that are none of `SIGNALS`, nor one's own."""
    given = [signals] if isinstance(signals, str) else SIGNALS if signals is None else signals
    if not given or not isinstance(given, Iterable) or not all(isinstance(name, str) for name in given):
        raise RecipeError(f"signals is {signals!r:.40}; give a name of rlif.SIGNALS, or a list of names.")
    names = list(given)
    for name in names:
        if name in GROUP_SIGNALS:
            raise RecipeError(
                f"{name} compares the completions of one problem, and rows are scored alone; see rlif.SIGNALS."
            )
        find_signal(name)
    return names


def _listed(rows: Any) -> list[Any]:
    if isinstance(rows, str | Path):
        raise RecipeError(f"rows is the text {str(rows)[:40]!r}; give a list of rows. `rlif score` reads files.")
    if hasattr(rows, "to_dict") and hasattr(rows, "iterrows"):
        raise RecipeError("rows is a DataFrame; give rows.to_dict('records').")
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise RecipeError(f"rows is a {type(rows).__name__}; give a list of rows, each with a prompt and a completion.")
    return list(rows)


@dataclass(frozen=True)
class Scorer:
    """Scores text by a model.

    Example:
        >>> Scorer(model, tokenizer).score([{"prompt": "Where is the ball?", "completion": "Under cup E."}])
        [{'self_certainty': 4.49..., 'negative_entropy': -0.83..., ...}]
    """

    model: Any  # a causal language model of transformers
    tokenizer: Any
    chat: Chat = WITH_TEMPLATE  # whether prompts go through the chat template, and how
    end: bool = True  # completions close with the token that ends a turn
    batch_size: int = 16  # rows per forward pass
    window: int = WINDOW  # tokens in the window of the tail and window confidences
    name: str = ""  # the model's, for the output
    also: tuple[str, ...] = ()  # signals of one's own that are computed as well

    def __post_init__(self) -> None:
        object.__setattr__(self, "chat", chat_of(self.chat))  # True and False are understood, too

    @property
    def described(self) -> str:
        """Returns what made the scores; it is written to each row, and compared when a file is resumed."""
        return self.settings + (f", {self.content}" if self.content else "")

    @property
    def settings(self) -> str:
        """Returns the same without the hash of the weights, as older files have it."""
        chat, end = "chat" if self.chat else "no chat", "end" if self.end else "no end"
        if isinstance(given := self.chat.described(), dict):
            chat += f" {json.dumps(given, sort_keys=True)}"
        if self.end and self.ends:
            end += f" {self.tokenizer.convert_ids_to_tokens(self.closing)}"
        code = "".join(f", {name} {found[:12]}" for name, found in code_hashes(self.also).items())
        return f"{self.name}, {chat}, {end}, window {self.window}{code}"

    @property
    def columns(self) -> list[str]:
        """The names of all signals that are computed."""
        return [*SIGNALS, *self.also]

    @cached_property
    def content(self) -> str | None:
        """A hash of the weights, or of parts of them: a folder may hold those of another training by now."""
        found = weights_of(self.name) if self.name else {}
        named = found.get("sha256") or found.get("commit")
        return named[:16] if named else hash_weights(Path(self.name)) if self.name else None

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a completion beside the end-of-sequence token."""
        return ends_of(self.tokenizer, self.chat)

    @property
    def closing(self) -> int:
        """The token that closes a completion which ended."""
        return (*self.ends, self.tokenizer.eos_token_id)[0]

    def encode(self, row: Row) -> Pair:
        """Returns the token ids of a row's prompt and completion.

        Raises:
            RecipeError: messages where `chat` is off.
            ModelError: messages that the template refuses, or a token without an embedding.
        """
        prompt = row["prompt"]
        if not self.chat and not isinstance(prompt, str):
            raise RecipeError(
                "its prompt is a list of messages, which takes a chat template; leave out chat=False, --no-chat."
            )
        prompt = self._conversation(row) if self.chat else prompt
        return self.checked((encode(self.tokenizer, prompt, self.chat), self.encode_completion(row)))

    def checked(self, pair: Pair) -> Pair:
        """Returns the token ids of a row; raises a ModelError where the model has no embedding of one."""
        if self.model is not None:
            check_tokens(self.name or type(self.model).__name__, self.model.config, self.tokenizer, pair)
        return pair

    def encode_all(self, rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[Row, Pair]]:
        """Yields rows with their token ids; an error says where the row is, which is given with each."""
        rows = list(rows)
        self.try_ahead([row for _, row in rows])
        for where, row in rows:
            try:
                pair = self.encode(row)
            except RlifError as error:
                raise type(error)(f"{where}: {error}") from error
            yield row, pair

    def try_ahead(self, rows: Sequence[Row]) -> None:
        """Tries the chat template on many rows at once, see `rlif.tasks.chat_template`."""
        if self.chat:
            try_ahead(self.tokenizer, [self._conversation(row) for row in rows], self.chat, opens=True)

    def _conversation(self, row: Row) -> list[Message]:
        prompt = row["prompt"]
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

    def encode_completion(self, row: Row) -> list[int]:
        """Returns the token ids of a row's completion, with the token that closes it if it ended."""
        completion_ids = self.tokenizer(text=[row["completion"]], add_special_tokens=False)["input_ids"][0]
        ended = self.end and not row.get("truncated") and not row.get("stopped")
        return completion_ids + ([self.closing] if ended else [])

    def score(self, rows: Sequence[Row]) -> list[dict[str, float | None]]:
        """Computes every signal of each row; None where there are no tokens, or more than the model takes."""
        self.try_ahead(rows)
        return self.score_ids([self.encode(row) for row in rows])

    def score_ids(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], advance: Callable[[int], object] = lambda rows: None
    ) -> list[dict[str, float | None]]:
        """Computes the same for pairs of prompt ids and completion ids; `advance` is called with scored rows."""
        limit = longest_sequence(self.model.config) or 2**62
        fit = [i for i, (prompt, completion) in enumerate(pairs) if prompt and len(prompt) + len(completion) <= limit]
        scores: list[dict[str, float | None]] = [dict.fromkeys(self.columns) for _ in pairs]
        top_k = min(TOP_K, head_of(self.model).vocab_size)
        for start in range(0, len(fit), self.batch_size * BATCHES):
            part = fit[start : start + self.batch_size * BATCHES]
            prompts, completions = zip(*(pairs[i] for i in part), strict=True)
            stats = score_completions(self.model, prompts, completions, top_k=top_k, batch_size=self.batch_size)
            for i, values in zip(part, every_signal(stats, self.window, self.also), strict=True):
                scores[i] = values
            advance(len(part))
        return scores


def scorer_of(
    model: Any, tokenizer: Any, *, chat: Chat | bool | None, end: bool, batch_size: int, window: int | None
) -> Scorer:
    """Makes a scorer of a model and its tokenizer, or loads it by a hub name or folder.

    Raises:
        RecipeError: what is given is none of these.
        ModelError: the tokenizer is that of another model.
    """
    for name, value in (("batch_size", batch_size), ("window", window)):
        if value is not None and (not is_count(value) or value < 1):
            raise RecipeError(f"{name} is {value!r}; it must be a whole number from 1.")
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(check_recipe({"model": str(tokenizer), "chat": False}))
    if isinstance(model, str | Path):
        how: dict[str, Any] = {"chat": chat_of(chat), "window": window, "batch_size": batch_size, "end": end}
        return load_scorer(str(model), tokenizer=tokenizer, dtype="auto", **how)
    check_pair(model, tokenizer)
    asked = chat_of(chat).over(trained_with(model.config.name_or_path))
    return Scorer(model, tokenizer, _default(asked, tokenizer), end, batch_size, window or WINDOW)


def load_scorer(
    model: str,
    *,
    chat: Chat,
    window: int | None,
    dtype: str,
    batch_size: int,
    end: bool = True,
    load: bool = True,
    tokenizer: Any = None,
) -> Scorer:
    """Loads a scorer; without its model if `load` is off.

    Args:
        chat: what it leaves open is that of the run which trained the model; without one the chat template is used
            where there is one.
        tokenizer: the model's own if left out.
    """
    recipe = check_recipe({"model": model, "dtype": dtype, "chat": bool(chat)})
    if tokenizer is not None:
        check_tokenizer(model, load_config(recipe), tokenizer)
    tokenizer = tokenizer or load_tokenizer(recipe)
    chat = _default(chat.over(trained_with(model)), tokenizer)
    return Scorer(load_model(recipe) if load else None, tokenizer, chat, end, batch_size, window or WINDOW, model)


def _default(chat: Chat, tokenizer: Any) -> Chat:
    """Uses the chat template where there is one, if that is left open; a broken one is refused before loading."""
    if chat.template and tokenizer.chat_template is None:
        raise ModelError("the tokenizer has no chat template; leave out chat=True.")
    chat = chat.over(Chat(tokenizer.chat_template is not None))
    if chat:
        encode(tokenizer, [{"role": "user", "content": "?"}], chat)
    return chat


def read_pair(row: Any, where: str) -> Row:
    """Reads a row that is a mapping, a pair of prompt and completion, or a conversation."""
    match row:
        case Mapping():
            return read_row(dict(row), where)
        case [Mapping(), *_] if all(isinstance(each, Mapping) for each in row):
            return read_row({"messages": [dict(each) for each in row]}, where)
        case [prompt, completion]:
            return read_row({"prompt": prompt, "completion": completion}, where)
    raise DataError(
        f"{where} is a {type(row).__name__}; expected a mapping with prompt and completion, a pair of the two, or a"
        " list of messages."
    )


def read_row(row: Row, where: str, columns: Mapping[str, str] = MappingProxyType({})) -> Row:
    """Reads the prompt and the completion of a row.

    A conversation in `messages` or `conversations` is both: its last turn, the assistant's, is the completion.

    Args:
        columns: the columns of the prompt and the completion, where they have other names.
    """
    check_text(row, where)
    row = row | {key: named_column(row, name, key, where) for key, name in columns.items()}
    whole = next((name for name in CONVERSATIONS if isinstance(row.get(name), list)), None)
    if whole and not row.keys() & PAIR:
        *turns, last = read_turns(row[whole], whole, where) or [{}]
        row |= {"prompt": turns, "completion": [last]}
    if missing := [name for name in PAIR if name not in row]:
        raise DataError(f"{where} has no {missing[0]!r}; it has {names_of(row)}.")
    completion = _completion(row, where)  # first, since a conversation that lacks it has no prompt either
    return row | {"prompt": read_prompt(row["prompt"], where), "completion": completion}


def _completion(row: Row, where: str) -> str:
    """Returns text, also that of a conversation of one turn of the assistant, as TRL has it."""
    match row["completion"]:
        case str(text) | [{"role": "assistant", "content": str(text)}]:
            return text
        case [{"role": role}]:
            raise DataError(f"the completion in {where} is a message of the {role}; expected the assistant's.")
        case other:
            found = "null" if other is None else f"a {type(other).__name__}"
            raise DataError(f"the completion in {where} is {found}; expected plain text.")


def read_prompt(prompt: Any, where: str) -> str | list[Message]:
    """Checks a prompt of a row, and reads its messages in whatever form they have.

    Raises:
        DataError: it is something else, or ends with the assistant's turn.
    """
    prompt = written_out(prompt, f"the prompt in {where}")
    if isinstance(prompt, str):
        return prompt
    if not prompt or not isinstance(prompt, list):
        raise DataError(f"the prompt in {where} is neither text nor a list of messages with role and content.")
    plain = all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in prompt
    )
    turns = prompt if plain else read_turns(prompt, "prompt", where)
    if turns[-1]["role"] == "assistant":
        raise DataError(f"the prompt in {where} ends with the assistant's turn; end it with the user's.")
    return turns
