"""Chooses among the N samples of one problem: samples to imitate, or a pair to compare.

A sample has a value, a tuple whose first number decides. The others only order samples whose first number is the same,
as in (answer is the plurality's, self-certainty). Larger is better; None is a sample without a value, which is never
chosen. What was sampled first wins where values are equal.

    best            the samples of the largest values, equal texts once
    best_against    the best, and the worst or a random other one, whose first number is smaller

Source: best against worst of the policy's own scores, without ties: Self-Rewarding, arXiv 2401.10020. Best against a
random other one: Genius, arXiv 2504.08672. Right ones alone: STaR, arXiv 2203.14465.
"""

import math
import random
from collections.abc import Sequence
from typing import Literal

Value = tuple[float, ...]


def best(values: Sequence[Value | None], texts: Sequence[str], keep: int, least: float = -math.inf) -> list[int]:
    """Returns the places of the best samples, the best one first.

    Args:
        values: of each sample, None where it has none, or a first number that is not a number.
        texts: of each sample; of equal texts only the best is returned.
        keep: at most so many.
        least: the first number must be larger.

    Example:
        >>> best([(1.0,), (3.0,), (3.0,), None], ["a", "b", "b", "c"], keep=2)
        [1, 0]
    """
    chosen: dict[str, int] = {}
    for i in _ordered(values, least):
        chosen.setdefault(texts[i], i)
    return list(chosen.values())[:keep]


def best_against(
    values: Sequence[Value | None],
    texts: Sequence[str],
    against: Literal["worst", "random"],
    rng: random.Random,
    least: float = -math.inf,
) -> tuple[int, int] | None:
    """Returns the places of the best sample and of the one that is rejected.

    Args:
        values, texts: as in `best`; the rejected text is never the chosen one.
        against: the worst of the others, or a random one; its first number must be smaller than the best's.
        least: the best's first number must be larger.

    Returns:
        None where there is nothing to prefer: too few values, one first number or text, or none above `least`.

    Example:
        >>> best_against([(1.0,), (3.0,), (2.0,)], ["a", "b", "c"], "worst", random.Random(0))
        (1, 0)
    """
    ordered = _ordered(values, -math.inf)
    if not ordered:
        return None
    chosen = ordered[0]
    top = _first(values[chosen])
    pool = [i for i in ordered if _first(values[i]) < top and texts[i] != texts[chosen]]
    if not top > least or not pool:
        return None
    if against == "random":
        return chosen, rng.choice(sorted(pool))
    worst = values[pool[-1]]
    return chosen, next(i for i in pool if values[i] == worst)


def _ordered(values: Sequence[Value | None], least: float) -> list[int]:
    """Returns places from the largest value to the smallest, without those that have none."""
    found = {i: value for i, value in enumerate(values) if value is not None and not math.isnan(value[0])}
    return sorted((i for i in found if found[i][0] > least), key=found.__getitem__, reverse=True)


def _first(value: Value | None) -> float:
    return -math.inf if value is None else value[0]
