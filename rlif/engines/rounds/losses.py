"""Genius's advantage-calibrated loss, as a small addition to TRL's DPO trainer.

With d = log pi(o|q) - log pi_ref(o|q) of the chosen (c) and the rejected (r) completion, and A their advantages,

    L = -log sigmoid(beta (d_c - k d_r))       k = max(1, exp((A_c - A_r) / alpha))

Source: arXiv 2504.08672; its code, xufangzhi/Genius, `aco_utils.py`, has this formula, alpha 1 and beta 0.1. It was
checked against that code, not against the paper's text. With k = 1 it is DPO's loss, `loss: sigmoid`.

Watch: k only grows. Where the rejected completion has the larger advantage, k is 1 and the loss is DPO's.
"""

from typing import Any

import torch
from trl import DPOConfig  # pyright: ignore[reportPrivateImportUsage]

from rlif.engines.rounds.trainers import PairTrainer
from rlif.errors import RecipeError

VALUES = ("chosen_value", "rejected_value")  # the columns of the data set that hold the advantages


def rejected_factor(chosen_P: torch.Tensor, rejected_P: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """Computes k, the weight of the rejected completion's log-ratio, [P], from advantages in nats."""
    return ((chosen_P - rejected_P) / alpha).exp().clamp(min=1)


def calibrated_loss(
    chosen_ratio_P: torch.Tensor, rejected_ratio_P: torch.Tensor, factor_P: torch.Tensor, beta: float
) -> torch.Tensor:
    """Computes the loss of each pair, [P], from log-ratios to the reference in nats."""
    return -torch.nn.functional.logsigmoid(beta * (chosen_ratio_P - factor_P * rejected_ratio_P))


class CalibratedTrainer(PairTrainer):
    """Trains by the advantage-calibrated loss; all else is TRL's DPO trainer.

    TRL computes the reference's log-probabilities before step 1 (`precompute_ref_log_probs`). A step runs one pass and
    holds its logits whole, two rows a pair. `method_options` has `alpha`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config: DPOConfig = kwargs["args"]
        if list(config.loss_type) != ["sigmoid"] or getattr(config, "ld_alpha", None) is not None:
            raise RecipeError("the calibrated loss is itself a loss of pairs; leave out training.ld_alpha.")
        config.precompute_ref_log_probs = True
        super().__init__(*args, **kwargs)
        collate: Any = self.data_collator
        self.data_collator = lambda examples: (
            collate(examples) | {name: torch.tensor([each[name] for each in examples]) for name in VALUES}
        )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        self._signature_columns = [*columns, *(name for name in VALUES if name not in columns)]

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        """Computes the mean loss of a batch, whose first half is chosen and whose second is rejected."""
        ids_BL, mask_BL = inputs["input_ids"], inputs["completion_mask"][:, 1:]
        outputs = model(input_ids=ids_BL, attention_mask=inputs["attention_mask"], use_cache=False)
        logprob_BLV = outputs.logits[:, :-1].float().log_softmax(-1)
        logprob_BL = logprob_BLV.gather(-1, ids_BL[:, 1:, None]).squeeze(-1)
        chosen_P, rejected_P = (logprob_BL * mask_BL).sum(1).chunk(2)
        chosen_ratio_P = chosen_P - inputs["ref_chosen_logps"].to(chosen_P)
        rejected_ratio_P = rejected_P - inputs["ref_rejected_logps"].to(chosen_P)
        better_P, worse_P = (inputs[name].to(chosen_P) for name in VALUES)
        factor_P = rejected_factor(better_P, worse_P, float(self.method_options["alpha"]))
        self._note(model, chosen_ratio_P.detach(), rejected_ratio_P.detach(), factor_P)
        loss = calibrated_loss(chosen_ratio_P, rejected_ratio_P, factor_P, self.beta).mean()
        return (loss, outputs) if return_outputs else loss

    def _note(self, model: Any, chosen_P: torch.Tensor, rejected_P: torch.Tensor, factor_P: torch.Tensor) -> None:
        """Logs what TRL logs of rewards under the same names, and the mean of k."""
        each: list[Any] = [self.beta * chosen_P, self.beta * rejected_P, factor_P]
        gather: Any = self.accelerator.gather
        chosen_P, rejected_P, factor_P = map(gather, each)
        metrics = self._metrics["train" if model.training else "eval"]
        metrics["rewards/chosen"].append(chosen_P.mean().item())
        metrics["rewards/rejected"].append(rejected_P.mean().item())
        metrics["rewards/margins"].append((chosen_P - rejected_P).mean().item())
        metrics["rewards/accuracies"].append((chosen_P > rejected_P).float().mean().item())
        metrics["rejected_factor"].append(factor_P.mean().item())
