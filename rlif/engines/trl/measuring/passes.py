"""Finds which pass of TRL's gives the statistics, reads it, and runs one of rlif's own where none serves.

`rlif.config.passes` has the table of passes. Self-certainty is that of the sampling distribution: temperature applied,
top-k, top-p and penalties not.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from accelerate.utils import DistributedType
from torch import nn
from trl import RLOOTrainer  # pyright: ignore[reportPrivateImportUsage]
from trl.trainer.utils import use_adapter

from rlif.config.passes import Conditions, PassName, scored_anyway, which_pass
from rlif.engines.trl.measuring.annotator import Annotator, Shadow
from rlif.engines.trl.measuring.rollout import Rollout
from rlif.scoring.head import evaluation_mode
from rlif.scoring.statistics import padded
from rlif.scoring.taps import CHEAP, BackboneTap
from rlif.signals.token_confidence import TOP_K


def in_shards(accelerator: Any) -> bool:
    """Tells whether no process has the whole weights: FSDP, and DeepSpeed's ZeRO-3."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.state.deepspeed_plugin.zero_stage == 3
    return accelerator.distributed_type == DistributedType.FSDP


Trainer = cast(Any, object)  # for the type checker: one of TRL's, which `contract.USED` describes


class Passes(Trainer):
    """Mixin over a TRL trainer: reads its passes.

    Attributes:
        measures: whether statistics are read at all.
        needs: statistics that rewards read, without their _BT.
        measured: the annotator; its statistics are read.
        rollout: the latest one, until it is taken.
        shadow: a copy of the policy, where the annotator is one.
        capture: reads statistics inside vLLM.
        inexact: passes that the check found to differ.
    """

    measures = False
    needs: frozenset[str] = frozenset()
    measured = Annotator()
    rollout: Rollout | None = None
    shadow: Shadow | None = None
    capture: Any = None
    inexact: frozenset[str] = frozenset()

    @property
    def read(self) -> PassName | None:
        """Finds the row of the table of passes that is read."""
        elsewhere = (
            self.use_vllm
            or in_shards(self.accelerator)  # there a process decodes on while others do
            or getattr(self, "use_transformers_continuous_batching", False)
            or self.in_turns
        )
        conditions = Conditions(
            annotator=self.measured.kind,
            scored=scored_anyway("rloo" if isinstance(self, RLOOTrainer) else "grpo", vars(self.args)) is not None,
            reference=bool(self.args.beta),
            captured=self.capture is not None,
            plain=not elsewhere,
            inexact=self.inexact,
        )
        return which_pass(conditions, self.needs).read

    @property
    def text_tokenizer(self) -> Any:
        """The tokenizer; a processor of text and images holds it."""
        return getattr(self.processing_class, "tokenizer", self.processing_class)

    @property
    def in_turns(self) -> bool:
        """Tells whether others than the model write part of a completion, or all of its tokens: tools, environments."""
        return any(getattr(self, name, None) for name in ("tools", "environment_factories", "rollout_func"))

    def _path_of(self, model: nn.Module) -> Literal["policy", "reference"]:
        """Tells whose pass it is; that of the bare model under a switched-off adapter is the reference."""
        if model is self.ref_model:
            return "reference"
        inner = self.accelerator.unwrap_model(model)
        if hasattr(inner, "get_base_model"):
            from peft.tuners.tuners_utils import BaseTunerLayer

            layers = [layer for layer in inner.modules() if isinstance(layer, BaseTunerLayer)]
            if any(layer.disable_adapters or "ref" in layer.active_adapters for layer in layers):
                return "reference"
        return "policy"

    def _keep(self, fields: dict[str, torch.Tensor] | None, path: str) -> None:
        """Keeps the statistics of a tap; a later pass of TRL's replaces those of decoding."""
        if fields is not None:
            assert self.rollout is not None
            self.rollout.fields, self.rollout.path = fields, path

    def take_rollout(self) -> Rollout:
        """Returns the latest rollout with its statistics; no pass is tapped until the next rollout."""
        rollout, self.rollout = self.rollout, None
        assert rollout is not None, "TRL called the reward before it generated"
        if not self.needs <= rollout.fields.keys():
            self._own_pass(rollout)
        return rollout

    @contextmanager
    def _annotating_model(self) -> Iterator[nn.Module]:
        """Yields the model that the annotator measures, in eval mode."""
        model, switched = self.model, nullcontext()
        if self.shadow is not None:
            switched = self.shadow.swapped()
        elif self.measured.kind == "offline":
            model, switched = self._reference()
        with switched, evaluation_mode(model):
            yield model

    def _reference(self) -> tuple[nn.Module, AbstractContextManager[Any]]:
        """Returns the reference model, and the context in which it is that: adapters may have to be off."""
        if self.ref_model is not None:
            return self.ref_model, nullcontext()
        inner = self.accelerator.unwrap_model(self.model)
        return self.model, use_adapter(inner, "ref" if "ref" in inner.peft_config else None)

    @torch.no_grad()
    def _own_pass(self, rollout: Rollout) -> None:
        """Runs TRL's scoring method once with a tap, for statistics that no other pass gave.

        Rows are padded on the right alone, which changes nothing for any causal model.
        """
        rows = [[*p, *c] for p, c in zip(rollout.prompt_ids, rollout.completion_ids, strict=True)]
        ids_BL, mask_BL = padded(rows, self.accelerator.device, self.text_tokenizer.pad_token_id)
        starts_B = torch.tensor([len(ids) for ids in rollout.prompt_ids], device=ids_BL.device)
        first, length = int(starts_B.min()), max(rollout.lengths)
        call, size = super()._get_per_token_logps_and_entropies, self.args.per_device_train_batch_size
        with self._annotating_model() as model:
            _, fields = self._run_with_tap(call, model, ids_BL, mask_BL, ids_BL.shape[1] - first, batch_size=size)
        assert fields is not None, "a pass of TRL's scoring method did not go through the backbone"
        columns_BT = (starts_B - first).unsqueeze(1) + torch.arange(length, device=ids_BL.device)
        columns_BT = columns_BT.clamp(max=ids_BL.shape[1] - first - 1)  # of padding
        own = {name: values_BL.gather(1, columns_BT) for name, values_BL in fields.items()}
        rollout.fields, rollout.path = own | rollout.fields, "pass"  # what was there stays, to the last bit

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        call = super()._get_per_token_logps_and_entropies
        tapped = self.measures and self.rollout is not None and not torch.is_grad_enabled()
        path = self._path_of(model) if tapped else None
        if path is None or self.read != path:
            return call(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        output, fields = self._run_with_tap(call, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self._keep(fields, path)
        return output

    def _run_with_tap(
        self, call: Any, model: Any, input_ids: Any, mask: Any, length: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the output of TRL's scoring method, and statistics; TRL computes the policy's entropy itself."""
        inner = self.accelerator.unwrap_model(model)
        theirs = {"entropy"} & self.needs if model is not self.ref_model else set()
        if theirs:
            kwargs["compute_entropy"] = True
        wanted = {*CHEAP, *self.needs} - theirs
        with BackboneTap(inner, input_ids, length, self.temperature, wanted, TOP_K) as tap:
            output = call(model, input_ids, mask, length, *args, **kwargs)
        fields = tap.fields(output[0])
        return output, fields if fields is None or not theirs else fields | {"entropy": output[1].float()}
