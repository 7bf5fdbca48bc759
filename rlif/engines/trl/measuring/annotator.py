"""Keeps the annotator: the model whose statistics the token signals read.

    online    the policy, as it samples                                                 no copy, often no pass
    offline   the frozen start (arXiv 2505.19590, Fig. 7): the reference model's pass
              where there is one, the adapters switched off with LoRA, else a copy      no copy, or one
    ema       c <- d c + (1 - d) policy after each step (Co-rewarding II's teacher,
              arXiv 2508.00410)                                                         a copy in float32, one pass
    lagged    c <- policy every k steps                                                 a copy, one pass

A copy holds the trainable parameters alone (the adapters under LoRA). It is swapped in for one pass in eval mode, by
pointers, so the policy does not change.

Watch: in the paper the policy exploited a frozen annotator near step 100, by appending a problem that is solved
already. With an online annotator, the policy can raise its reward by becoming surer of any text.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from rlif.config.recipe import Annotator as Kind
from rlif.config.steps import no_start
from rlif.errors import DataError, MachineError, RecipeError, nearest

FILE = "annotator.safetensors"  # in a checkpoint


@dataclass(frozen=True)
class Annotator:
    """The annotator's options in a recipe."""

    kind: Kind = "online"  # see above
    decay: float = 0.99  # d, of ema
    every: int = 10  # k, of lagged
    may_copy: bool = False  # whether offline may keep a copy where nothing else holds the start

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise RecipeError(f"unknown annotator {self.kind!r}; {nearest(str(self.kind), get_args(Kind))}")
        if not 0 < self.decay < 1:
            raise RecipeError(f"the annotator's decay must lie between 0 and 1, got {self.decay}.")
        if self.every < 1:
            raise RecipeError(f"the annotator's `every` must be a number of steps from 1, got {self.every}.")

    def follows(self) -> bool:
        return self.kind in ("ema", "lagged")


class Shadow(TrainerCallback):
    """A copy of a model's trainable parameters that can replace them. It is updated after each optimiser step.

    Args:
        model: unwrapped from data-parallel wrappers.
        annotator: how the copy is updated; with kind offline it never is.
    """

    def __init__(self, model: nn.Module, annotator: Annotator):
        self.annotator = annotator
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.dtype = torch.float32 if annotator.kind == "ema" else None  # an average in bfloat16 would never move
        if annotator.kind == "offline" and not annotator.may_copy:
            raise RecipeError(no_start(self.gibibytes()))
        try:
            self.copies = {name: p.detach().to(self.dtype or p.dtype, copy=True) for name, p in self.parameters.items()}
        except (torch.OutOfMemoryError, RuntimeError) as error:
            raise MachineError(
                f"annotator {annotator.kind} keeps a copy of the trained parameters, {self.gibibytes():.2f} GiB that"
                " are not free; use annotator online, or train adapters with lora."
            ) from error

    def gibibytes(self) -> float:
        """Computes the memory of the copy."""
        return sum(p.numel() * (self.dtype or p.dtype).itemsize for p in self.parameters.values()) / 2**30

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Updates the copy after optimiser step `step`."""
        kind, decay, every = self.annotator.kind, self.annotator.decay, self.annotator.every
        for name, p in self.parameters.items():
            if kind == "ema":
                self.copies[name].mul_(decay).add_(p.float(), alpha=1 - decay)
            elif kind == "lagged" and step % every == 0:
                self.copies[name].copy_(p)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Puts the copy in the place of the parameters, and theirs back afterwards."""
        own = {name: p.data for name, p in self.parameters.items()}
        try:
            for name, p in self.parameters.items():
                p.data = self.copies[name].to(p.dtype)
            yield
        finally:
            for name, p in self.parameters.items():
                p.data = own[name]

    def save(self, folder: Path) -> None:
        """Writes the copy into a checkpoint."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: copy.contiguous() for name, copy in self.copies.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Loads the copy from a checkpoint."""
        if not (folder / FILE).is_file():
            raise DataError(
                f"{folder} has no {FILE}, so annotator {self.annotator.kind} cannot go on from it; it was written"
                " by a run with another annotator."
            )
        saved = load_file(folder / FILE)
        if saved.keys() != self.copies.keys() or any(saved[n].shape != c.shape for n, c in self.copies.items()):
            raise DataError(f"{folder / FILE} holds other parameters than this model trains.")
        for name, copy in self.copies.items():
            copy.copy_(saved[name])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.follow(state.global_step)
