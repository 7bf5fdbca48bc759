"""The TRL engine: GRPOTrainer and RLOOTrainer with internal feedback as an ordinary reward function.

The trainers here override methods of TRL's and of transformers', `super()` first, and change nothing of what these do:
`contract.USED` lists them. So a signal costs no forward pass wherever TRL runs one that serves. `rlif.config.passes`
has the table; the path taken is logged.

Self-certainty is that of the sampling distribution: temperature applied, top-k, top-p and penalties not. Signals of
rows that are truncated while `mask_truncated_completions` is on, of rows without tokens and non-finite values are None:
outside the group's mean, advantage zero. Tools and environments are refused.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate.utils import DistributedType, gather_object
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl import GRPOTrainer, RLOOTrainer  # pyright: ignore[reportPrivateImportUsage]
from trl.trainer.utils import use_adapter

from rlif.config.passes import Conditions, needs_copy, scored_anyway, which_pass
from rlif.engines.trl.annotator import Shadow
from rlif.engines.trl.checkpointing import SameOrder
from rlif.engines.trl.contract import check_trl
from rlif.engines.trl.rewards import InternalReward, Rollout
from rlif.engines.trl.vllm import Capture, colocated, restore_seed, with_capture_processor
from rlif.errors import RecipeError
from rlif.rewards.mixing import Mixer
from rlif.scoring.head import evaluation_mode, has_active_dropout, head_of, verify_head
from rlif.scoring.taps import CHEAP, BackboneTap, DecodeTap
from rlif.signals.token_confidence import TOP_K


def in_shards(accelerator: Any) -> bool:
    """Tells whether no process has the whole weights: FSDP, and DeepSpeed's ZeRO-3."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.state.deepspeed_plugin.zero_stage == 3
    return accelerator.distributed_type == DistributedType.FSDP


Trainer = cast(Any, object)  # for the type checker: one of TRL's, which `contract.USED` describes


class InternalFeedback(Trainer):
    """Mixin over a TRL trainer: gathers what an `InternalReward` needs at no extra forward pass where possible."""

    rollout: Rollout | None = None
    shadow: Shadow | None = None
    capture: Capture | None = None

    def __init__(self, *args: Any, reward_funcs: InternalReward, vllm_capture: bool = False, **kwargs: Any):
        check_trl(type(self))
        self.reward = reward_funcs
        with with_capture_processor() if vllm_capture else nullcontext():
            super().__init__(*args, reward_funcs=reward_funcs, **kwargs)
        restore_seed(self)
        if vllm_capture and in_shards(self.accelerator):  # each process would decide alone whether to run a pass
            raise RecipeError("vllm_capture needs whole weights on every process, and these are sharded; leave it out.")
        if vllm_capture:
            self.capture = Capture(colocated(self), self.temperature)
        if getattr(self, "tools", None) or getattr(self, "environments", None) or getattr(self, "rollout_func", None):
            raise RecipeError("tools, environments and rollout functions are not supported with an internal reward.")
        if getattr(self.args, "scale_rewards", "none") not in ("none", False):
            raise RecipeError("set scale_rewards='none': the normaliser of the reward scales them.")
        if getattr(self.args, "multi_objective_aggregation", "sum_then_normalize") != "sum_then_normalize":
            raise RecipeError("leave multi_objective_aggregation out: the mixer of the reward scales and sums them.")
        self.vocab_size = head_of(self.model).vocab_size
        verify_head(self.model)
        annotator, inner = self.reward.annotator, self.accelerator.unwrap_model(self.model)
        if needs_copy(annotator.kind, held=self.ref_model is not None or hasattr(inner, "get_base_model")):
            if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
                raise RecipeError(
                    f"annotator {annotator.kind} keeps a copy of whole parameters, which needs strategy ddp."
                )
            self.shadow = Shadow(inner, annotator)
            self.add_callback(self.shadow)
        self.add_callback(NormaliserState(reward_funcs.mixer))
        reward_funcs.trainer = self

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.shadow and self.reward.annotator.follows() and self.args.should_save:  # offline: the start is the start
            self.shadow.save(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.shadow and self.reward.annotator.follows() and checkpoint is not None:
            self.shadow.load(Path(checkpoint))

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SameOrder:
        return SameOrder(super()._get_train_sampler(*args, **kwargs), self)

    def _generate(self, prompts: list[Any], *args: Any, **kwargs: Any) -> Any:
        reads, inner = self._read(self.model) == "decode", self.accelerator.unwrap_model(self.model)
        wanted = {*CHEAP, *self.reward.needs}
        with DecodeTap(inner, self.temperature, wanted, TOP_K) if reads else nullcontext() as tap:
            output = super()._generate(prompts, *args, **kwargs)
        self.rollout = Rollout(prompt_ids=list(output[0]), completion_ids=list(output[1]))
        if tap is not None:
            self._keep(tap.fields(self.rollout.lengths), "decode")
        if self.capture is not None:
            rows = self.rollout.prompt_ids, self.rollout.completion_ids
            self._keep(self.capture.fields(*rows, self.accelerator.device), "vllm")
        return output

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        self.reward.take_advantages(gather_object(output["advantages"].tolist()))
        return output

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        call = super()._get_per_token_logps_and_entropies
        path = self._path_of(model) if self.rollout is not None and not torch.is_grad_enabled() else None
        if path is None or self._read(model, path) != path:
            return call(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        output, fields = self._run_with_tap(call, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self._keep(fields, path)
        return output

    def _run_with_tap(
        self, call: Any, model: Any, input_ids: Any, mask: Any, length: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the output of TRL's scoring method, and statistics; TRL computes the policy's entropy itself."""
        inner = self.accelerator.unwrap_model(model)
        theirs = {"entropy"} & self.reward.needs if model is not self.ref_model else set()
        if theirs:
            kwargs["compute_entropy"] = True
        wanted = {*CHEAP, *self.reward.needs} - theirs
        with BackboneTap(inner, input_ids, length, self.temperature, wanted, TOP_K) as tap:
            output = call(model, input_ids, mask, length, *args, **kwargs)
        fields = tap.fields(output[0])
        return output, fields if fields is None or not theirs else fields | {"entropy": output[1].float()}

    def _read(self, model: nn.Module, running: str = "") -> str | None:
        """Finds the row of the table of passes that is read, while a pass of TRL's is `running` or before a rollout."""
        scored = scored_anyway("rloo" if isinstance(self, RLOOTrainer) else "grpo", vars(self.args)) is not None
        elsewhere = (
            self.use_vllm
            or in_shards(self.accelerator)  # there a process decodes on while others do
            or getattr(self, "use_transformers_continuous_batching", False)
        )
        conditions = Conditions(
            annotator=self.reward.annotator.kind,
            scored=running == "policy" or scored,
            reference=running == "reference",
            captured=self.capture is not None,
            plain=not elsewhere,
            dropout=has_active_dropout(model),
        )
        return which_pass(conditions, self.reward.needs).read

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
        if not self.reward.needs <= rollout.fields.keys():
            self._own_pass(rollout)
        return rollout

    @contextmanager
    def _annotating_model(self) -> Iterator[nn.Module]:
        """Yields the model that the annotator measures, in eval mode."""
        model, switched = self.model, nullcontext()
        if self.shadow is not None:
            switched = self.shadow.swapped()
        elif self.reward.annotator.kind == "offline" and self.ref_model is not None:
            model = self.ref_model
        elif self.reward.annotator.kind == "offline":
            inner = self.accelerator.unwrap_model(model)
            switched = use_adapter(inner, "ref" if "ref" in inner.peft_config else None)
        with switched, evaluation_mode(model):
            yield model

    @torch.no_grad()
    def _own_pass(self, rollout: Rollout) -> None:
        """Runs TRL's scoring method once with a tap, for statistics that no other pass gave."""
        device, padding = self.accelerator.device, float(self.processing_class.pad_token_id)

        def columns(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
            ids = [torch.tensor(row, dtype=torch.long, device=device) for row in rows]
            pad = functools.partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
            return pad(ids, padding_value=padding), pad([torch.ones_like(row) for row in ids])

        parts = columns(rollout.prompt_ids, "left"), columns(rollout.completion_ids, "right")
        ids_BL, mask_BL = (torch.cat(pair, dim=1) for pair in zip(*parts, strict=True))
        length = max(rollout.lengths)
        call = super()._get_per_token_logps_and_entropies
        with self._annotating_model() as model:
            rows = self.args.per_device_train_batch_size
            _, fields = self._run_with_tap(call, model, ids_BL, mask_BL, length, batch_size=rows)
        assert fields is not None, "a pass of TRL's scoring method did not go through the backbone"
        rollout.fields, rollout.path = fields | rollout.fields, "pass"  # what was there stays, to the last bit


class InternalGRPOTrainer(InternalFeedback, GRPOTrainer):
    """TRL's GRPOTrainer rewarded by a signal. Intuitor is this with `rlif.SIGNALS["self_certainty"]`."""


class InternalRLOOTrainer(InternalFeedback, RLOOTrainer):
    """TRL's RLOOTrainer rewarded by a signal."""


class NormaliserState(TrainerCallback, ExportableState):
    """Carries the spreads at the start of a run through its checkpoints, in `trainer_state.json`."""

    def __init__(self, mixer: Mixer):
        self.mixer = mixer

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"start_spread": self.mixer.state()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__)
        if saved:
            self.mixer.load(saved["attributes"]["start_spread"])
