"""Draws N samples of each problem from a model, or reads them from a file, as rows.

A row is one completion: {id, sample, completion, answer, right, tokens, truncated, stopped, and every signal by name}.
`right` is None where there is no gold answer, a signal None where it cannot be scored. Signals are at temperature 1
whatever temperature the samples were drawn at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rlif import progress
from rlif.answers.clusters import by_problem, with_ids
from rlif.config.loading import check_recipe
from rlif.errors import DataError
from rlif.files.atomic import is_number
from rlif.files.jsonl import Row, read_lines
from rlif.files.own import is_own
from rlif.files.text import check_text
from rlif.sampling.early_stop import PERCENTILE, EarlyStop, threshold
from rlif.sampling.limits import check_fit
from rlif.sampling.loading import load_config
from rlif.sampling.protocol import mark, render_problems
from rlif.sampling.sampler import Completion, Decoding, Sampler, TransformersSampler, generate
from rlif.selection.scorer import Scorer, read_prompt
from rlif.signals import SIGNALS, renamed
from rlif.tasks import Task
from rlif.tasks.prompts import Prompt
from rlif.types import Problem

OTHER_SEED = 2**20  # added for the samples after a warm-up, so that they are not those of the full run
KINDS: dict[str, tuple[type, ...]] = {"completion": (str,), "answer": (str,), "right": (bool,), "prompt": (str, list)}


@dataclass(frozen=True)
class GroupSampler:
    """Draws `decoding.n` rows for each problem of a task.

    Example:
        >>> task = rlif.TASKS["clock"]
        >>> sampler = GroupSampler(Scorer(model, tokenizer), task, Decoding(max_tokens=56, temperature=1.0, n=16))
        >>> best = rlif.select(sampler.draw(task.load("test", limit=2)), "borda")
    """

    scorer: Scorer
    task: Task
    decoding: Decoding
    prompt: Prompt | None = None  # template for the problems; the protocol's if left out
    engine: Sampler | None = None  # what samples whole completions; transformers if left out
    # score rows by a pass of the scorer's model; without one they carry the self-certainty that the engine measured,
    # and no other signal
    every_signal: bool = True
    graded: bool = True  # else `right` is None, and nothing that the model wrote is run
    keep_ids: bool = False  # rows have `completion_ids` as well, the tokens as they were sampled

    def draw(self, problems: Sequence[Problem], number: int = 0) -> list[Row]:
        """Draws the rows of each problem, one problem after the other; the same again for the same seed."""
        scorer, n = self.scorer, self.decoding.n
        engine = self.engine or TransformersSampler(scorer.model, scorer.tokenizer, scorer.batch_size)
        completions = engine.sample(self._render(problems), self.decoding_for(number))
        return self._rows([(problem, sample) for problem in problems for sample in range(n)], completions)

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuses problems that the model cannot read or complete, before any is drawn."""
        scorer = self.scorer
        config = load_config(check_recipe({"model": scorer.name})) if scorer.model is None else scorer.model.config
        check_fit(scorer.name, config, scorer.tokenizer, self._render(problems), self.decoding.max_tokens)

    def draw_with_stops(
        self, problems: Sequence[Problem], warm_up: Sequence[Row], number: int = 0, percent: float = PERCENTILE
    ) -> list[Row]:
        """Draws the rows that `warm_up` lacks of n, and stops those below a percentile of its lowest windows.

        Returns rows with `threshold` added, for each problem the warm-up first.
        """
        warm, scorer = by_problem(warm_up), self.scorer
        limits = {
            name: threshold([r["lowest_window_confidence"] for r in rows], percent) for name, rows in warm.items()
        }
        which = [(p, sample) for p in problems for sample in range(len(warm[p.id]), self.decoding.n)]
        prompts = dict(zip((problem.id for problem in problems), self._render(problems), strict=True))
        with torch.random.fork_rng():
            torch.manual_seed(self.decoding.seed + number + OTHER_SEED)
            completions = generate(
                scorer.model,
                scorer.tokenizer,
                [prompts[problem.id] for problem, _ in which],
                self.decoding_for(number),
                batch_size=scorer.batch_size,
                early=EarlyStop([limits[problem.id] for problem, _ in which], scorer.window),
            )
        drawn = by_problem(self._rows(which, completions))
        rows = [row for problem in problems for row in (*warm[problem.id], *drawn.get(problem.id, []))]
        return [{**row, "threshold": limits[row["id"]]} for row in rows]

    def decoding_for(self, number: int) -> Decoding:
        """Returns the decoding of the batch of this number."""
        return replace(self.decoding, seed=self.decoding.seed + number, ends=self.scorer.ends)

    def _render(self, problems: Sequence[Problem]) -> list[list[int]]:
        return render_problems(self.scorer.tokenizer, self.prompt, problems, self.scorer.chat, self.task)

    def _rows(self, which: Sequence[tuple[Problem, int]], completions: Sequence[Completion]) -> list[Row]:
        if self.every_signal:
            scores = self.scorer.score_ids([(c.prompt_ids, c.completion_ids) for c in completions])
        else:
            scores = [{"self_certainty": c.self_certainty} for c in completions]
        problems = [problem for problem, _ in which]
        records = mark(self.task, problems, completions, self.decoding.n, graded=self.graded)
        return [
            {**record, "sample": sample, "stopped": completion.stopped, **score, **self._ids(completion)}
            for record, (_, sample), completion, score in zip(records, which, completions, scores, strict=True)
        ]

    def _ids(self, completion: Completion) -> Row:
        return {"completion_ids": completion.completion_ids} if self.keep_ids else {}


def read_samples(path: Path) -> list[Row]:
    """Reads rows of a file of JSON lines; signals get their new names, values that are not finite become None."""
    rows = []
    for number, line in read_lines(path):
        check_text(line, f"line {number} of {path}")
        rows.append(check_sample(line, number, path))
    if not rows:
        raise DataError(f"{path} has no rows.")
    return [dict(row) for row in with_ids(rows)]


def check_sample(line: Row, number: int, path: Path) -> Row:
    """Returns a row of a file of samples as `read_samples` does, which has the errors."""
    row = renamed(line)
    named = row.get("id") is not None or row.get("prompt") is not None  # the prompt may name it, see `with_ids`
    for name, there in (("id", named), ("completion", "completion" in row)):
        if not there:
            raise DataError(f"line {number} of {path} has no {name!r}; it has {', '.join(row) or 'nothing'}.")
    for name, kinds in KINDS.items():
        if row.get(name) is not None and not isinstance(row[name], kinds):
            found, wanted = type(row[name]).__name__, " or ".join(kind.__name__ for kind in kinds)
            raise DataError(f"{name!r} in line {number} of {path} is a {found}; expected {wanted} or null.")
    if row["completion"] is None:
        raise DataError(f"the completion in line {number} of {path} is null; expected plain text.")
    if row.get("prompt") is not None:
        row["prompt"] = read_prompt(row["prompt"], f"line {number} of {path}")
    for name in [column for column in row if column in SIGNALS or is_own(column)]:
        if isinstance(row[name], bool) or not isinstance(row[name], int | float | None):
            found = type(row[name]).__name__
            raise DataError(f"{name!r} in line {number} of {path} is a {found}; expected a number or null.")
        if not is_number(row[name]):
            row[name] = None
    return row if row.get("id") is None else {**row, "id": str(row["id"])}


def mark_samples(rows: Sequence[Row], task: Task, problems: Mapping[str, Problem]) -> list[Row]:
    """Adds what is missing of `answer` and `right`, both read off the completion; what is there stays."""
    rows = [dict(row) for row in rows]
    for row in rows:
        if "right" in row:
            problem, text = problems.get(row["id"]), row["completion"]
            row.setdefault("answer", task.answer(problem, text) if problem else task.extract(text))
        elif row["id"] not in problems:
            raise DataError(
                f"the sample of {row['id']!r} is to be graded, but {task.name} has no such problem among the"
                f" {len(problems)} that were loaded."
            )
    open_ = [row for row in rows if "right" not in row]
    marks = task.mark([problems[row["id"]] for row in open_], [row["completion"] for row in open_])
    for row, found in zip(open_, marks, strict=True):
        row |= {"answer": row.get("answer", found.answer), "right": found.right}
    return rows


def score_samples(
    rows: Sequence[Row],
    scorer: Scorer,
    task: Task | None,
    problems: Mapping[str, Problem],
    prompt: Prompt | None = None,
) -> list[Row]:
    """Adds every signal to the rows that lack one, each row scored after its own `prompt` or its problem's."""
    pairs: dict[int, tuple[list[int], list[int]]] = {}
    lacking = [(i, row) for i, row in enumerate(rows) if not row.keys() >= {*scorer.columns}]
    scorer.try_ahead([row for _, row in lacking if row.get("prompt") is not None])
    ids: dict[str, list[int]] = {}
    if task is not None:
        without = dict.fromkeys(row["id"] for _, row in lacking if row.get("prompt") is None)
        asked = [problems[name] for name in without if name in problems]
        rendered = render_problems(scorer.tokenizer, prompt, asked, scorer.chat, task)
        ids = dict(zip((problem.id for problem in asked), rendered, strict=True))
    for i, row in lacking:
        if row.get("prompt") is not None:
            pairs[i] = scorer.encode(row)
        elif row["id"] in ids:
            pairs[i] = scorer.checked((ids[row["id"]], scorer.encode_completion(row)))
        else:
            raise DataError(
                f"the sample of {row['id']!r} is to be scored, but has no prompt, and no task was named that has it."
            )
    with progress.task("scoring samples", len(pairs)) as advance:
        scores = dict(zip(pairs, scorer.score_ids([*pairs.values()], advance), strict=True))
    return [{**row, **scores.get(i, {}), **row} for i, row in enumerate(rows)]
