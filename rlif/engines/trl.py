"""The TRL engine: GRPOTrainer and RLOOTrainer with internal feedback as an ordinary reward function.

Not a fork and not a copy. The trainers here override three methods, `super()` first, and change nothing of what TRL
does:

    _generate                              remember the token ids; tap the decoding where that saves a pass
    _get_train_sampler                     the same order of problems after a resume, in every epoch
    _get_per_token_logps_and_entropies     tap the no-grad passes TRL runs for log-probabilities

so that self-certainty costs no forward pass wherever TRL runs one that serves. Which way was taken is logged:

    path        taken when                                                                      extra passes
    policy      TRL scores the policy anyway: vLLM's importance correction, two iterations,
                steps_per_generation above accumulation, RLOO                                   0
    reference   the offline annotator, which rides the reference pass (beta above 0)            0
    decode      plain `generate`: the logits of each decoding step are read as they pass        0
    pass        anything else, and any model with dropout on: one pass in eval mode             1

Self-certainty is that of the sampling distribution: temperature applied, top-k, top-p and penalties not. Rows that are
truncated while `mask_truncated_completions` is on, rows without tokens and non-finite values are None: outside the
group's mean, advantage zero. Tools and environments are refused.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import trl
from accelerate.utils import DistributedType, gather, gather_object
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl import GRPOTrainer, RLOOTrainer  # pyright: ignore[reportPrivateImportUsage]
from trl.trainer.utils import use_adapter

from rlif.engines.survival import SameOrder
from rlif.errors import RlifError
from rlif.rewards import Normaliser
from rlif.scoring import (
    BackboneTap,
    DecodeTap,
    evaluation_mode,
    has_active_dropout,
    head_of,
    length_mask,
    verify_head,
)
from rlif.signals import TokenSignal
from rlif.signals.self_certainty import token_self_certainty
from rlif.time_limit import rewarding
from rlif.types import TokenStats

OFFERED = ("mean_logprob_BT",)  # the fields of TokenStats that a signal can read in training
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
TESTED_TRL = "1.10 to 1.16"
EXPECTED = {
    "_generate": ("self", "prompts"),
    "_get_per_token_logps_and_entropies": ("self", "model", "input_ids", "attention_mask", "logits_to_keep"),
    "_get_train_sampler": ("self",),
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
}


def check_trl(trainer: type) -> None:
    """Refuses a TRL whose methods are not the ones overridden here.

    Raises:
        RlifError: names what is missing and the range of versions that was tested.
    """
    theirs = next(base for base in trainer.__mro__ if base.__module__.partition(".")[0] == "trl")
    for method, expected in EXPECTED.items():
        found = tuple(inspect.signature(getattr(theirs, method, lambda: None)).parameters)[: len(expected)]
        if found != expected:
            raise RlifError(
                f"TRL {trl.__version__} has no {theirs.__name__}.{method}({', '.join(expected[1:])}, ...), which rlif"
                f" builds on; install TRL {TESTED_TRL}."
            )


@dataclass
class Rollout:
    """What is known of the rows generated last, on this process, until they are rewarded."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    mean_logprob_BT: torch.Tensor | None = None
    path: str = ""

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.completion_ids]


@dataclass(frozen=True)
class Scored:
    """One completion with its rewards, as the reward function saw it."""

    prompt: Any
    completion: Any
    prompt_ids: list[int]
    completion_ids: list[int]
    truncated: bool
    reward: float | None
    token_self_certainty: torch.Tensor  # of length |o|, in nats, on the CPU


class InternalReward:
    """A signal as a TRL reward function: pass it to a trainer of this module as the only `reward_funcs`.

    Args:
        signal: from `rlif.SIGNALS`.
        name: of the signal, for the log.
        annotator: "online" for the confidence of the policy now, "offline" for that of its frozen start.
        normaliser: scales rewards within groups, see `rlif.rewards`; the trainer must have scale_rewards="none".
    """

    def __init__(self, signal: TokenSignal, name: str, annotator: str = "online", normaliser: Normaliser | None = None):
        self.signal, self.annotator, self.normaliser = signal, annotator, normaliser or Normaliser()
        self.__name__ = name
        self.trainer: Any = None
        self.scored: list[Scored] = []  # of the latest rollout, all processes, in TRL's order
        self.path = ""
        self.seconds = 600.0  # for one batch

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        rollout: Rollout = self.trainer.take_rollout()
        if [len(ids) for ids in completion_ids] != rollout.lengths:
            raise RuntimeError("the completions to reward are not the ones that were generated")
        assert rollout.mean_logprob_BT is not None
        mask_BT = length_mask(rollout.lengths, rollout.mean_logprob_BT.device)
        stats = TokenStats(
            mask_BT, self.trainer.vocab_size, self.trainer.args.temperature, mean_logprob_BT=rollout.mean_logprob_BT
        )
        truncated = [self._truncated(ids) for ids in completion_ids]
        if self.trainer.args.mask_truncated_completions:
            mask_BT[torch.tensor(truncated)] = False
        with rewarding(self.__name__, self.seconds):
            values = self.signal(stats)

        self.path = rollout.path
        certainty_BT = token_self_certainty(stats).float().cpu()
        by_token = [row_T[:length].clone() for row_T, length in zip(certainty_BT, rollout.lengths, strict=True)]
        self._remember(prompts, completions, rollout, truncated, values, by_token)
        scaled = self._normalised(values)
        if log_metric is not None:
            self._log(log_metric)
        return scaled

    def _truncated(self, completion_ids: list[int]) -> bool:
        tokenizer = self.trainer.processing_class
        ends = getattr(self.trainer, "eos_token_ids", [tokenizer.eos_token_id])  # a list of its own in TRL 1.16
        return not completion_ids or completion_ids[-1] not in (*ends, tokenizer.pad_token_id)

    def _remember(self, prompts: Any, completions: Any, rollout: Rollout, *columns: Any) -> None:
        rows = zip(prompts, completions, rollout.prompt_ids, rollout.completion_ids, *columns, strict=True)
        self.scored = gather_object([Scored(*row) for row in rows])

    def _log(self, log_metric: Callable[[str, float], None]) -> None:
        values = [row.reward for row in self.scored if row.reward is not None]
        log_metric(self.__name__, sum(values) / len(values) if values else math.nan)
        log_metric("unscorable", 1 - len(values) / len(self.scored))
        log_metric("reward_spread", self.normaliser.spread)
        log_metric("extra_passes", float(self.path == "pass"))

    def _normalised(self, values: list[float | None]) -> list[float | None]:
        """Groups may straddle processes, so all rewards are gathered, scaled, and this process's rows handed back."""
        training = self.trainer.model.training
        group = self.trainer.num_generations if training else self.trainer.num_generations_eval
        local_B = torch.tensor(
            [math.nan if value is None else value for value in values],
            dtype=torch.float64,
            device=self.trainer.accelerator.device,
        )
        gathered_B: Any = gather(local_B)
        scaled_B = self.normaliser(gathered_B.view(-1, group), learn=training).flatten()
        start = self.trainer.accelerator.process_index * len(values)
        return [None if math.isnan(x) else x for x in scaled_B[start : start + len(values)].tolist()]


class InternalFeedback:
    """Mixin over a TRL trainer: gathers what an `InternalReward` needs at no extra forward pass where possible."""

    rollout: Rollout | None = None

    # What is used of TRL's trainers, all there since 1.10.
    args: Any
    model: Any
    accelerator: Any
    processing_class: Any
    ref_model: Any
    add_callback: Any
    beta: float
    temperature: float
    num_iterations: int

    def __init__(self, *args: Any, reward_funcs: InternalReward, **kwargs: Any):
        check_trl(type(self))
        self.reward = reward_funcs
        super().__init__(*args, reward_funcs=reward_funcs, **kwargs)  # type: ignore[call-arg]
        if getattr(self, "tools", None) or getattr(self, "environments", None) or getattr(self, "rollout_func", None):
            raise RlifError("tools, environments and rollout functions are not supported with an internal reward.")
        if getattr(self.args, "scale_rewards", "none") not in ("none", False):
            raise RlifError("set scale_rewards='none': the normaliser of the reward scales them.")
        if reward_funcs.annotator == "offline" and self.beta == 0:
            raise RlifError(
                "annotator offline rides TRL's reference pass, which runs only with training.beta above 0;"
                " set it, or use annotator online."
            )
        self.vocab_size = head_of(self.model).vocab_size
        if self.vocab_size == 0:
            raise RlifError(
                "the output head is sharded (DeepSpeed ZeRO-3), which is not supported; use ZeRO-2 or FSDP2."
            )
        verify_head(self.model)
        self.add_callback(NormaliserState(reward_funcs.normaliser))
        reward_funcs.trainer = self

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SameOrder:
        return SameOrder(super()._get_train_sampler(*args, **kwargs), self)  # type: ignore[misc]

    def _generate(self, prompts: list[Any], *args: Any, **kwargs: Any) -> Any:
        with self._decode_tap() as tap:
            output = super()._generate(prompts, *args, **kwargs)  # type: ignore[misc]
        self.rollout = Rollout(prompt_ids=list(output[0]), completion_ids=list(output[1]))
        if tap is not None:
            self._offer(tap.mean_logprob(self.rollout.lengths), "decode")
        return output

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        call = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        wanted = self.rollout is not None and not torch.is_grad_enabled()
        if not wanted or self._annotator(model) != self.reward.annotator or has_active_dropout(model):
            return call(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        with BackboneTap(self.accelerator.unwrap_model(model), input_ids, logits_to_keep, self.temperature) as tap:
            output = call(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self._offer(tap.mean_logprob(output[0]), "policy" if self.reward.annotator == "online" else "reference")
        return output

    @contextmanager
    def _decode_tap(self) -> Iterator[DecodeTap | None]:
        """A tap on plain `generate`, unless a pass of TRL's will serve or the decoding is not that of the policy."""
        elsewhere = (
            self.reward.annotator == "offline"
            or isinstance(self, RLOOTrainer)
            or self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations) != 0
            or getattr(self, "use_vllm", False)
            or self.accelerator.distributed_type in SHARDED  # there a process decodes on while others do
            or getattr(self, "use_transformers_continuous_batching", False)
            or has_active_dropout(self.model)
        )
        if elsewhere:
            yield None
        else:
            with DecodeTap(self.accelerator.unwrap_model(self.model), self.temperature) as tap:
                yield tap

    def _annotator(self, model: nn.Module) -> str:
        """Whose pass it is: the reference model's, the bare model's under a switched-off adapter, or the policy's."""
        if model is getattr(self, "ref_model", None):
            return "offline"
        inner = self.accelerator.unwrap_model(model)
        if hasattr(inner, "get_base_model"):
            from peft.tuners.tuners_utils import BaseTunerLayer

            layers = [layer for layer in inner.modules() if isinstance(layer, BaseTunerLayer)]
            if any(layer.disable_adapters or "ref" in layer.active_adapters for layer in layers):
                return "offline"
        return "online"

    def _offer(self, mean_logprob_BT: torch.Tensor | None, path: str) -> None:
        """Keeps what a tap found; a pass of TRL's replaces what decoding gave, never the other way round."""
        if mean_logprob_BT is not None:
            assert self.rollout is not None
            self.rollout.mean_logprob_BT, self.rollout.path = mean_logprob_BT, path

    def take_rollout(self) -> Rollout:
        """The latest rollout, scored; from here on passes are not tapped until the next one."""
        rollout, self.rollout = self.rollout, None
        assert rollout is not None, "rewards were asked for before anything was generated"
        if rollout.mean_logprob_BT is None:
            self._own_pass(rollout)
        return rollout

    @contextmanager
    def _annotating_model(self) -> Iterator[nn.Module]:
        """The model whose confidence is asked for, in eval mode."""
        model = self.model
        with ExitStack() as stack:
            if self.reward.annotator == "offline" and getattr(self, "ref_model", None) is not None:
                model = self.ref_model
            elif self.reward.annotator == "offline":
                inner = self.accelerator.unwrap_model(model)
                stack.enter_context(use_adapter(inner, "ref" if "ref" in inner.peft_config else None))
            stack.enter_context(evaluation_mode(model))
            yield model

    @torch.no_grad()
    def _own_pass(self, rollout: Rollout) -> None:
        """One pass of TRL's scoring method, tapped, over rows that nobody has scored."""
        device, padding = self.accelerator.device, float(self.processing_class.pad_token_id)

        def columns(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
            ids = [torch.tensor(row, dtype=torch.long, device=device) for row in rows]
            pad = functools.partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
            return pad(ids, padding_value=padding), pad([torch.ones_like(row) for row in ids])

        parts = columns(rollout.prompt_ids, "left"), columns(rollout.completion_ids, "right")
        ids_BL, mask_BL = (torch.cat(pair, dim=1) for pair in zip(*parts, strict=True))
        length = max(rollout.lengths)
        with (
            self._annotating_model() as model,
            BackboneTap(self.accelerator.unwrap_model(model), ids_BL, length, self.temperature) as tap,
        ):
            logprob_BT = super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model, ids_BL, mask_BL, length, batch_size=self.args.per_device_train_batch_size
            )[0]
        rollout.mean_logprob_BT, rollout.path = tap.mean_logprob(logprob_BT), "pass"


class InternalGRPOTrainer(InternalFeedback, GRPOTrainer):
    """TRL's GRPOTrainer rewarded by a signal. Intuitor is this with `rlif.SIGNALS["self_certainty"]`."""


class InternalRLOOTrainer(InternalFeedback, RLOOTrainer):
    """TRL's RLOOTrainer rewarded by a signal."""


class NormaliserState(TrainerCallback, ExportableState):
    """Carries the spread at the start of a run through its checkpoints, in `trainer_state.json`."""

    def __init__(self, normaliser: Normaliser):
        self.normaliser = normaliser

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"start_spread": self.normaliser.start_spread}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__)
        if saved:
            self.normaliser.start_spread = saved["attributes"]["start_spread"]
