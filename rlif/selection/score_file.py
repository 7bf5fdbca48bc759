"""Scores text from elsewhere: reads rows of prompt and completion, adds every signal at temperature 1.

A prompt is plain text or a list of messages. Text becomes the user's message of the chat template where `chat` is on.
Prompt and completion are tokenised apart, completions without special tokens. A completion is closed by
the token that ends the assistant's turn in the chat template, else by the end-of-sequence token, since ending is a
decision of the model too; not where `end` is off or the row has `truncated` or `stopped`.

Watch: a model may have written the same text with other tokens than its tokenizer makes of it. So scores of text are
close to those taken while sampling, and not always equal.

A file is written in the order of the rows, a batch at a time. Rows that it holds already are checked against the input
and not scored again. What a kill left of a batch is dropped: the numbers of a row depend in their last bits on the rows
that share its pass, and a resumed file holds the same bytes as one that was not.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO, TypeVar

from rlif import progress
from rlif.config.loading import check_recipe
from rlif.errors import DataError, MachineError, RecipeError, RlifError, why_unreadable
from rlif.files.hashes import hash_weights
from rlif.files.jsonl import JsonLog, Row, read_lines
from rlif.files.lock import alone
from rlif.files.tables import names_of
from rlif.files.text import check_text
from rlif.own import code_hashes
from rlif.sampling.limits import check_tokens
from rlif.sampling.loading import load_model, load_tokenizer, trained_with
from rlif.scoring.head import head_of, longest_sequence
from rlif.scoring.statistics import score_completions
from rlif.signals import SIGNALS, every_signal
from rlif.signals.token_confidence import TOP_K, WINDOW
from rlif.tasks.chat_template import WITH_TEMPLATE, Chat, chat_of, try_ahead
from rlif.tasks.rendering import encode, ends_of
from rlif.tasks.rows import CONVERSATIONS, named_column, read_turns, written_out
from rlif.types import Message

Pair = tuple[list[int], list[int]]  # token ids of a prompt and of a completion
Each = TypeVar("Each")
PAIR = ("prompt", "completion")
BATCHES = 8  # scored and written together, so that rows of like length share a pass


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
        chat, end = "chat" if self.chat else "no chat", "end" if self.end else "no end"
        if isinstance(given := self.chat.described(), dict):
            chat += f" {json.dumps(given, sort_keys=True)}"
        if self.end and self.ends:
            end += f" {self.tokenizer.convert_ids_to_tokens(self.closing)}"
        code = "".join(f", {name} {found[:12]}" for name, found in code_hashes(self.also).items())
        return f"{self.name}, {chat}, {end}, window {self.window}{code}" + (f", {self.content}" if self.content else "")

    @property
    def columns(self) -> list[str]:
        """The names of all signals that are computed."""
        return [*SIGNALS, *self.also]

    @cached_property
    def content(self) -> str | None:
        """A hash of parts of the weights, since a folder may hold those of another training by now."""
        return hash_weights(Path(self.name)) if self.name else None

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
            raise RecipeError("its prompt is a list of messages, which takes a chat template; leave --no-chat out.")
        prompt = self._conversation(row) if self.chat else prompt
        return self.checked((encode(self.tokenizer, prompt, self.chat), self.encode_completion(row)))

    def checked(self, pair: Pair) -> Pair:
        """Returns the token ids of a row; raises a ModelError where the model has no embedding of one."""
        if self.model is not None:
            check_tokens(self.name or type(self.model).__name__, self.model.config, self.tokenizer, pair)
        return pair

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


def load_scorer(
    model: str, *, chat: Chat, window: int | None, dtype: str, batch_size: int, end: bool = True, load: bool = True
) -> Scorer:
    """Loads a scorer; without its model if `load` is off.

    Args:
        chat: what it leaves open is that of the run which trained the model; without one the chat template is used
            where there is one.
    """
    recipe = check_recipe({"model": model, "dtype": dtype, "chat": bool(chat)})
    tokenizer = load_tokenizer(recipe)
    chat = chat.over(trained_with(model)).over(Chat(tokenizer.chat_template is not None))
    if chat:
        encode(tokenizer, [{"role": "user", "content": "?"}], chat)  # a broken template is refused before loading
    return Scorer(load_model(recipe) if load else None, tokenizer, chat, end, batch_size, window or WINDOW, model)


def score_file(
    scorer: Scorer,
    source: Path,
    out: Path | TextIO,
    total: int | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, int]:
    """Scores a file of JSON lines.

    Args:
        source: rows with `prompt` and `completion`; other columns are copied, except those named as a signal.
        out: a file, resumed if it exists, or an open stream.
        total: the number of rows, to show the time left.
        columns: as in `read_rows`.

    Returns:
        Counts: `rows`, `skipped` (written before), `unscorable`.

    Raises:
        DataError: a bad row, named by its line; what came before it is written. An output that belongs to other rows
            or another model.
        MachineError: the output cannot be written, or another process writes to it.
    """
    if not isinstance(out, Path):
        return _score(scorer, source, out, total, columns)
    if out.is_file() and source.is_file() and out.samefile(source):
        raise RecipeError(f"{out} is the input itself; give another output.")
    with alone(out):
        return _score(scorer, source, out, total, columns)


def _score(
    scorer: Scorer, source: Path, out: Path | TextIO, total: int | None, columns: Mapping[str, str]
) -> dict[str, int]:
    counts = {"rows": 0, "skipped": 0, "unscorable": 0}
    reread = partial(read_rows, source, columns)
    rows = _resume(scorer, source, reread, out, counts) if isinstance(out, Path) else reread()
    append = JsonLog(out, ascii=False).append if isinstance(out, Path) else partial(_print, out)
    try:
        append()  # a file that cannot be written is refused before anything is scored
        with progress.task("scoring", total, done=counts["rows"]) as advance:
            for batch in _batches(_encode(rows, scorer, source), scorer.batch_size * BATCHES):
                scores = scorer.score_ids([pair for _, pair in batch])
                scored = zip(batch, scores, strict=True)
                append(*({**row, **values, "scored_by": scorer.described} for (row, _), values in scored))
                counts["unscorable"] += sum(values["self_certainty"] is None for values in scores)
                counts["rows"] += len(batch)
                advance(len(batch))
    except OSError as error:
        raise MachineError(f"cannot write {out}: {why_unreadable(error)}.") from error
    return counts


def _batches(rows: Iterator[Each], size: int) -> Iterator[list[Each]]:
    """Yields rows in batches. An error is raised once the rows before it are yielded."""
    while True:
        batch: list[Each] = []
        try:
            for each in islice(rows, size):
                batch.append(each)
        except RlifError:
            yield batch
            raise
        if not batch:
            return
        yield batch


def _print(out: TextIO, *rows: Row) -> None:
    out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    out.flush()


def _encode(rows: Iterator[tuple[int, Row]], scorer: Scorer, source: Path) -> Iterator[tuple[Row, Pair]]:
    """Yields rows with their token ids; an error names the line, and is raised once the rows before it are yielded."""
    for part in _batches(rows, scorer.batch_size * BATCHES):
        scorer.try_ahead([row for _, row in part])
        for number, row in part:
            try:
                pair = scorer.encode(row)
            except RlifError as error:
                raise type(error)(f"line {number} of {source}: {error}") from error
            yield row, pair


def read_rows(source: Path, columns: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[int, Row]]:
    """Reads line numbers and rows with a prompt and a completion.

    A conversation in `messages` or `conversations` is both: its last turn, the assistant's, is the completion.

    Args:
        columns: the columns of the prompt and the completion, where they have other names.
    """
    if unknown := sorted(columns.keys() - PAIR):
        raise RecipeError(f"columns has no {unknown[0]!r} here; rows are scored by {' and '.join(PAIR)}.")
    for number, row in read_lines(source):
        where = f"line {number} of {source}"
        check_text(row, where)
        row = row | {key: named_column(row, name, key, where) for key, name in columns.items()}
        whole = next((name for name in CONVERSATIONS if isinstance(row.get(name), list)), None)
        if whole and not row.keys() & PAIR:
            *turns, last = read_turns(row[whole], whole, where) or [{}]
            row |= {"prompt": turns, "completion": [last]}
        if missing := [name for name in PAIR if name not in row]:
            raise DataError(f"{where} has no {missing[0]!r}; it has {names_of(row)}.")
        yield number, row | {"prompt": read_prompt(row["prompt"], where), "completion": _completion(row, where)}


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


def _resume(
    scorer: Scorer, source: Path, reread: Callable[[], Iterator[tuple[int, Row]]], out: Path, counts: dict[str, int]
) -> Iterator[tuple[int, Row]]:
    """Counts the rows that the output holds, and returns the input rows to score; drops what a kill left of a batch."""
    size, log, rows = scorer.batch_size * BATCHES, JsonLog(out), reread()
    held: list[tuple[int, bool]] = []  # of each row written, its line and whether it is unscorable
    last: deque[tuple[int, Row]] = deque(maxlen=size)
    for line, written in log.rows():
        number, row = next(rows, (0, None))
        if row is None or (written.get("prompt"), written.get("completion")) != (row["prompt"], row["completion"]):
            raise DataError(f"line {line} of {out} is not the row of {source} in its place; give another output.")
        if written.get("scored_by") not in (scorer.described, scorer.described.removesuffix(f", {scorer.content}")):
            raise DataError(
                f"{out} was scored by {written.get('scored_by')}, this is {scorer.described}; give another output."
            )
        held.append((line, written.get("self_certainty") is None))
        last.append((number, row))
    following = list(islice(rows, 1))
    again = len(held) % size if following else 0
    kept = held[: len(held) - again]
    log.cut(kept[-1][0] if kept else 0)
    counts["rows"] = counts["skipped"] = len(kept)
    counts["unscorable"] = sum(none for _, none in kept)
    return chain(list(last)[len(last) - again :], following, rows)
