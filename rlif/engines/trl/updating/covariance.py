"""Chooses the tokens whose update `token_update` weakens, see `rlif.config.token_update`."""

import torch


def covariances(advantages_BT: torch.Tensor, logps_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Computes (A - mean A) (l - mean l) with means over the masked tokens; -inf outside the mask.

    Source: arXiv 2505.22617. There too the means are over the tokens of one forward pass.
    """
    mask_BT = mask_BT.bool()
    products_BT = torch.ones_like(logps_BT)
    for values_BT in (advantages_BT, logps_BT):
        products_BT = products_BT * (values_BT - values_BT[mask_BT].mean())
    return products_BT.masked_fill(~mask_BT, -torch.inf)


def count_of(share: float, mask_BT: torch.Tensor) -> int:
    """Counts the tokens that make this share of the masked ones: rounded down, at least one if there is any."""
    tokens = int(mask_BT.bool().sum())
    return min(tokens, max(1, int(share * tokens)))


def largest(covariances_BT: torch.Tensor, mask_BT: torch.Tensor, share: float) -> torch.Tensor:
    """Marks the share of masked tokens with the largest covariance."""
    chosen = covariances_BT.flatten().topk(count_of(share, mask_BT)).indices
    marks = torch.zeros(covariances_BT.numel(), dtype=torch.bool, device=covariances_BT.device)
    marks[chosen] = True
    return marks.view_as(covariances_BT)


def random_within(
    covariances_BT: torch.Tensor, mask_BT: torch.Tensor, share: float, bounds: tuple[float, float]
) -> torch.Tensor:
    """Marks a random share of the masked tokens, of those with a covariance between the bounds.

    Fewer are marked where fewer lie between them. Uses torch's global random state on the CPU.

    Args:
        covariances_BT: -inf for tokens that cannot be chosen.
    """
    low, high = bounds
    between = ((covariances_BT > low) & (covariances_BT < high)).flatten().nonzero().squeeze(1)
    chosen = between[torch.randperm(len(between))[: count_of(share, mask_BT)].to(between.device)]
    marks = torch.zeros(covariances_BT.numel(), dtype=torch.bool, device=covariances_BT.device)
    marks[chosen] = True
    return marks.view_as(covariances_BT)
