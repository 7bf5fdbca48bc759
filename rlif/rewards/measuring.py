"""Measures the rewards of a rollout, whichever engine sampled it.

An engine collects the completions of whole groups as `ScoredCompletion`, and their statistics under the annotator. The
functions here measure every term of a recipe on them, and put None where a completion is not rewarded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rlif.graders import Batch
from rlif.rewards.mixing import Mixer
from rlif.rewards.terms import Term
from rlif.signals.self_certainty import token_self_certainty
from rlif.tasks import Task
from rlif.types import ClusterTexts, Group, TokenStats

Values = dict[str, list[float | None]]  # by term, one for each row


@dataclass
class ScoredCompletion:
    """One completion with its rewards."""

    prompt: Any
    completion: Any
    prompt_ids: list[int]
    completion_ids: list[int]
    truncated: bool
    # of length |o|, in nats, under the annotator, on the CPU; None where no pass gave it
    token_self_certainty: torch.Tensor | None = None
    answer: str | None = None
    labelled: bool = False  # whether its problem has a gold answer; False where no reward asks
    # by term, as measured; None where a term could not score it
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    reward: float | None = None  # the weighted sum of these; None where no term with weight could score it
    advantage: float = math.nan  # as the engine computed it

    @property
    def text(self) -> str:
        return text_of(self.completion)

    @property
    def last_message(self) -> str:
        return text_of(self.prompt)


def text_of(turns: Any) -> str:
    """Returns text, or that of the last message of a conversation; a call of a tool may have none."""
    content = turns if isinstance(turns, str) else turns[-1].get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def by_token(stats: TokenStats | None, count: int) -> list[torch.Tensor | None]:
    """Computes self-certainty of each token of each row, where the statistics have mean_logprob."""
    if stats is None or stats.mean_logprob_BT is None:
        return [None] * count
    certainty_BT, mask_BT = token_self_certainty(stats).float().cpu(), stats.mask_BT.cpu()
    return [
        row_T[mask_T].clone() if mask_T.any() else None for row_T, mask_T in zip(certainty_BT, mask_BT, strict=True)
    ]


def needs_of(terms: Sequence[Term]) -> set[str]:
    """Names the statistics that terms read."""
    return {name.removesuffix("_BT") for term in terms for name in term.needs}


def batch_of(rows: Sequence[ScoredCompletion], **context: Any) -> Batch:
    """Returns the rows as graders read them; `context` has the other fields of `Batch`."""
    return Batch(
        prompts=[row.prompt for row in rows],
        completions=[row.completion for row in rows],
        texts=[row.text for row in rows],
        completion_ids=[row.completion_ids for row in rows],
        answers=[row.answer for row in rows],
        **context,
    )


def measure_rows(terms: Sequence[Term], stats: TokenStats | None, batch: Batch) -> Values:
    """Measures the terms that read one completion at a time."""
    rows = [term for term in terms if term.kind != "group"]
    return {term.name: term.measure(stats if term.kind == "token" else batch) for term in rows}


def measure_groups(terms: Sequence[Term], groups: Sequence[Group], task: Task | None) -> dict[str, list[Any]]:
    """Measures the terms that read a group at a time, and the factors of advantages; an entry for each group."""
    measured = {term.name: term.measure for term in terms if term.kind == "group"}
    measured |= {term.name: term.factor for term in terms if term.factor}
    if task and {*measured} - {"semantic_entropy"}:
        task.compare_ahead([group.answers for group in groups])
    return {name: [of(group) for group in groups] for name, of in measured.items()}


def as_group(rows: Sequence[ScoredCompletion], task: Task | None, cluster_texts: ClusterTexts | None) -> Group:
    """Returns the completions of one problem as a group signal reads them."""
    return Group(
        prompt=rows[0].last_message,
        completions=[row.text for row in rows],
        answers=[row.answer for row in rows],
        cluster_texts=cluster_texts,
        **({"equal": task.equal} if task else {}),
    )


def without_unknown(
    values: Values, terms: Sequence[Term], rows: Sequence[ScoredCompletion], votes: Sequence[bool], masks: bool
) -> Values:
    """Puts None where nothing is rewarded: in rows that only vote, masked rows, and rows that a term is not for.

    Args:
        votes: whether each row only votes.
        masks: whether truncated completions are left out of training.
    """
    unknown = [vote or (masks and row.truncated) for vote, row in zip(votes, rows, strict=True)]
    # A token signal has no statistics of masked rows. Other rewards count in the group's mean, as in TRL.
    out = {term.name: unknown if term.kind == "token" else votes for term in terms}
    for term in terms:
        taken = zip(out[term.name], rows, strict=True)
        out[term.name] = [no or not term.takes(row.labelled) for no, row in taken]
    return {name: [None if no else v for v, no in zip(values[name], out[name], strict=True)] for name in out}


def grids(values: Values, group: int) -> dict[str, torch.Tensor]:
    """Returns rewards by name, [P, G] in float64, NaN where unscorable."""
    return {
        name: torch.tensor([math.nan if v is None else v for v in column], dtype=torch.float64).view(-1, group)
        for name, column in values.items()
    }


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Sums the known rewards by weight; None where no reward with weight is known."""
    weighing = [name for name in rewards if weights[name]]
    parts = [weights[name] * value for name in weighing if (value := rewards[name]) is not None]
    return math.fsum(parts) if parts or not weighing else None


def mean(column: Sequence[float | None]) -> float:
    """Computes the mean of the numbers in a column; NaN without any."""
    numbers = [value for value in column if value is not None]
    return sum(numbers) / len(numbers) if numbers else math.nan


def reward_metrics(
    terms: Sequence[Term], rows: Sequence[ScoredCompletion], mixer: Mixer, weights: Mapping[str, float]
) -> dict[str, float]:
    """Returns the metrics of a rollout's rewards by rlif's names.

    Args:
        rows: the completions that were rewarded, with `rewards` and `reward`.
        weights: of all rewards of the trainer, by name.
    """
    found: dict[str, float] = {}
    for term in terms:
        column = [row.rewards[term.name] for row in rows]
        found[term.name] = mean(column)
        if len(weights) > 1:
            found[f"{term.name}_spread"] = mixer.normalisers[term.name].spread
            found[f"{term.name}_unscorable"] = column.count(None) / len(column)
        if term.weight.scheduled:
            found[f"{term.name}_weight"] = weights[term.name]
    if any(term.rows != "all" for term in terms):
        found["labelled"] = sum(row.labelled for row in rows) / len(rows)
    found["unscorable"] = [row.reward for row in rows].count(None) / len(rows)
    found["reward_spread"] = mixer.sum_normaliser.spread
    return found
