"""Reads statistics of tokens from the pass that verl's FSDP engine runs for log-probabilities.

verl's engine holds the logits of a micro-batch there. `prepare_model_outputs` turns them into log-probabilities; before
that they are read here, in float32 and in chunks, at the temperature of sampling. The result is one nested tensor per
statistic, aligned with `log_probs`: position t describes the distribution that generated token t + 1 of the row.

The trainer asks for statistics by `FIELDS` in the batch's extra information. Other passes cost nothing.
"""

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from rlif.engines.verl.names import FIELDS, PREFIX
from rlif.scoring.statistics import logits_stats
from rlif.signals.token_confidence import TOP_K


class InternalFSDPEngine(FSDPEngineWithLMHead):
    """verl's FSDP engine, which also gives the statistics that rewards read."""

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: Any, logits_processor_func: Any
    ) -> dict[str, Any]:
        """Adds the statistics that the batch asks for to verl's model output, as `rlif_NAME`."""
        names = tu.get_non_tensor_data(data=micro_batch, key=FIELDS, default=())
        found = self._statistics(output, output_args, micro_batch, names) if names else {}
        return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func) | found

    @torch.no_grad()
    def _statistics(
        self, output: Any, output_args: dict[str, Any], micro_batch: Any, names: tuple[str, ...]
    ) -> dict[str, torch.Tensor]:
        """Computes nested tensors, one value for each token of each row."""
        offsets_P = micro_batch["input_ids"].offsets()
        logits = output.logits
        if isinstance(logits, DTensor):  # tensor parallel heads
            logits = logits.full_tensor()
        packed = tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
        if packed:
            logits_NV, temperature_N = logits.squeeze(0), output_args["temperature_rmpad"]
        else:
            lengths = offsets_P.diff()
            logits_NV = torch.cat([row[:length] for row, length in zip(logits, lengths.tolist(), strict=True)])
            temperature_N = output_args["temperature"].repeat_interleave(lengths)
        top_k = min(TOP_K, logits_NV.shape[-1]) if "topk_confidence" in names else None
        stats = logits_stats(logits_NV, output_args["input_ids_rmpad_rolled"], temperature_N, top_k)
        found = {}
        for name in names:
            values_N = stats[name]
            if packed:  # gathers the shards of a sequence-parallel group, and removes their padding
                values_N = self._gather_and_unpad_packed(values_N, output_args["pad_size"])
            found[PREFIX + name] = torch.nested.nested_tensor_from_jagged(values_N, offsets_P)
        return found
