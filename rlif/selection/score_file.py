"""Scores text from elsewhere: reads rows of prompt and completion, adds every signal at temperature 1.

A prompt is plain text or a list of messages. Text becomes the user's message of the chat template where `chat` is on.
Prompt and completion are tokenised apart, completions without special tokens. The end-of-sequence token closes a
completion, since ending is a decision of the model too, unless `end` is off or the row has `truncated` or `stopped`.

Watch: a model may have written the same text with other tokens than its tokenizer makes of it. So scores of text are
close to those taken while sampling, and not always equal.

A file is written in the order of the rows, a batch at a time. Rows that it holds already are checked against the input
and not scored again; a torn last line is dropped.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rlif import progress
from rlif.config.loading import check_recipe
from rlif.errors import DataError, MachineError, RecipeError, RlifError
from rlif.files.jsonl import JsonLog, Row, read_lines
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.scoring.head import head_of
from rlif.scoring.statistics import score_completions
from rlif.signals import SIGNALS, every_signal
from rlif.signals.token_confidence import TOP_K, WINDOW
from rlif.tasks.rendering import encode

Pair = tuple[list[int], list[int]]  # token ids of a prompt and of a completion
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
    chat: bool = True  # render prompts by the chat template
    end: bool = True  # completions close with the end-of-sequence token
    batch_size: int = 16  # rows per forward pass
    window: int = WINDOW  # tokens in the window of the tail and window confidences
    name: str = ""  # the model's, for the output

    @property
    def described(self) -> str:
        """Returns what made the scores; it is written to each row, and compared when a file is resumed."""
        chat, end = "chat" if self.chat else "no chat", "end" if self.end else "no end"
        return f"{self.name}, {chat}, {end}, window {self.window}"

    def encode(self, row: Row) -> Pair:
        """Returns the token ids of a row's prompt and completion.

        Raises:
            RecipeError: messages where `chat` is off.
            ModelError: messages that the template refuses.
        """
        prompt = row["prompt"]
        if self.chat and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if not self.chat and not isinstance(prompt, str):
            raise RecipeError("its prompt is a list of messages, which takes a chat template; leave --no-chat out.")
        return encode(self.tokenizer, prompt, self.chat), self.encode_completion(row)

    def encode_completion(self, row: Row) -> list[int]:
        """Returns the token ids of a row's completion, with the end-of-sequence token if it ended."""
        completion_ids = self.tokenizer(text=[row["completion"]], add_special_tokens=False)["input_ids"][0]
        ended = self.end and not row.get("truncated") and not row.get("stopped")
        return completion_ids + ([self.tokenizer.eos_token_id] if ended else [])

    def score(self, rows: Sequence[Row]) -> list[dict[str, float | None]]:
        """Computes every signal of each row; None where there are no tokens, or more than the model takes."""
        return self.score_ids([self.encode(row) for row in rows])

    def score_ids(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], advance: Callable[[int], object] = lambda rows: None
    ) -> list[dict[str, float | None]]:
        """Computes the same for pairs of prompt ids and completion ids; `advance` is called with scored rows."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**62
        fit = [i for i, (prompt, completion) in enumerate(pairs) if prompt and len(prompt) + len(completion) <= limit]
        scores: list[dict[str, float | None]] = [dict.fromkeys(SIGNALS) for _ in pairs]
        top_k = min(TOP_K, head_of(self.model).vocab_size)
        for start in range(0, len(fit), self.batch_size * BATCHES):
            part = fit[start : start + self.batch_size * BATCHES]
            prompts, completions = zip(*(pairs[i] for i in part), strict=True)
            stats = score_completions(self.model, prompts, completions, top_k=top_k, batch_size=self.batch_size)
            for i, values in zip(part, every_signal(stats, self.window), strict=True):
                scores[i] = values
            advance(len(part))
        return scores


def load_scorer(
    model: str,
    *,
    chat: bool | None,
    window: int | None,
    dtype: str,
    batch_size: int,
    end: bool = True,
    load: bool = True,
) -> Scorer:
    """Loads a scorer; without its model if `load` is off. `chat` None uses the chat template where there is one."""
    recipe = check_recipe({"model": model, "dtype": dtype, "chat": bool(chat)})
    tokenizer = load_tokenizer(recipe)
    template = tokenizer.chat_template is not None if chat is None else chat
    return Scorer(load_model(recipe) if load else None, tokenizer, template, end, batch_size, window or WINDOW, model)


def score_file(scorer: Scorer, source: Path, out: Path | TextIO, total: int | None = None) -> dict[str, int]:
    """Scores a file of JSON lines.

    Args:
        source: rows with `prompt` and `completion`; other columns are copied, except those named as a signal.
        out: a file, resumed if it exists, or an open stream.
        total: the number of rows, to show the time left.

    Returns:
        Counts: `rows`, `skipped` (written before), `unscorable`.

    Raises:
        DataError: a bad row, named by its line; what came before it is written. An output that belongs to other rows
            or another model.
    """
    rows = read_rows(source)
    counts = {"rows": 0, "skipped": 0, "unscorable": 0}
    if isinstance(out, Path):
        _resume(scorer, source, rows, out, counts)
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
        raise MachineError(f"cannot write {out}: {error.strerror}.") from error
    return counts


def _batches(encoded: Iterator[tuple[Row, Pair]], size: int) -> Iterator[list[tuple[Row, Pair]]]:
    """Yields the rows in batches. An error is raised once the rows before it are yielded."""
    while True:
        batch: list[tuple[Row, Pair]] = []
        try:
            for each in islice(encoded, size):
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
    """Yields rows with their token ids; an error names the line."""
    for number, row in rows:
        try:
            pair = scorer.encode(row)
        except RlifError as error:
            raise type(error)(f"line {number} of {source}: {error}") from error
        yield row, pair


def read_rows(source: Path) -> Iterator[tuple[int, Row]]:
    """Reads line numbers and rows with a prompt and a completion.

    Raises:
        DataError: a row that lacks one of them, or holds something else there.
    """
    for number, row in read_lines(source):
        for column in ("prompt", "completion"):
            if column not in row:
                raise DataError(f"line {number} of {source} has no {column!r}; it has {', '.join(row) or 'nothing'}.")
        prompt, completion = row["prompt"], row["completion"]
        if not isinstance(completion, str):
            found = type(completion).__name__
            raise DataError(f"the completion in line {number} of {source} is a {found}; expected plain text.")
        if not isinstance(prompt, str) and not (prompt and isinstance(prompt, list) and all(map(_message, prompt))):
            raise DataError(
                f"the prompt in line {number} of {source} is neither text nor a list of messages with role and content."
            )
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"line {number} of {source} holds text that is not Unicode: {error.reason}.") from error
        yield number, row


def _message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message


def _resume(scorer: Scorer, source: Path, rows: Iterator[tuple[int, Row]], out: Path, counts: dict[str, int]) -> None:
    """Drops a torn last line of the output, skips the input rows that it holds, and counts them."""
    if out.is_file() and out.samefile(source):
        raise RecipeError(f"{out} is the input itself; give another output.")
    log = JsonLog(out)
    for number, written in log.rows():
        _, row = next(rows, (0, None))
        if row is None or (written.get("prompt"), written.get("completion")) != (row["prompt"], row["completion"]):
            raise DataError(f"line {number} of {out} is not the row of {source} in its place; give another output.")
        if written.get("scored_by") != scorer.described:
            raise DataError(
                f"{out} was scored by {written.get('scored_by')}, this is {scorer.described}; give another output."
            )
        counts["rows"] += 1
        counts["unscorable"] += written.get("self_certainty") is None
    log.cut()
    counts["skipped"] = counts["rows"]
