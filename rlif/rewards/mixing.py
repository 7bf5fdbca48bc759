"""Scales rewards within each group and mixes them into the one reward that an engine gets.

Let r be the rewards of a group of G completions of one problem, m their mean and s their unbiased standard deviation.
The engine's advantage is A = r' - mean(r') of the scaled reward, times G / (G - 1) with rloo and reinforce.

    group_std         r' = m + (r - m) / (s + 1e-4)                   the paper's, arXiv 2505.19590 eq. 5
    group_std_floor   r' = m + (r - m) / (max(s, f * s0) + 1e-4)      ours; s0 = mean of s over the first rollout
                                                                      whose groups have any
    batch_std         r' = m + (r - m) / (std of all rewards + 1e-4)
    group_rank        r' = m + (k - (n + 1) / 2) / sqrt(n (n + 1) / 12)
                                                                      k = rank among the n known rewards, from 1; ties
                                                                      share the mean of their ranks. The idea is that of
                                                                      arXiv 2605.09920; the scale is ours: without ties
                                                                      the deviation is 1, as with group_std
    batch_deviation   r' = m + (r - m) / (std of all r - m + 1e-4)    REINFORCE++ with the group's mean as baseline,
                                                                      arXiv 2501.03262
    none              r' = r                                          Dr. GRPO, arXiv 2503.20783; the one for RLOO

Why the floor: self-certainty never ties. Once every completion is sure, group_std turns ever smaller differences, which
are noise, into advantages of unit variance, without end. A 0/1 reward gives a group that agrees no advantages, since
it has no spread. The floor does the same for confidence: it is relative to the spread at the start of the run. Neither
ends the drift of groups that do not agree: see docs/log.md, the floor against the paper's normalisation.

Several rewards, with weights w_k:

    normalised   r = sum_k w_k r'_k              each scaled first, so that weights compare
    sum          r = (sum_k w_k r_k)'            the sum scaled once, so that larger spreads count for more

Under `normalised` doubling a weight doubles that reward's part of every advantage. (The reference implementation
z-scores the sum of external rewards, so that a single one has the same effect at any weight.) Under `sum` with
group_std, weights change the proportions but not the size of the advantage.

Rewards that are None (unscorable) are NaN here, outside mean and deviation. Where one of several rewards cannot score a
completion, it gets the group's mean, hence no advantage from that reward. The mixed reward is NaN only where no reward
with weight can score the completion.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from rlif.config.recipe import Mixing, Normalisation, Recipe
from rlif.errors import RecipeError
from rlif.signals import renamed

NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
MIXINGS: tuple[Mixing, ...] = get_args(Mixing)
EPSILON = 1e-4  # TRL's, and the reference implementation's


def nanstd(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Computes the unbiased standard deviation of the values that are not NaN; NaN for fewer than two.

    It is exactly 0 for equal values, although their rounded mean may differ from them.
    """
    known = ~values.isnan()
    count = known.sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)) ** 2
    std = (squares.nansum(dim, keepdim=True) / (count - 1).clamp(min=0)).sqrt()
    least, most = (values.where(known, fill) for fill in (torch.inf, -torch.inf))
    equal = least.amin(dim, keepdim=True) == most.amax(dim, keepdim=True)
    return std.masked_fill(equal & (count > 1), 0.0)


def ranked(rewards_PG: torch.Tensor) -> torch.Tensor:
    """Replaces deviations from each group's mean by ranks of unit deviation, see group_rank above; NaN stays NaN."""
    rewards_PG = rewards_PG.double()
    known_PG = ~rewards_PG.isnan()
    count_P1 = known_PG.sum(1, keepdim=True).double()
    below_PG = (rewards_PG.unsqueeze(1) < rewards_PG.unsqueeze(2)).sum(2)  # comparisons with NaN are False
    above_PG = (rewards_PG.unsqueeze(1) > rewards_PG.unsqueeze(2)).sum(2)
    centred_PG = (below_PG - above_PG).double() / 2  # the mean rank of its ties, minus (n + 1) / 2
    scale_P1 = (count_P1 * (count_P1 + 1) / 12).sqrt().clamp(min=1)  # below 1 only where nothing is known
    return (rewards_PG.nanmean(1, keepdim=True) + centred_PG / scale_P1).masked_fill(~known_PG, torch.nan)


class Normaliser:
    """Scales rewards within groups. Keeps one number between rollouts: the spread of the first one.

    Args:
        kind: one of `NORMALISATIONS`.
        floor: f above, the least deviation as a share of the spread at the start.

    Attributes:
        start_spread: s0, mean within-group standard deviation of the first rollout in which any group's rewards differ;
            None before it. Save it with checkpoints.
        spread: the same for the latest rollout. It measures without labels what is left to learn.
    """

    def __init__(self, kind: Normalisation = "group_std", floor: float = 0.4):
        if kind not in NORMALISATIONS:
            raise ValueError(f"unknown normalisation {kind!r}; there are {', '.join(NORMALISATIONS)}")
        self.kind: Normalisation = kind
        self.floor = floor
        self.start_spread: float | None = None
        self.spread = float("nan")

    def __call__(self, rewards_PG: torch.Tensor, *, learn: bool = True) -> torch.Tensor:
        """Scales rewards without changing the mean of a group.

        Args:
            rewards_PG: rewards of whole groups, NaN where unscorable.
            learn: whether this rollout may set the spread at the start; False in evaluation.
        """
        divisor_P1 = self.divisor(rewards_PG, learn=learn)
        return ranked(rewards_PG) if self.kind == "group_rank" else self.scaled(rewards_PG, divisor_P1)

    def divisor(self, rewards_PG: torch.Tensor, *, learn: bool = True) -> torch.Tensor | None:
        """Computes the divisor of each group's deviations, [P, 1], NaN for 1; None where nothing is scaled."""
        rewards_PG = rewards_PG.double()
        std_P1 = nanstd(rewards_PG, dim=1)
        if learn:
            self.spread = std_P1.nanmean().item()
            if self.start_spread is None and self.spread > 0:  # False for NaN
                self.start_spread = self.spread
        if self.kind in ("none", "group_rank"):
            return None
        if self.kind == "batch_std":
            std_P1 = nanstd(rewards_PG.flatten(), dim=0).expand_as(std_P1)
        elif self.kind == "batch_deviation":
            deviations_PG = rewards_PG - rewards_PG.nanmean(1, keepdim=True)
            std_P1 = nanstd(deviations_PG.flatten(), dim=0).expand_as(std_P1)
        elif self.kind == "group_std_floor":
            std_P1 = std_P1.clamp(min=self.floor * (self.start_spread or 0.0))
        return std_P1 + EPSILON

    @staticmethod
    def scaled(rewards_PG: torch.Tensor, divisor_P1: torch.Tensor | None) -> torch.Tensor:
        """Divides the deviations from each group's mean; the means stay."""
        rewards_PG = rewards_PG.double()
        if divisor_P1 is None:
            return rewards_PG
        mean_P1 = rewards_PG.nanmean(1, keepdim=True)
        scaled_PG = mean_P1 + (rewards_PG - mean_P1) / divisor_P1
        return torch.where(divisor_P1.isnan(), rewards_PG, scaled_PG)


class Mixer:
    """Mixes several rewards into one. Keeps the spread at the start of each, see `Normaliser`.

    Args:
        names: names of the rewards.
        kind: one of `NORMALISATIONS`; group_rank needs mixing normalised.
        floor: as in `Normaliser`, relative to each reward's own start.
        mixing: one of `MIXINGS`.

    Attributes:
        normalisers: by reward; each measures the spread, at weight 0 too.
        sum_normaliser: scales the weighted sum; it measures the spread under any mixing.
    """

    def __init__(
        self, names: Sequence[str], kind: Normalisation = "group_std", floor: float = 0.4, mixing: Mixing = "normalised"
    ):
        if mixing not in MIXINGS:
            raise ValueError(f"unknown mixing {mixing!r}; there are {', '.join(MIXINGS)}")
        if mixing == "sum" and kind == "group_rank":
            raise ValueError("group_rank ranks each reward by itself, and mixing sum adds them first; use normalised")
        self.mixing = mixing
        self.normalisers = {name: Normaliser(kind, floor) for name in names}
        self.sum_normaliser = Normaliser(kind, floor)

    def columns(
        self,
        rewards: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
        factors: Mapping[str, torch.Tensor] | None = None,
        *,
        learn: bool = True,
    ) -> dict[str, torch.Tensor]:
        """Computes the scaled columns whose weighted sum is the mixed reward, by name, [P, G] in float64.

        A column keeps the mean of each group. It has that mean where it is NaN and another reward with weight is not.
        The engine adds the columns by weight and subtracts the group's mean.

        Args:
            rewards: by name, [P, G] of whole groups, NaN where unscorable.
            factors: by name, [P, 1]; each multiplies a scaled reward's deviations from the group's mean.
        """
        weighing = [name for name in rewards if weights[name]]
        scaled = {name: self.normalisers[name](rewards_PG, learn=learn) for name, rewards_PG in rewards.items()}
        whole = {name: _filled(rewards_PG.double()) for name, rewards_PG in rewards.items()}
        none_PG = torch.zeros_like(next(iter(whole.values())))
        missing_PG = torch.stack([rewards[name].isnan() for name in weighing]).all(0) if weighing else none_PG.bool()
        sum_PG = torch.stack([weights[name] * whole[name] for name in weighing] or [none_PG]).sum(0)
        divisor = self.sum_normaliser.divisor(sum_PG.masked_fill(missing_PG, torch.nan), learn=learn)
        found = {}
        for name, column_PG in scaled.items():
            if self.mixing == "sum":
                column_PG = Normaliser.scaled(whole[name].masked_fill(missing_PG, torch.nan), divisor)
            elif factors and name in factors:
                mean_P1 = column_PG.nanmean(1, keepdim=True)
                column_PG = mean_P1 + factors[name] * (column_PG - mean_P1)
            found[name] = _filled(column_PG).masked_fill(missing_PG, torch.nan)
        return found

    def state(self) -> dict[str, float | None]:
        """Returns the spreads at the start, for a checkpoint; that of the sum has the empty name."""
        return {name: normaliser.start_spread for name, normaliser in self._all().items()}

    def load(self, state: Mapping[str, float | None]) -> None:
        """Restores the spreads from a checkpoint, which may have names of an earlier version."""
        state = renamed(state)
        if unknown := self._all().keys() - state.keys():
            raise RecipeError(
                f"the checkpoint was written without the reward {min(unknown)}; resume it with the rewards"
                f" {', '.join(filter(None, state))}, or start anew."
            )
        for name, normaliser in self._all().items():
            normaliser.start_spread = state[name]

    def _all(self) -> dict[str, Normaliser]:
        return self.normalisers | {"": self.sum_normaliser}


def recipe_mixer(recipe: Recipe) -> Mixer:
    """Makes the mixer of a recipe's rewards."""
    return Mixer(list(recipe.weights), recipe.resolved_normalisation, recipe.spread_floor, recipe.mixing)


def _filled(values_PG: torch.Tensor) -> torch.Tensor:
    """Puts the group's mean in the place of NaN, and 0 in a group without a number."""
    mean_P1 = values_PG.nanmean(1, keepdim=True).nan_to_num(0.0)
    return values_PG.where(~values_PG.isnan(), mean_P1)
