"""The nouns of the package, and the legend of its tensor shapes.

Tensors of rank one and up carry a suffix of capitals, one letter per axis:

    P  problems                 B  completions, B = P * G
    G  generations per problem  T  completion tokens of the longest row
    V  vocabulary               N  flat tokens, padding excluded
    H  hidden size              L  tokens of a whole row, prompt and completion

So `hidden_NH` is one hidden state per real token and `mask_BT` marks the real tokens of padded rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Problem:
    """One row of a task.

    Attributes:
        id: name of the row, unique within its task.
        text: the problem as stated; a prompt template turns it into what the model sees.
        gold: reference answer, or None where nobody has labelled it. Never given to a trainer that did not ask.
        solution: a worked solution, or None.
        data: whatever else its task needs for grading: tests, options, a category.
        preamble: what precedes the shots and stays when they are dropped.
        shots: solved examples that precede the text, the last to be dropped first where the prompt gets too long.
    """

    id: str
    text: str
    gold: str | None = None
    solution: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    preamble: str = ""
    shots: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenStats:
    """What a model thought of each token of some completions, in float32, padding on the right.

    Attributes:
        mask_BT: True at the real tokens, bool.
        logprob_BT: log p of the token, in nats.
        mean_logprob_BT: mean over the vocabulary of log p, in nats.
        entropy_BT: entropy of the distribution, in nats.
        topk_confidence_BT: minus the mean of the k largest log p (DeepConf's token confidence), in nats.
        vocab_size: V, the rows of the output head; the constant log V of self-certainty comes from here.
        temperature: the logits were divided by this before the softmax.

    A field nobody asked for is None. Values at padding are 0 and mean nothing.
    """

    mask_BT: torch.Tensor
    vocab_size: int
    temperature: float = 1.0
    logprob_BT: torch.Tensor | None = None
    mean_logprob_BT: torch.Tensor | None = None
    entropy_BT: torch.Tensor | None = None
    topk_confidence_BT: torch.Tensor | None = None

    def reduce(self, field: str, number: Callable[[torch.Tensor], torch.Tensor]) -> list[float | None]:
        """One number per completion, from the field's values at its real tokens, [T] in float64.

        Returns:
            B numbers; None for a completion without tokens, or where the number is not finite.

        Raises:
            ValueError: nobody asked for the field.
        """
        values_BT: torch.Tensor | None = getattr(self, field)
        if values_BT is None:
            raise ValueError(f"these statistics lack {field}, which the signal needs")
        numbers: list[float | None] = []
        for row_T, mask_T in zip(values_BT.double(), self.mask_BT, strict=True):
            value = number(row_T[mask_T]).item() if mask_T.any() else math.nan
            numbers.append(value if math.isfinite(value) else None)
        return numbers
