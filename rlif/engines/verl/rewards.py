"""Turns one of verl's rollouts into rewards, by the same terms, tasks and mixing as with TRL. Does not load verl.

verl's estimators make advantages of these rewards. They subtract the group's mean, which every normalisation keeps, so
the scaling happens once, in `rlif.rewards.mixing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlif.config.recipe import Recipe
from rlif.errors import RewardError
from rlif.rewards.equivalence import load_equivalence
from rlif.rewards.measuring import (
    ScoredCompletion,
    Values,
    as_group,
    batch_of,
    by_token,
    grids,
    measure_groups,
    measure_rows,
    needs_of,
    reward_metrics,
    total,
    without_unknown,
)
from rlif.rewards.mixing import recipe_mixer
from rlif.rewards.terms import recipe_terms
from rlif.signals.self_certainty import token_self_certainty
from rlif.tasks import Task
from rlif.tasks.labels import is_labelled
from rlif.types import Problem, TokenStats

UNSCORED_ROLLOUTS = 10  # in a row, in which no reward with weight scored anything, end the run


@dataclass(frozen=True)
class Rollout:
    """N completions of whole groups, the rows of a group one after the other."""

    prompts: list[Any]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    groups: list[int]  # the number of completions of each group; verl may lack some
    stats: TokenStats | None  # of the completions; None where no reward reads any
    problems: list[Problem]  # one for each completion
    masks: list[torch.Tensor] | None = None  # true at the tokens that the model wrote; None for all


@dataclass(frozen=True)
class Rewards:
    """What the completions of a rollout are worth."""

    rows: list[ScoredCompletion]
    scalars: list[float]  # the mixed reward; of a completion that could not be scored, the mean of its group
    tokens: list[torch.Tensor]  # the same, given out to the tokens of each completion
    metrics: dict[str, float]


class RolloutReward:
    """Measures the rewards of a recipe.

    Args:
        task: extracts, compares and grades answers.
        tokenizer: decodes completions.
        group: completions of a problem.
        ends: the tokens that end a completion.
    """

    def __init__(self, recipe: Recipe, task: Task, tokenizer: Any, group: int, ends: Sequence[int]):
        self.recipe, self.task, self.tokenizer = recipe, task, tokenizer
        self.group, self.ends = group, {*ends}
        self.terms, self.mixer = recipe_terms(recipe), recipe_mixer(recipe)
        self.cluster_texts = load_equivalence(recipe.equivalence) if recipe.equivalence else None
        self.needs = sorted(needs_of(self.terms))
        self.unscored_in_a_row = 0

    def __call__(self, rollout: Rollout, step: int) -> Rewards:
        """Measures a rollout.

        Args:
            step: updates so far, for weights that change.

        Raises:
            RewardError: no reward with weight scored anything, in too many rollouts in a row.
        """
        rows = self._rows(rollout)
        weights = {term.name: term.weight.at(step) for term in self.terms}
        values = self._values(rows, rollout, step)
        factors = {name: values.pop(f"*{name}") for name in [term.name for term in self.terms if term.factor]}
        for number, row in enumerate(rows):
            row.rewards = {name: column[number] for name, column in values.items()}
            row.reward = total(row.rewards, weights)
        self._refuse_unscorable(rows, weights)
        mixed_N = self._mixed(values, weights, factors, rollout.groups)
        metrics = reward_metrics(self.terms, self._rewarded(rows, rollout.groups), self.mixer, weights)
        mean = mixed_N.nanmean().nan_to_num(0.0)
        scalars = []
        for group_G in mixed_N.split(rollout.groups):
            here = group_G.nanmean()
            scalars += group_G.where(~group_G.isnan(), here if here == here else mean).tolist()
        return Rewards(rows, scalars, self._given_out(rows, scalars, rollout, weights), metrics)

    def _rows(self, rollout: Rollout) -> list[ScoredCompletion]:
        certainty = by_token(rollout.stats, len(rollout.completion_ids))
        rows = []
        for number, ids in enumerate(rollout.completion_ids):
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            prompt, problem = rollout.prompts[number], rollout.problems[number]
            spoken = text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            truncated = not ids or ids[-1] not in self.ends
            row = ScoredCompletion(prompt, spoken, rollout.prompt_ids[number], ids, truncated, certainty[number])
            row.answer, row.labelled = self.task.extract(text), is_labelled(self.task, problem)
            rows.append(row)
        return rows

    def _values(self, rows: list[ScoredCompletion], rollout: Rollout, step: int) -> dict[str, Any]:
        """Measures the terms, one number for each row, and the factors of advantages by `*` and the term's name."""
        batch = batch_of(rows, task=self.task, problems=rollout.problems, step=step, seed=self.recipe.seed)
        values: dict[str, Any] = measure_rows(self.terms, rollout.stats, batch)
        starts = [sum(rollout.groups[:i]) for i in range(len(rollout.groups))]
        pairs = zip(starts, rollout.groups, strict=True)
        groups = [as_group(rows[start : start + size], self.task, self.cluster_texts) for start, size in pairs]
        measured = measure_groups(self.terms, groups, self.task)
        for term in self.terms:
            if term.kind == "group":
                values[term.name] = [value for group in measured[term.name] for value in group]
        rewarded = self.recipe.rewarded_per_group or self.group
        votes = [place >= rewarded for size in rollout.groups for place in range(size)]
        known: dict[str, Any] = dict(without_unknown(values, self.terms, rows, votes, masks=False))
        for term in self.terms:
            if term.factor:
                known[f"*{term.name}"] = torch.tensor(measured[term.name], dtype=torch.float64).unsqueeze(1)
        return known

    def _rewarded(self, rows: list[ScoredCompletion], groups: list[int]) -> list[ScoredCompletion]:
        rewarded = self.recipe.rewarded_per_group or self.group
        places = [place for size in groups for place in range(size)]
        return [row for row, place in zip(rows, places, strict=True) if place < rewarded]

    def _mixed(
        self, values: Values, weights: dict[str, float], factors: dict[str, torch.Tensor], groups: list[int]
    ) -> torch.Tensor:
        """Returns the mixed reward of each row, [N] in float64, NaN where no reward with weight could score it."""
        width = max(groups)
        whole: Values = {}  # with None for completions that verl lacks
        for name, column in values.items():
            left, whole[name] = iter(column), []
            for size in groups:
                whole[name] += [next(left) for _ in range(size)] + [None] * (width - size)
        columns = self.mixer.columns(grids(whole, width), weights, factors)
        mixed_PG = torch.stack([weights[name] * column_PG for name, column_PG in columns.items() if weights[name]]).sum(
            0
        )
        return torch.cat([row_G[:size] for row_G, size in zip(mixed_PG, groups, strict=True)])

    def _given_out(
        self, rows: list[ScoredCompletion], scalars: list[float], rollout: Rollout, weights: dict[str, float]
    ) -> list[torch.Tensor]:
        """Gives each completion's reward to its last token that the model wrote or, with `spread`, to all of them."""
        spread = rollout.stats if self.recipe.token_reward == "spread" else None
        found = []
        for number, row in enumerate(rows):
            tokens_T = torch.zeros(len(row.completion_ids), dtype=torch.float64)
            mask_T = torch.ones_like(tokens_T, dtype=torch.bool) if rollout.masks is None else rollout.masks[number]
            if mask_T.any() and spread is not None and row.reward is not None:
                name = self.terms[0].name
                values_T = _by_token(name, spread)[number, : len(tokens_T)].cpu()[mask_T]
                tokens_T[mask_T] = weights[name] * values_T / len(values_T)
            elif mask_T.any():
                tokens_T[mask_T.nonzero()[-1]] = scalars[number]
            found.append(tokens_T.float())
        return found

    def _refuse_unscorable(self, rows: list[ScoredCompletion], weights: dict[str, float]) -> None:
        nothing = any(weights.values()) and all(row.reward is None for row in rows)
        self.unscored_in_a_row = self.unscored_in_a_row + 1 if nothing else 0
        silent = [term for term in self.terms if weights[term.name] and nothing]
        if silent and (silent[0].kind == "token" or self.unscored_in_a_row >= UNSCORED_ROLLOUTS):
            raise RewardError(
                f"the reward {silent[0].name} could score none of the {len(rows)} completions of a rollout; look at"
                " what the model writes, and whether the task finds answers in it."
            )


def _by_token(name: str, stats: TokenStats) -> torch.Tensor:
    """Computes the value of each token whose mean is the signal, [B, T] in float64."""
    if name == "self_certainty":
        return token_self_certainty(stats)
    values_BT = stats.logprob_BT if name == "likelihood" else stats.entropy_BT
    if values_BT is None:
        raise ValueError(f"these statistics lack what the signal {name} reads")
    return values_BT.double() if name == "likelihood" else -values_BT.double()


def padded(values: Sequence[torch.Tensor], fill: float = 0.0) -> torch.Tensor:
    """Pads rows of numbers on the right, [B, T]."""
    return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=fill)


def statistics(
    fields: dict[str, list[torch.Tensor]], masks: Sequence[torch.Tensor], vocab_size: int, temperature: float
) -> TokenStats:
    """Returns the statistics of a batch from one tensor for each row.

    Args:
        fields: by name; of each row, one number for each token of its completion.
        masks: of each row, 1 at the tokens that the model wrote.
    """
    named = {f"{name}_BT": padded(rows).float() for name, rows in fields.items()}
    return TokenStats(padded(masks).bool(), vocab_size, temperature, **named)
