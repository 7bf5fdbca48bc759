"""Judges a model on a task's held-out problems: greedy completions, graded, with n, mean and 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlif.prompts import Prompt
from rlif.rollout import generate, render
from rlif.scoring import score_completions
from rlif.signals import SIGNALS
from rlif.tasks import Task
from rlif.types import Problem


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task,
    problems: Sequence[Problem],
    *,
    prompt: Prompt,
    chat: bool = True,
    max_tokens: int | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Accuracy, completion length and self-certainty of greedy completions.

    Args:
        problems: of the task; those without gold answers count in every figure but accuracy.
        prompt: template; `chat` renders it by the tokenizer's chat template.
        max_tokens: completion limit; the task's own if left out.

    Returns:
        task, prompt limit and decoding; `accuracy` as {n, mean, low, high} with Wilson's 95 % interval;
        `completion_length` in tokens and `self_certainty` in nats, means over completions; `truncated` and
        `unanswered`, shares; `records`, one object per problem.
    """
    max_tokens = max_tokens or task.protocol.max_tokens
    prompt_ids = [render(tokenizer, prompt, problem.text, chat) for problem in problems]
    completions = generate(model, tokenizer, prompt_ids, max_tokens=max_tokens, batch_size=batch_size)
    stats = score_completions(model, prompt_ids, [c.completion_ids for c in completions], batch_size=batch_size)
    certainty = SIGNALS["self_certainty"](stats)
    records = [
        {
            "id": problem.id,
            "completion": completion.text,
            "answer": task.extract(completion.text),
            "right": task.grade(problem, completion.text),
            "tokens": len(completion.completion_ids),
            "truncated": completion.truncated,
            "self_certainty": sure,
        }
        for problem, completion, sure in zip(problems, completions, certainty, strict=True)
    ]
    verdicts = [record["right"] for record in records if record["right"] is not None]
    return {
        "task": task.name,
        "decoding": "greedy",
        "max_tokens": max_tokens,
        "accuracy": proportion(sum(verdicts), len(verdicts)),
        "completion_length": _mean([record["tokens"] for record in records]),
        "self_certainty": _mean([sure for sure in certainty if sure is not None]),
        "truncated": _mean([record["truncated"] for record in records]),
        "unanswered": _mean([record["answer"] is None for record in records]),
        "records": records,
    }


def proportion(successes: int, n: int) -> dict[str, float | int | None]:
    """A share with Wilson's 95 % interval."""
    if n == 0:
        return {"n": 0, "mean": None, "low": None, "high": None}
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return {"n": n, "mean": successes / n, "low": float(interval.low), "high": float(interval.high)}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
