"""Holds the rows that a process generated last, and their statistics."""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch.nn.utils.rnn import pad_sequence

from rlif.scoring.statistics import length_mask


@dataclass
class Rollout:
    """The rows that this process generated last, with their statistics, until they are rewarded."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    fields: dict[str, torch.Tensor] = field(default_factory=dict)  # of TokenStats, without their _BT
    path: str = "none"
    written: list[list[int]] | None = None  # 1 for the tokens that the model wrote, 0 for those of tools; None: all

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.completion_ids]

    def every(self, n: int) -> Self:
        """Returns every n-th row."""
        fields = {name: values_BT[::n] for name, values_BT in self.fields.items()}
        return type(self)(self.prompt_ids[::n], self.completion_ids[::n], fields, self.path)

    def of_the_model(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Returns the statistics of the tokens that the model wrote, closed up, and their mask."""
        device = next(iter(self.fields.values())).device
        if self.written is None:
            return self.fields, length_mask(self.lengths, device)
        kept = [torch.tensor(row, dtype=torch.bool, device=device) for row in self.written]
        closed = {
            name: pad_sequence([row_T[: len(k)][k] for row_T, k in zip(rows_BT, kept, strict=True)], batch_first=True)
            for name, rows_BT in self.fields.items()
        }
        return closed, length_mask([int(k.sum()) for k in kept], device)
