"""The data types that all folders share, and the legend of tensor shapes.

Tensors of rank one and up carry a suffix of capitals, one letter per axis:

    P  problems                 B  completions, B = P * G
    G  generations per problem  T  completion tokens of the longest row
    V  vocabulary               N  flat tokens, padding excluded
    H  hidden size              L  tokens of a whole row, prompt and completion

So `hidden_NH` is one hidden state per real token and `mask_BT` marks the real tokens of padded rows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


Message = dict[str, Any]  # of a conversation: role and content


@dataclass(frozen=True)
class Problem:
    """One row of a task."""

    id: str  # name of the row, unique within its task
    text: str  # as stated; a prompt template turns it into the prompt. Of a conversation, the last message
    gold: str | None = None  # reference answer; None without a label. It reaches a trainer only by a reward for it
    solution: str | None = None  # a worked solution
    data: Mapping[str, Any] = field(default_factory=dict)  # what else grading needs: tests, options, a category
    preamble: str = ""  # text before the shots, which stays when they are dropped
    shots: tuple[str, ...] = ()  # solved examples before the text; the last is dropped first where the prompt is long
    history: tuple[Message, ...] = ()  # messages of a conversation before its last one; empty for one message
    other_golds: tuple[str, ...] = ()  # further answers that are as right as `gold`
    row: Mapping[str, Any] = field(default_factory=dict)  # the columns that it was read from, for rewards that ask

    @property
    def prompt(self) -> str | list[Message]:
        """The problem as text or, where it is the end of a conversation, as messages."""
        return [*self.history, {"role": "user", "content": self.text}] if self.history else self.text

    def compared(self) -> dict[str, Any]:
        """Returns what must be the same when work is resumed; of newer fields, those that hold something."""
        newer = ("history", "other_golds")  # work of earlier versions lacks them
        return {key: value for key, value in vars(self).items() if key != "row" and (value or key not in newer)}

    @property
    def golds(self) -> tuple[str, ...]:
        """All answers that are right; empty without a label."""
        return () if self.gold is None else (self.gold, *self.other_golds)


ClusterTexts = Callable[[str, Sequence[str]], list[list[int]]]  # from prompt and texts to the indices of each cluster


@dataclass(frozen=True)
class Group:
    """The input of a group signal: all completions of one problem, from all processes."""

    prompt: str  # its last message, as text
    completions: Sequence[str]  # the G texts
    answers: Sequence[str | None]  # the G answers, None where a completion gives none
    equal: Callable[[str, str], bool] = operator.eq  # compares two answers, by the task's rule
    cluster_texts: ClusterTexts | None = None  # clusters texts by meaning; None where the recipe has no `equivalence`


@dataclass(frozen=True)
class TokenStats:
    """Statistics of each token of some completions under a model, in float32, padding on the right.

    A field that was not computed is None. Values at padding are 0 and have no meaning.
    """

    mask_BT: torch.Tensor  # True at the real tokens, bool
    vocab_size: int  # V, the rows of the output head; self-certainty needs log V
    temperature: float = 1.0  # the logits were divided by this before the softmax
    logprob_BT: torch.Tensor | None = None  # log p of the token, in nats
    mean_logprob_BT: torch.Tensor | None = None  # mean over the vocabulary of log p, in nats
    entropy_BT: torch.Tensor | None = None  # entropy of the distribution, in nats
    topk_confidence_BT: torch.Tensor | None = None  # minus the mean of the k largest log p, DeepConf's, in nats

    def reduce(self, field: str, number: Callable[[torch.Tensor], torch.Tensor]) -> list[float | None]:
        """Computes one number per completion from a field's values at its real tokens, [T] in float64.

        A number is None for a completion without tokens, or where it is not finite.
        """
        values_BT: torch.Tensor | None = getattr(self, field)
        if values_BT is None:
            raise ValueError(f"these statistics lack {field}, which the signal needs")
        numbers: list[float | None] = []
        for row_T, mask_T in zip(values_BT.double(), self.mask_BT, strict=True):
            value = number(row_T[mask_T]).item() if mask_T.any() else math.nan
            numbers.append(value if math.isfinite(value) else None)
        return numbers
