"""N samples of each problem, as rows: drawn from a model, or read from a file.

A row is one completion: {id, sample, completion, answer, right, tokens, truncated, stopped, and every signal by name}.
`right` is None where there is no gold answer, a signal None where it cannot be scored. Signals are at temperature 1
whatever temperature the samples were drawn at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif.early_stop import PERCENTILE, EarlyStop, threshold
from rlif.errors import RlifError
from rlif.jsonl import read_lines
from rlif.prompts import Prompt
from rlif.rollout import Completion, generate, render
from rlif.score_file import Scorer
from rlif.selection import by_problem
from rlif.signals import SIGNALS
from rlif.tasks import Task
from rlif.types import Problem

Row = dict[str, Any]
KINDS: dict[str, tuple[type, ...]] = {"completion": (str,), "answer": (str,), "right": (bool,), "prompt": (str, list)}


@dataclass(frozen=True)
class Sampler:
    """Draws rows for problems of a task.

    Attributes:
        scorer: the model, its tokenizer, and how it is scored.
        task: marks the completions.
        prompt: template for the problems.
        max_tokens: completion limit.
        temperature: of sampling.
        batch_size: completions per call of the model's generate.

    Example:
        >>> sampler = Sampler(Scorer(model, tokenizer), rlif.TASKS["clock"], PROMPTS["plain"], max_tokens=56)
        >>> rows = sampler.draw(problems, n=16)
        >>> best = rlif.select(rows, "borda")
    """

    scorer: Scorer
    task: Task
    prompt: Prompt
    max_tokens: int
    temperature: float = 1.0
    batch_size: int = 64

    def draw(self, problems: Sequence[Problem], n: int) -> list[Row]:
        """N rows for each problem, one problem after the other. Seed torch first to get the same rows again."""
        return self._draw(problems, [0] * len(problems), n)

    def draw_on(
        self, problems: Sequence[Problem], warm_up: Sequence[Row], n: int, percent: float = PERCENTILE
    ) -> list[Row]:
        """`warm_up`, whole rows of the problems, and further ones up to n that are stopped when they get too unsure.

        Args:
            warm_up: as many rows for each problem, see `rlif.early_stop` for what is made of them.
            n: rows per problem in all.
            percent: percentile of the warm-up's lowest windows below which a row is stopped.

        Returns:
            Rows with `threshold` beside the rest, for each problem the warm-up first.
        """
        warm = by_problem(warm_up)
        bars = {name: threshold([r["group_confidence_lowest"] for r in rows], percent) for name, rows in warm.items()}
        first = [len(warm[problem.id]) for problem in problems]
        drawn = by_problem(self._draw(problems, first, n, [bars[problem.id] for problem in problems]))
        rows = [row for problem in problems for row in (*warm[problem.id], *drawn.get(problem.id, []))]
        return [{**row, "threshold": bars[row["id"]]} for row in rows]

    def _draw(
        self, problems: Sequence[Problem], first: Sequence[int], n: int, bars: Sequence[float] | None = None
    ) -> list[Row]:
        """Samples number `first` to n - 1 of each problem."""
        which = [(i, sample) for i in range(len(problems)) for sample in range(first[i], n)]
        repeated = [problems[i] for i, _ in which]
        scorer = self.scorer
        prompts = [render(scorer.tokenizer, self.prompt, problem.text, scorer.chat) for problem in problems]
        completions = generate(
            scorer.model,
            scorer.tokenizer,
            [prompts[i] for i, _ in which],
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            batch_size=self.batch_size,
            early=None if bars is None else EarlyStop([bars[i] for i, _ in which], scorer.window),
        )
        marks = self.task.mark(repeated, [completion.text for completion in completions])
        scores = scorer.score_ids([(c.prompt_ids, c.completion_ids) for c in completions])
        return [
            {
                "id": problem.id,
                "sample": sample,
                **_plain(completion),
                "answer": mark.answer,
                "right": mark.right,
                **score,
            }
            for problem, (_, sample), completion, mark, score in zip(
                repeated, which, completions, marks, scores, strict=True
            )
        ]


def _plain(completion: Completion) -> Row:
    return {
        "completion": completion.text,
        "tokens": len(completion.completion_ids),
        "truncated": completion.truncated,
        "stopped": completion.stopped,
    }


def read_samples(path: Path) -> list[Row]:
    """Rows of a file of JSON lines; values that are no finite number become None.

    Raises:
        RlifError: a row without id or completion, or with something else where text, truth or a number belongs.
    """
    rows = []
    for number, row in read_lines(path):
        for name in ("id", "completion"):
            if name not in row:
                raise RlifError(f"line {number} of {path} has no {name!r}; it has {', '.join(row) or 'nothing'}.")
        for name, kinds in KINDS.items():
            if row.get(name) is not None and not isinstance(row[name], kinds):
                found, wanted = type(row[name]).__name__, " or ".join(kind.__name__ for kind in kinds)
                raise RlifError(f"{name!r} in line {number} of {path} is a {found}; expected {wanted} or null.")
        if row["completion"] is None:
            raise RlifError(f"the completion in line {number} of {path} is null; expected plain text.")
        for name in SIGNALS.keys() & row.keys():
            if isinstance(row[name], bool) or not isinstance(row[name], int | float | None):
                found = type(row[name]).__name__
                raise RlifError(f"{name!r} in line {number} of {path} is a {found}; expected a number or null.")
            if row[name] is not None and not math.isfinite(row[name]):
                row[name] = None
        rows.append({**row, "id": str(row["id"])})
    if not rows:
        raise RlifError(f"{path} holds no samples.")
    return rows


def mark_samples(rows: Sequence[Row], task: Task, problems: Mapping[str, Problem]) -> list[Row]:
    """Adds what is missing of `answer` and `right`, both read off the completion; what is there stays.

    Raises:
        RlifError: a row without `right` whose id is none of the problems.
    """
    rows = [dict(row) for row in rows]
    for row in rows:
        if "right" not in row and row["id"] not in problems:
            raise RlifError(
                f"the sample of {row['id']!r} is to be graded, but {task.name} has no such problem among the"
                f" {len(problems)} that were loaded."
            )
        if "right" in row:
            row.setdefault("answer", task.extract(row["completion"]))
    open_ = [row for row in rows if "right" not in row]
    marks = task.mark([problems[row["id"]] for row in open_], [row["completion"] for row in open_])
    for row, mark in zip(open_, marks, strict=True):
        row |= {"answer": row.get("answer", mark.answer), "right": mark.right}
    return rows


def score_samples(rows: Sequence[Row], scorer: Scorer, prompt: Prompt, problems: Mapping[str, Problem]) -> list[Row]:
    """Adds every signal to the rows that lack one, each row scored after its own `prompt` or its problem's.

    Raises:
        RlifError: a row to be scored has no prompt, and its id is none of the problems.
    """
    open_ = [i for i, row in enumerate(rows) if not SIGNALS.keys() <= row.keys()]
    pairs = []
    for i in open_:
        row = rows[i]
        if "prompt" not in row and row["id"] not in problems:
            raise RlifError(
                f"the sample of {row['id']!r} is to be scored, but has no prompt, and no task was named that has it."
            )
        prompt_ids, completion_ids = scorer.encode({"prompt": "", **row})
        if "prompt" not in row:
            prompt_ids = render(scorer.tokenizer, prompt, problems[row["id"]].text, scorer.chat)
        pairs.append((prompt_ids, completion_ids))
    found = dict(zip(open_, scorer.score_ids(pairs), strict=True))
    return [{**row, **{k: v for k, v in found.get(i, {}).items() if k not in row}} for i, row in enumerate(rows)]
