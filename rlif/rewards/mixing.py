"""From signals and graders to the one reward an engine sees: how each is scaled within a group, how they are mixed.

With r the rewards of a group of G completions of one problem, m their mean and s their standard deviation (unbiased),
the engine's advantage is A = r' - mean(r') of the scaled reward, with rloo and reinforce G / (G - 1) times that

    group_std         r' = m + (r - m) / (s + 1e-4)                   the paper's, arXiv 2505.19590 eq. 5
    group_std_floor   r' = m + (r - m) / (max(s, f * s0) + 1e-4)      ours; s0 = mean of s over the first rollout
                                                                      whose groups have any
    batch_std         r' = m + (r - m) / (std of all rewards + 1e-4)
    none              r' = r                                          Dr. GRPO, arXiv 2503.20783; the one for RLOO

Why the floor: self-certainty never ties, so group_std turns ever smaller differences - noise, once every completion is
sure - into advantages of unit variance, and the pressure never ends. A 0/1 reward lets go of a group that agrees,
which has no spread; the floor, relative to the run's own spread at its start, has a confidence reward let go of it too.
Neither ends the drift of groups that do not agree: see docs/log.md, the floor against the paper's normalisation.

Several rewards, with weights w_k:

    normalised   r = sum_k w_k r'_k              each scaled first, so the weights are what they look like
    sum          r = (sum_k w_k r_k)'            the sum scaled once: a reward of larger spread counts for more

Under `normalised` doubling a weight doubles that reward's part of every advantage. (In the reference implementation
external rewards are z-scored after they are summed, so that one of them has the same effect at any weight.) Under `sum`
a weight acts against the other rewards only: with group_std the size of the advantage stays what it is.

Rewards that are None (unscorable) are NaN here: outside mean and deviation. A completion that one of several rewards
cannot score counts as its group's mean there - no advantage from that one - and is NaN on the way out only where no
reward of weight can score it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from rlif.config.recipe import Mixing, Normalisation
from rlif.signals import renamed

NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
MIXINGS: tuple[Mixing, ...] = get_args(Mixing)
EPSILON = 1e-4  # TRL's, and the reference implementation's


def nanstd(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Unbiased standard deviation over the values that are not NaN; NaN where fewer than two are left.

    Exactly 0 where they are equal, which their rounded mean need not be to them.
    """
    there = ~values.isnan()
    count = there.sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)) ** 2
    std = (squares.nansum(dim, keepdim=True) / (count - 1).clamp(min=0)).sqrt()
    least, most = (values.where(there, fill) for fill in (torch.inf, -torch.inf))
    equal = least.amin(dim, keepdim=True) == most.amax(dim, keepdim=True)
    return std.masked_fill(equal & (count > 1), 0.0)


class Normaliser:
    """Scales rewards within groups. Keeps one number between rollouts: the spread of the first one.

    Args:
        kind: one of `NORMALISATIONS`.
        floor: f above, the least deviation as a share of the spread at the start.

    Attributes:
        start_spread: s0, mean within-group standard deviation of the first rollout in which any group's rewards differ;
            None before it. Save it with checkpoints.
        spread: the same of the latest rollout, the label-free meter of what is left to learn.
    """

    def __init__(self, kind: Normalisation = "group_std", floor: float = 0.4):
        if kind not in NORMALISATIONS:
            raise ValueError(f"unknown normalisation {kind!r}; there are {', '.join(NORMALISATIONS)}")
        self.kind, self.floor = kind, floor
        self.start_spread: float | None = None
        self.spread = float("nan")

    def __call__(self, rewards_PG: torch.Tensor, *, learn: bool = True) -> torch.Tensor:
        """Scaled rewards of the same shape; the mean of each group stays where it was.

        Args:
            rewards_PG: rewards of whole groups, NaN where unscorable.
            learn: whether this rollout may set the spread at the start; False in evaluation.
        """
        rewards_PG = rewards_PG.double()
        mean_P1 = rewards_PG.nanmean(1, keepdim=True)
        std_P1 = nanstd(rewards_PG, dim=1)
        if learn:
            self.spread = std_P1.nanmean().item()
            if self.start_spread is None and self.spread > 0:  # nor is NaN
                self.start_spread = self.spread
        if self.kind == "none":
            return rewards_PG
        if self.kind == "batch_std":
            std_P1 = nanstd(rewards_PG.flatten(), dim=0).expand_as(std_P1)
        elif self.kind == "group_std_floor":
            std_P1 = std_P1.clamp(min=self.floor * (self.start_spread or 0.0))
        scaled_PG = mean_P1 + (rewards_PG - mean_P1) / (std_P1 + EPSILON)
        return torch.where(std_P1.isnan(), rewards_PG, scaled_PG)


def neutral(rewards_PG: torch.Tensor) -> torch.Tensor:
    """The rewards with the group's mean where there is none, and 0 where a whole group has none."""
    mean_P1 = rewards_PG.nanmean(1, keepdim=True).nan_to_num(0.0)
    return torch.where(rewards_PG.isnan(), mean_P1, rewards_PG)


class Mixer:
    """Several rewards into one. Keeps the spread at the start of each, see `Normaliser`.

    Args:
        names: of the rewards.
        kind: one of `NORMALISATIONS`.
        floor: as in `Normaliser`, for each reward by its own start.
        mixing: one of `MIXINGS`.

    Attributes:
        normalisers: by reward; their `spread` is that of the latest rollout, weight or not.
        of_sum: the normaliser of the weighted sum; its `spread` too is kept, whatever the mixing.
    """

    def __init__(
        self,
        names: Sequence[str],
        kind: Normalisation = "group_std",
        floor: float = 0.4,
        mixing: Mixing = "normalised",
    ):
        if mixing not in MIXINGS:
            raise ValueError(f"unknown mixing {mixing!r}; there are {', '.join(MIXINGS)}")
        self.mixing = mixing
        self.normalisers = {name: Normaliser(kind, floor) for name in names}
        self.of_sum = Normaliser(kind, floor)

    def __call__(
        self,
        rewards: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
        factors: Mapping[str, torch.Tensor] | None = None,
        *,
        learn: bool = True,
    ) -> torch.Tensor:
        """The mixed reward of each completion, [P, G] in float64, for an engine that subtracts the group's mean.

        Args:
            rewards: by name, [P, G] of whole groups, NaN where unscorable.
            weights: by name; 0 for a reward that is only watched.
            factors: by name, [P, 1]: what multiplies a reward's deviations from the group's mean after scaling.
            learn: as in `Normaliser`.
        """
        scaled = {name: self.normalisers[name](rewards_PG, learn=learn) for name, rewards_PG in rewards.items()}
        raw_PG = self._weighted(rewards, rewards, weights)
        sum_PG = self.of_sum(raw_PG, learn=learn)
        if self.mixing == "sum":
            return sum_PG
        for name, factor_P1 in (factors or {}).items():
            mean_P1 = scaled[name].nanmean(1, keepdim=True)
            scaled[name] = mean_P1 + factor_P1 * (scaled[name] - mean_P1)
        return self._weighted(scaled, rewards, weights)

    @staticmethod
    def _weighted(
        values: Mapping[str, torch.Tensor], rewards: Mapping[str, torch.Tensor], weights: Mapping[str, float]
    ) -> torch.Tensor:
        """The weighted sum of some values; NaN where every reward of weight is."""
        weighing = [name for name in rewards if weights[name]]
        if not weighing:
            return torch.zeros_like(next(iter(rewards.values())), dtype=torch.float64)
        parts = [weights[name] * neutral(values[name].double()) for name in weighing]
        missing_PG = torch.stack([rewards[name].isnan() for name in weighing]).all(0)
        return torch.stack(parts).sum(0).masked_fill(missing_PG, float("nan"))

    def state(self) -> dict[str, float | None]:
        """The spreads at the start, for a checkpoint; the sum's under the empty name."""
        return {name: normaliser.start_spread for name, normaliser in self._all().items()}

    def load(self, state: Mapping[str, float | None]) -> None:
        """Takes the spreads of a checkpoint; one of an earlier version may have old names of signals."""
        state = renamed(state)
        for name, normaliser in self._all().items():
            normaliser.start_spread = state[name]

    def _all(self) -> dict[str, Normaliser]:
        return self.normalisers | {"": self.of_sum}
