"""What the parts of a round hand to each other: a `Round`, rows of samples, and what is built of them to train on.

Files of a round, in the run folder's `rounds/round-001/`:

    settings.json                  how it samples; compared before a killed round goes on
    sampling.json, samples.jsonl   the samples, a row per completion; resumed after a kill
    NAME.jsonl                     other work of a method, by `in_batches`
    data.jsonl                     an `Example` a line; written whole, after all samples are there
    kept.jsonl                     the samples that the report shows
    round.json                     counts, tokens and means; written last
    checkpoints/                   while it trains; removed once the trained model is in checkpoints/ of the run

A row of a sample has `id` (of its problem), `sample`, `completion`, `completion_ids` (as sampled, the closing token
included), `answer`, `right` (None unless the choice reads gold), `tokens`, `truncated`, `reward`, and signals by name.
`prompt_ids` is there where its prompt is not the problem's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rlif import progress
from rlif.config.recipe import Recipe
from rlif.engines.rounds.pairs import Value, best, best_against
from rlif.errors import DataError
from rlif.files.atomic import write_rows, writing
from rlif.files.jsonl import JsonLog, Row, read_lines
from rlif.sampling.protocol import render_problems
from rlif.sampling.sampler import Completion, Decoding, TransformersSampler
from rlif.selection.scorer import Scorer
from rlif.tasks import Task
from rlif.tasks.prompts import Prompt
from rlif.tasks.rendering import encode
from rlif.types import Message, Problem

Item = TypeVar("Item")
SAMPLES, DATA = "samples.jsonl", "data.jsonl"


@dataclass(frozen=True)
class Example:
    """One row to train on, as token ids."""

    id: str  # of the problem
    prompt_ids: list[int]
    chosen_ids: list[int]  # sft: the completion to learn; its closing token included
    rejected_ids: list[int] | None = None  # dpo
    values: tuple[float, float] | None = None  # of the chosen and the rejected one, for losses that read them


@dataclass(frozen=True)
class Built:
    """What a round trains on."""

    examples: list[Example]
    counts: dict[str, float] = field(default_factory=dict)  # logged with each step of the round, by name


@dataclass(frozen=True)
class Round:
    """What a method gets: the policy with its problems, and where to keep work."""

    number: int  # from 1
    seed: int  # another one in each round
    folder: Path
    recipe: Recipe
    task: Task
    prompt: Prompt
    problems: list[Problem]  # of this round, without gold answers unless the method reads them
    scorer: Scorer  # has the policy, in evaluation mode, and its tokenizer
    decoding: Decoding  # as the recipe says, with n completions of each problem
    before: Path | None = None  # the folder of the round before; None in the first

    @cached_property
    def rendered(self) -> dict[str, list[int]]:
        """The prompts of the problems as token ids, by id."""
        return dict(zip((problem.id for problem in self.problems), self.render(self.problems), strict=True))

    @cached_property
    def by_id(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.problems}

    def render(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Returns the prompts of problems as token ids."""
        return render_problems(self.scorer.tokenizer, self.prompt, problems, self.scorer.chat, self.task)

    def problem(self, id: str) -> Problem:
        return self.by_id[id]

    def prompt_ids(self, row: Row) -> list[int]:
        """Returns the prompt of a row as token ids: its own, or its problem's."""
        return row.get("prompt_ids") or self.rendered[row["id"]]

    def encode(self, prompt: str | Sequence[Message]) -> list[int]:
        """Returns a prompt as token ids; text is the user's message where the recipe uses the chat template."""
        chat = self.scorer.chat
        turns = [{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt
        return encode(self.scorer.tokenizer, turns, chat)

    def complete(self, prompt_ids: Sequence[Sequence[int]], decoding: Decoding) -> list[Completion]:
        """Samples `decoding.n` completions of each prompt; the same again for the same `decoding.seed`."""
        scorer = self.scorer
        return TransformersSampler(scorer.model, scorer.tokenizer, scorer.batch_size).sample(prompt_ids, decoding)

    def rng(self, *names: Any) -> random.Random:
        """Returns a generator of random numbers of its own for these names."""
        return random.Random("/".join(map(str, (self.seed, *names))))


def in_batches(
    path: Path, items: Sequence[Item], size: int, work: Callable[[Sequence[Item], int], Sequence[Row]], what: str
) -> list[list[Row]]:
    """Does work batch by batch and keeps the rows of each batch as a line of a file.

    Batches that a killed process finished are read back. Random choices should depend on the number of the batch, so
    that the file has the same bytes then.

    Args:
        size: items of a batch.
        work: from the items of a batch and its number to rows.
        what: shown as progress.

    Returns:
        The rows of each batch.
    """
    log = JsonLog(path, ascii=False)
    done = [row["rows"] for _, row in log.rows()]
    with writing(path):
        log.cut()
    starts = range(0, len(items), size)
    with progress.task(what, len(items)) as advance:
        advance.found(min(len(done) * size, len(items)))
        for number in range(len(done), len(starts)):
            part = items[starts[number] : starts[number] + size]
            rows = [dict(row) for row in work(part, number)]
            with writing(path):
                log.append({"batch": number, "rows": rows})
            done.append(rows)
            advance(len(part))
    return done


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Writes what a round trains on, whole or not at all."""
    write_rows(folder / DATA, map(asdict, examples))


def read_examples(folder: Path) -> list[Example]:
    """Reads what a round trains on.

    Raises:
        DataError: a line is not an example.
    """
    found = []
    for number, row in read_lines(folder / DATA):
        try:
            values = row.pop("values")
            found.append(Example(**row, values=values and tuple(values)))
        except (TypeError, KeyError) as error:
            raise DataError(f"line {number} of {folder / DATA} is damaged: it is not a row to train on.") from error
    return found


def by_groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Returns the rows of each problem; problems and rows stay in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["id"], []).append(row)
    return [*groups.values()]


def by_values(
    round_: Round, groups: Sequence[Sequence[Row]], values: Sequence[Sequence[Value | None]], least: float = -math.inf
) -> Built:
    """Builds what a round trains on from a value of each sample: the best of each problem, or a pair of it.

    Args:
        values: of each sample of each group, see `rlif.engines.rounds.pairs`.
        least: the first number of what is kept or preferred must be larger.
    """
    rounds = round_.recipe.rounds
    assert rounds is not None
    examples: list[Example] = []
    empty = 0
    for group, column in zip(groups, values, strict=True):
        texts = [row["completion"] for row in group]
        if round_.recipe.algorithm == "sft":
            kept = best(column, texts, rounds.keep, least)
            examples += [Example(group[i]["id"], round_.prompt_ids(group[i]), group[i]["completion_ids"]) for i in kept]
            empty += not kept
            continue
        pair = best_against(column, texts, rounds.against, round_.rng("against", group[0]["id"]), least)
        if pair is None:
            empty += 1
            continue
        chosen, rejected = (group[i] for i in pair)
        numbers = tuple((column[i] or (math.nan,))[0] for i in pair)
        ids = chosen["id"], round_.prompt_ids(chosen), chosen["completion_ids"], rejected["completion_ids"]
        examples.append(Example(*ids, values=(numbers[0], numbers[1])))
    return Built(examples, {"without_example": float(empty)})
