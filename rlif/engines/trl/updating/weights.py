"""Gives the weight of each token in a form of TRL's loss."""

from typing import Any

import torch

from rlif.config.defaults import BY_TOKEN


def token_weights(trainer: Any, inputs: dict[str, Any], mask_BT: torch.Tensor) -> torch.Tensor:
    """Computes w, with which TRL's training loss is the sum of w times the loss of each token.

    Args:
        trainer: TRL's, whose `loss_type` is one of `BY_TOKEN`.
        inputs: the batch that its `compute_loss` gets.
        mask_BT: 1 for the tokens that count in the loss.
    """
    assert trainer.loss_type in BY_TOKEN, trainer.loss_type
    mask_BT = mask_BT.float()
    accumulation = trainer.current_gradient_accumulation_steps
    if trainer.loss_type == "dapo":  # `num_items_in_batch` counts the tokens of the rollout, over all processes
        items = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
        return mask_BT * trainer.args.steps_per_generation / (items * accumulation)
    tokens_or_rows: Any = {
        "grpo": mask_BT.sum(1, keepdim=True).clamp(min=1.0) * len(mask_BT),
        "bnpo": mask_BT.sum().clamp(min=1.0),
        "dr_grpo": len(mask_BT) * trainer.max_completion_length,
    }[trainer.loss_type]
    return mask_BT / tokens_or_rows / accumulation
