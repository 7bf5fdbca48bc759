"""Mixin over a TRL trainer: changes the update of single tokens, see `rlif.config.token_update`."""

from collections.abc import Sequence
from typing import Any

import torch

from rlif.answers.span import answer_span
from rlif.config.token_update import TokenUpdate
from rlif.engines.trl.measuring.verification import Verification
from rlif.engines.trl.updating.covariance import covariances, largest, random_within
from rlif.engines.trl.updating.weights import token_weights
from rlif.sampling.sampler import token_chars


def tokens_within(chars: Sequence[int], start: int, end: int) -> torch.Tensor:
    """Marks the tokens that made characters of a part of a text.

    Args:
        chars: how many characters each token made. Of the tokens that share a character, all but the last made none.
        start: of the part, in characters.
        end: the character after it.
    """
    chars_T = torch.tensor(chars)
    ends_T = chars_T.cumsum(0)
    starts_T = ends_T - chars_T
    return (starts_T < end) & (torch.maximum(ends_T, starts_T + 1) > start)


class ByToken(Verification):
    """Mixin over a TRL trainer.

    Attributes:
        token_update: chooses tokens whose update is weakened.
        mask_answer: whether the tokens of the answer have no policy gradient.
    """

    token_update: TokenUpdate | None = None
    mask_answer = False
    loss_inputs: dict[str, Any] | None = None  # while TRL computes a loss whose tokens are changed
    penalty: torch.Tensor | float = 0.0

    def mask_answers(self, output: dict[str, Any], rows: Any) -> None:
        """Gives the tokens of answers an advantage of 0. A completion whose answer is not found has none at all.

        Args:
            output: of TRL's rollout, of this process.
            rows: its completions, as rewarded.
        """
        ids_BT = output["completion_ids"]
        mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        lost = 0
        for row, mask_T in zip(rows, mask_BT, strict=True):
            if row.answer is None:
                continue
            span = answer_span(row.text, self.reward.task.extract)
            chars = token_chars(self.text_tokenizer, row.completion_ids, row.text) if span else None
            if span is None or chars is None:
                mask_T[:] = False
                lost += 1
                continue
            mask_T[: len(chars)] = ~tokens_within(chars, *span).to(mask_T.device)
        output["policy_mask"] = mask_BT
        output["advantages"] = output["advantages"].unsqueeze(1) * mask_BT
        tokens_BT = self._counted(output).bool()
        self._log_share("answer_tokens", int((tokens_BT & ~mask_BT).sum()), int(tokens_BT.sum()))
        self._log_share("answer_not_found", lost, len(mask_BT))

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.token_update is None or not self.model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        self.loss_inputs, self.penalty = dict(inputs), 0.0
        try:
            return super().compute_loss(model, self.loss_inputs, *args, **kwargs) + self.penalty
        finally:
            self.loss_inputs, self.penalty = None, 0.0

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self.token_update is not None and self.loss_inputs is not None:
            self._weaken(self.token_update, self.loss_inputs, output[0])
        return output

    def _weaken(self, update: TokenUpdate, inputs: dict[str, Any], logps_BT: torch.Tensor) -> None:
        """Sets the penalty of the chosen tokens, or their advantages to 0: TRL reads these after it has scored."""
        counted_BT, now_BT = self._counted(inputs), logps_BT.detach().float()
        mask_BT = counted_BT * inputs["policy_mask"] if "policy_mask" in inputs else counted_BT
        old_BT, advantages = inputs.get("old_per_token_logps"), inputs["advantages"]
        old_BT = now_BT if old_BT is None else old_BT
        advantages_BT = (advantages.unsqueeze(1) if advantages.dim() == 1 else advantages).expand_as(now_BT)
        cov_BT = covariances(advantages_BT.float(), now_BT, mask_BT)
        if update.kind == "kl_cov":
            chosen_BT = largest(cov_BT, mask_BT, update.resolved_share)
            distance_BT = (logps_BT - old_BT).abs() * chosen_BT
            self.penalty = update.coefficient * (token_weights(self, inputs, counted_BT) * distance_BT).sum()
        else:
            ratio_BT = (now_BT - old_BT).exp()
            clipped_BT = (ratio_BT > 1 + self.epsilon_high) & (advantages_BT > 0)
            clipped_BT |= (ratio_BT < 1 - self.epsilon_low) & (advantages_BT < 0)
            cov_BT = cov_BT.masked_fill(clipped_BT, -torch.inf)
            chosen_BT = random_within(cov_BT, mask_BT, update.resolved_share, update.bounds)
            inputs["advantages"] = advantages_BT.masked_fill(chosen_BT, 0.0)
        self._log_share("weakened_tokens", int(chosen_BT.sum()), int(mask_BT.sum()))

    @staticmethod
    def _counted(inputs: dict[str, Any]) -> torch.Tensor:
        """Returns the mask of the tokens that count in TRL's loss."""
        mask_BT = inputs["completion_mask"]
        return mask_BT * inputs["tool_mask"] if "tool_mask" in inputs else mask_BT

    def _log_share(self, name: str, part: int, whole: int) -> None:
        """Logs part / whole, both summed over processes."""
        counts = torch.tensor([part, whole], dtype=torch.float32, device=self.accelerator.device)
        part_of_all, all_ = self.accelerator.reduce(counts, "sum").tolist()
        self._metrics["train"][name].append(part_of_all / max(all_, 1))
