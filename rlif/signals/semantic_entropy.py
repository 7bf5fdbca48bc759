"""Semantic entropy, for text without answers to extract: the share of the group that means the same.

    s_i = log p(C_i),  p(C) = |C| / n      C_i: the completions that mean the same as completion i; n: not empty ones

The group's mean of s is minus its semantic entropy, -sum_C p log p. The entropy is one number per problem and gives no
advantages within a group, so each completion gets its own part of it. Larger = more sure.

Source: semantic entropy arXiv 2302.09664 and Nature 630 (2024), in its discrete form; minimising it is EMPO's aim,
arXiv 2504.05812. Range: -log n to 0. Which texts mean the same is decided by the model under the key `equivalence`,
see `rlif.rewards.equivalence`. Defaults there: EMPO 7 completions, learning rate 1e-6, KL weight 0, 2048 tokens,
clusters by a verifier model; its reward is p(C_i) itself, -0.5 for an empty completion and 0 for one that copies the
question.

Watch: it is as good as that model: embeddings join texts on one topic that contradict each other. Empty completions
are None. Evasive completions that agree score high.
"""

import math

from rlif.types import Group


def semantic_entropy(group: Group) -> list[float | None]:
    """Computes for each completion the log of the share of its group that means the same; None without text.

    Example:
        >>> clusters = lambda prompt, texts: [[0, 1], [2]]
        >>> semantic_entropy(Group("?", ["a cat", "one cat", "no"], [None] * 3, cluster_texts=clusters))
        [-0.405..., -0.405..., -1.098...]
    """
    if group.cluster_texts is None:
        raise ValueError("semantic_entropy needs a model that tells which texts mean the same")
    filled = [i for i, text in enumerate(group.completions) if text.strip()]
    values: list[float | None] = [None] * len(group.completions)
    for members in group.cluster_texts(group.prompt, [group.completions[i] for i in filled]) if filled else []:
        for member in members:
            values[filled[member]] = math.log(len(members) / len(filled))
    return values
