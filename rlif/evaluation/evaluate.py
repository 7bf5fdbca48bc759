"""Evaluates a model on a task's problems, and grades the gold answers themselves."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlif import progress
from rlif.evaluation.records import Records
from rlif.evaluation.scores import Scores, scores_of
from rlif.sampling.protocol import Setup, mark, render_problems, setup_of
from rlif.sampling.sampler import Sampler
from rlif.tasks import Task, by_id
from rlif.types import Problem


def evaluate(
    sampler: Sampler,
    task: Task,
    problems: Sequence[Problem],
    setup: Setup | None = None,
    *,
    path: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    unsafe_local: bool = False,
    name: str = "",
) -> Scores:
    """Samples, grades and scores completions of problems.

    Args:
        setup: the prompt and how it is sampled; the protocol's if left out.
        path: where files go: records to `<path>.jsonl` as they are made, then scores to `<path>.json`. An evaluation
            of the same settings that did not end there is resumed. None keeps the records in memory.
        settings: more that must be the same to resume, e.g. the model's name; written with the scores.
        name: what progress calls the model, see `rlif.progress`.

    Raises:
        RlifError: the prompt cannot be rendered, or the files are part of another evaluation.

    Example:
        >>> from rlif.sampling.sampler import TransformersSampler
        >>> task = rlif.TASKS["clock"]
        >>> evaluate(TransformersSampler(model, tokenizer), task, task.load("test", limit=8)).accuracy
        Interval(n=8, mean=0..., low=0..., high=0..., clusters=None)
    """
    setup = setup or setup_of(task, sampler.tokenizer)
    place = {name: number for number, name in enumerate(by_id(problems))}
    decoding, total = setup.decoding, len(problems) * setup.decoding.n
    described = describe(task, problems, setup, sampler.batch_size, settings)
    prompt_ids = render_problems(sampler.tokenizer, setup.prompt, problems, setup.chat, task)
    records = Records(path, described)
    order = sorted(range(len(problems)), key=lambda i: -len(prompt_ids[i]))  # the longest prompts first
    size = max(1, sampler.batch_size // decoding.n)
    what = f"evaluating {name} on {task.name}" if name else f"evaluating on {task.name}"
    shown = progress.task(what, total, done=len(records))
    with records.held, shown as advance:
        for number, start in enumerate(range(0, len(order), size)):
            if number not in records.batches:
                rows = order[start : start + size]
                decoded = replace(decoding, seed=decoding.seed + number)
                completions = sampler.sample([prompt_ids[i] for i in rows], decoded)
                owners = [problems[i] for i in rows for _ in range(decoding.n)]
                records.append(number, mark(task, owners, completions, decoding.n, unsafe_local))
                advance(len(completions))
    found = sorted(records, key=lambda record: (place[record["id"]], record["sample"]))
    return records.conclude(replace(scores_of(task, found), settings=described, records=found))


def describe(
    task: Task, problems: Sequence[Problem], setup: Setup, batch_size: int, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describes everything that decides the scores, as plain data."""
    return {
        **(settings or {}),
        "task": task.name,
        "problems": len(problems),
        "data": _hash(problems),
        "protocol": task.protocol.describe(),
        "prompt": asdict(setup.prompt),
        "chat": setup.chat.described(),
        "decoding": setup.decoding.described(),
        "batch_size": batch_size,
    }


def _hash(problems: Sequence[Problem]) -> str:
    """Hashes what is put to the model and what it is graded by, but for tests of programs, which may be huge."""
    hashed = hashlib.sha256()
    for problem in problems:
        shown = [problem.id, problem.preamble, problem.shots, problem.prompt, problem.golds]
        hashed.update(json.dumps(shown).encode())
    return hashed.hexdigest()[:16]


def check_gold(task: Task, problems: Sequence[Problem], unsafe_local: bool = False) -> dict[str, list[str]]:
    """Grades the gold answers; returns ids of problems whose gold is `wrong` (not graded as right) or `none`."""
    golds = {problem.id: task.gold_completion(problem) for problem in problems}
    given = [problem for problem in problems if golds[problem.id] is not None]
    marks = task.mark(given, [golds[problem.id] or "" for problem in given], unsafe_local=unsafe_local)
    return {
        "wrong": [problem.id for problem, found in zip(given, marks, strict=True) if not found.right],
        "none": [problem.id for problem in problems if golds[problem.id] is None],
    }
