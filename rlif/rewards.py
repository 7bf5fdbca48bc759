"""From signals to the rewards an engine sees: how differences within a group are scaled.

With r the rewards of a group of G completions of one problem, m their mean and s their standard deviation (unbiased),
the engine's advantage is A = r' - mean(r') of the scaled reward

    group_std         r' = m + (r - m) / (s + 1e-4)                   the paper's, arXiv 2505.19590 eq. 5
    group_std_floor   r' = m + (r - m) / (max(s, f * s0) + 1e-4)      ours; s0 = mean of s over the first rollout
    batch_std         r' = m + (r - m) / (std of all rewards + 1e-4)
    none              r' = r                                          Dr. GRPO, arXiv 2503.20783; the one for RLOO

Why the floor: self-certainty never ties, so group_std turns ever smaller differences - noise, once every completion is
sure - into advantages of unit variance, and the pressure never ends. A 0/1 reward stops by itself: a group that is all
right has no spread. The floor, relative to the run's own spread at its start, gives a confidence reward the same end.

Rewards that are None (unscorable) are NaN here: outside mean and deviation, and NaN on the way out.
"""

from __future__ import annotations

from typing import get_args

import torch

from rlif.config import Normalisation

NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
EPSILON = 1e-4  # TRL's, and the reference implementation's


def nanstd(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Unbiased standard deviation over the values that are not NaN; NaN where fewer than two are left."""
    count = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)) ** 2
    return (squares.nansum(dim, keepdim=True) / (count - 1).clamp(min=0)).sqrt()


class Normaliser:
    """Scales rewards within groups. Keeps one number between rollouts: the spread of the first one.

    Args:
        kind: one of `NORMALISATIONS`.
        floor: f above, the least deviation as a share of the spread at the start.

    Attributes:
        start_spread: s0, mean within-group standard deviation of the first rollout; None before it. Save it with
            checkpoints.
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
            if self.start_spread is None and self.spread == self.spread:
                self.start_spread = self.spread
        if self.kind == "none":
            return rewards_PG
        if self.kind == "batch_std":
            std_P1 = nanstd(rewards_PG.flatten(), dim=0).expand_as(std_P1)
        elif self.kind == "group_std_floor":
            std_P1 = std_P1.clamp(min=self.floor * (self.start_spread or 0.0))
        scaled_PG = mean_P1 + (rewards_PG - mean_P1) / (std_P1 + EPSILON)
        return torch.where(std_P1.isnan(), rewards_PG, scaled_PG)
