"""Evaluates a model on a task's problems; every score has n and a 95 % interval.

    evaluate    samples and grades completions; keeps them on disk, so that a killed evaluation goes on
    summarise   computes scores from records alone
    check_gold  grades the gold answers themselves

With n samples per problem: mean@n is the share of right completions, its interval over problems. maj@n asks whether
the most frequent answer is right, self_certainty@n whether the surest sample is (arXiv 2502.18581). pass@k is the
unbiased chance that one of k is right (arXiv 2107.03374). A completion without an answer is wrong. One whose problem
has no gold answer counts in all other figures only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlif.answers.clusters import Equal, by_problem
from rlif.evaluation.records import Records
from rlif.intervals import clustered_mean, proportion
from rlif.sampling.protocol import Record, decoding_of, mark, render_problem, uses_chat
from rlif.sampling.sampler import Decoding, Sampler
from rlif.selection.rules import choose, pass_at_k
from rlif.tasks import Task
from rlif.tasks.prompts import Prompt, find_prompt
from rlif.tasks.rendering import Chat
from rlif.types import Problem

KS = (1, 2, 4, 5, 8, 10, 16, 32, 64, 100, 128, 256)


def evaluate(
    sampler: Sampler,
    task: Task,
    problems: Sequence[Problem],
    *,
    prompt: Prompt | None = None,
    chat: Chat | None = None,
    decoding: Decoding | None = None,
    folder: Path | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    unsafe_local: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of a model on problems.

    Args:
        sampler: of the model.
        problems: of the task.
        prompt: the template; the protocol's if left out.
        chat: render it by the chat template; by the protocol if left out.
        decoding: the protocol's if left out.
        folder: where records go as they are made, as `<name>.jsonl` beside the scores in `<name>.json`, and where an
            evaluation of the same settings that did not end goes on; None to keep them in memory.
        name: of these files; the task's if left out.
        settings: more that must be the same to go on, e.g. the model's name; written with the scores.
        unsafe_local: run model-written code without a sandbox.
        progress: told at the start and after each batch how many completions are done, of how many.

    Returns:
        The settings, and scores as `summarise` gives them; `records` too where there is no folder.

    Raises:
        RlifError: the prompt cannot be rendered, or the folder holds part of another evaluation.

    Example:
        >>> from rlif.sampling.sampler import TransformersSampler
        >>> task = rlif.TASKS["clock"]
        >>> evaluate(TransformersSampler(model, tokenizer), task, task.load("test", limit=8))["accuracy"]
        {'n': 8, 'mean': 0..., 'low': 0..., 'high': 0...}
    """
    prompt = prompt or find_prompt(task.protocol.prompt)
    decoding = decoding or decoding_of(task)
    chat = uses_chat(sampler.tokenizer, task.protocol.chat if chat is None else chat)
    described = describe(task, problems, prompt, chat, decoding, sampler.batch_size, settings)
    prompt_ids = [render_problem(sampler.tokenizer, prompt, problem, chat, task) for problem in problems]
    progress = progress or (lambda done, total: None)
    records = Records.open(folder, name or task.name, described)
    progress(len(records), len(problems) * decoding.n)
    for number, rows in enumerate(_batches(prompt_ids, max(1, sampler.batch_size // decoding.n))):
        if not records.has(number):
            seeded = replace(decoding, seed=decoding.seed + number)
            completions = sampler.sample([prompt_ids[i] for i in rows], seeded)
            owners = [problems[i] for i in rows for _ in range(decoding.n)]
            records.append(number, mark(task, owners, completions, decoding.n, unsafe_local))
            progress(len(records), len(problems) * decoding.n)
    place = {problem.id: number for number, problem in enumerate(problems)}
    rows = records.finish(lambda record: (place[record["id"]], record["sample"]))
    return records.conclude({**described, **scores_of(task, rows)}, rows)


def describe(
    task: Task,
    problems: Sequence[Problem],
    prompt: Prompt,
    chat: Chat,
    decoding: Decoding,
    batch_size: int,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describes everything that decides the scores, as plain data."""
    return {
        **(settings or {}),
        "task": task.name,
        "problems": len(problems),
        "protocol": task.protocol.describe(),
        "prompt": asdict(prompt),
        "chat": chat,
        "decoding": asdict(decoding) | {"stop": list(decoding.stop)},
        "batch_size": batch_size,
    }


def scores_of(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    """Computes scores with the task's own equality."""
    task.compare_ahead([_column(group, "answer") for group in by_problem(records).values()])
    return summarise(records, task.equal)


def summarise(records: Sequence[Record], equal: Equal | None = None) -> dict[str, Any]:
    """Computes scores from records, which need only `id`, `answer` and `right`.

    Args:
        equal: when two answers are the same, a task's `equal`; == if left out.

    Returns:
        `n` samples per problem and `completions` in all; `accuracy`, that is mean@n, as {n, mean, low, high}, Wilson's
        interval with one sample per problem and clustered by problem with more; then also `maj@n`, `pass@k` by k and
        `self_certainty@n`; means `completion_length` in tokens and `self_certainty` in nats; shares `truncated` and
        `unanswered`.
    """
    groups = by_problem(records)
    graded = [group for group in groups.values() if group[0]["right"] is not None]
    verdicts = [(bool(record["right"]), record["id"]) for group in graded for record in group]
    n = max(map(len, groups.values()), default=0)
    right = sum(verdict for verdict, _ in verdicts)
    many = n > 1 and graded
    accuracy = clustered_mean(*zip(*verdicts, strict=True)) if many else proportion(right, len(verdicts))
    return {
        "n": n,
        "completions": len(records),
        "accuracy": accuracy.as_dict(),
        **(_of_many(graded, n, equal) if many else {}),
        "completion_length": _mean(records, "tokens"),
        "self_certainty": _mean(records, "self_certainty"),
        "truncated": _mean(records, "truncated"),
        "unanswered": sum(record["answer"] is None for record in records) / len(records) if records else None,
    }


def _of_many(groups: Sequence[Sequence[Record]], n: int, equal: Equal | None) -> dict[str, Any]:
    """Computes the scores of several samples per problem; each group holds one problem's."""
    scores: dict[str, Any] = {}
    for key, rule in ((f"maj@{n}", "plurality"), (f"self_certainty@{n}", "self_certainty")):
        columns = [(_column(group, "answer"), _column(group, "self_certainty")) for group in groups]
        picked = [choose(rule, answers, values, equal=equal) for answers, values in columns]
        if any(i is not None for i in picked):
            right = sum(i is not None and bool(group[i]["right"]) for i, group in zip(picked, groups, strict=True))
            scores[key] = proportion(right, len(groups)).as_dict()
    counts = [(len(group), sum(bool(record["right"]) for record in group)) for group in groups]
    ks = [k for k in KS if k <= min(size for size, _ in counts)]
    passes = {str(k): [pass_at_k(size, right, k) for size, right in counts] for k in ks}
    scores["pass@k"] = {k: clustered_mean(values, range(len(values))).as_dict() for k, values in passes.items()}
    return scores


def _column(records: Sequence[Record], key: str) -> list[Any]:
    return [record.get(key) for record in records]


def check_gold(task: Task, problems: Sequence[Problem], unsafe_local: bool = False) -> dict[str, list[str]]:
    """Grades the gold answers themselves.

    Returns:
        Ids of problems whose gold is `wrong`, that is, not graded as right, and of those that have `none`.
    """
    golds = {problem.id: task.gold_completion(problem) for problem in problems}
    kept = [problem for problem in problems if golds[problem.id] is not None]
    marks = task.mark(kept, [golds[problem.id] or "" for problem in kept], unsafe_local=unsafe_local)
    return {
        "wrong": [problem.id for problem, found in zip(kept, marks, strict=True) if not found.right],
        "none": [problem.id for problem in problems if golds[problem.id] is None],
    }


def _batches(prompt_ids: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Splits the indices of the prompts into batches, the longest prompts first; always in the same way."""
    order = sorted(range(len(prompt_ids)), key=lambda i: -len(prompt_ids[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _mean(records: Sequence[Record], key: str) -> float | None:
    values = [record[key] for record in records if record.get(key) is not None]
    return sum(values) / len(values) if values else None
