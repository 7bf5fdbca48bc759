"""The TRL engine: GRPOTrainer and RLOOTrainer with internal feedback as an ordinary reward function.

The trainers here override methods of TRL's and of transformers', `super()` first, and change nothing of what these do:
`contract.USED` lists them. So a signal costs no forward pass wherever TRL runs one that serves. `rlif.config.passes`
has the table; the path taken is logged. Prompts are rendered by `rlif.tasks.rendering`, not by TRL. Before the first
step `verify_signal` compares what will be read with passes over one unpadded sequence in eval mode, so that no list of
architectures is needed.

Self-certainty is that of the sampling distribution: temperature applied, top-k, top-p and penalties not. Signals of
rows that are truncated while `mask_truncated_completions` is on, of rows without tokens and non-finite values are None:
outside the group's mean, advantage zero. Tools and environments are refused.
"""

import copy
import functools
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate.utils import DistributedType, gather_object
from torch import nn
from trl import GRPOTrainer, RLOOTrainer  # pyright: ignore[reportPrivateImportUsage]
from trl.trainer.utils import use_adapter

from rlif.config.passes import EVERY, Conditions, PassName, needs_copy, scored_anyway, which_pass
from rlif.engines.trl.annotator import Shadow
from rlif.engines.trl.checkpointing import NormaliserState, SameOrder
from rlif.engines.trl.contract import check_trl
from rlif.engines.trl.rewards import InternalReward, Rollout, on_all
from rlif.engines.trl.vllm import Capture, colocated, restore_seed, with_capture_processor
from rlif.errors import ModelError, RecipeError, first_line
from rlif.scoring.exactness import TOLERANCE, causal, deviation, ragged, random_state_kept, replaced
from rlif.scoring.head import causal_lm, evaluation_mode, head_of, training_mode, verify_head, without_router_logits
from rlif.scoring.statistics import padded, score_completions
from rlif.scoring.taps import CHEAP, BackboneTap, DecodeTap
from rlif.signals.token_confidence import TOP_K
from rlif.tasks.chat_template import Chat
from rlif.tasks.rendering import encode_all, ends_of

Ids = list[list[int]]
LOG = logging.getLogger(__name__)
ROWS, TOKENS, CANDIDATES = 4, 16, 2_000  # of the check before a run: completions, their length, prompts to choose from
# Greedy decoding. Other values of the filters have no effect in it, and transformers warns of them.
GREEDY = {"do_sample": False, "min_new_tokens": None, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None}
GREEDY["penalty_alpha"] = 0.0  # not contrastive search


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
    verified = False  # whether the signal was checked
    inexact: frozenset[str] = frozenset()  # what the check found

    def __init__(
        self,
        *args: Any,
        reward_funcs: InternalReward,
        vllm_capture: bool = False,
        chat: Chat | None = None,
        **kwargs: Any,
    ):
        check_trl(type(self))
        self.reward = reward_funcs
        model = args[0] if args else kwargs.get("model")
        trains_on = hasattr(model, "get_base_model")  # an adapter that exists; with it off the model is not its start
        with with_capture_processor() if vllm_capture else nullcontext():
            super().__init__(*args, reward_funcs=reward_funcs, **kwargs)
        restore_seed(self)
        self.chat = Chat(True, self.args.chat_template_kwargs) if chat is None else chat
        self._end_turns()
        if not self.use_vllm:  # TRL reads one tensor of one row for each prompt, whatever the model's own file asks for
            self.generation_config.update(return_dict_in_generate=False, num_return_sequences=1)
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
        starts = hasattr(inner, "get_base_model") and (not trains_on or "ref" in inner.peft_config)
        if needs_copy(annotator.kind, held=self.ref_model is not None or starts):
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

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Renders prompts as all of rlif does; TRL would leave an appended EOS, and two BOS, in plain text."""
        return encode_all(self.processing_class, prompts, self.chat), None, {}

    @property
    def ends(self) -> list[int]:
        """The tokens that end a completion; TRL before 1.15 knows one alone."""
        return getattr(self, "eos_token_ids", [self.processing_class.eos_token_id])

    def _end_turns(self) -> None:
        """Makes the token that closes a turn in the chat template end completions too."""
        conversations = not isinstance(self.train_dataset[0]["prompt"], str)
        more = [end for end in ends_of(self.processing_class, self.chat) if end not in self.ends]
        if not more or not conversations or not hasattr(self, "eos_token_ids"):
            return
        self.eos_token_ids = [*self.eos_token_ids, *more]
        if self.use_vllm:
            given = self.vllm_generation.generation_kwargs
            more += given.get("stop_token_ids") or []
            self.vllm_generation.generation_kwargs = {**given, "stop_token_ids": more}
        else:
            self.generation_config.eos_token_id = self.eos_token_ids
            self.generation_kwargs["eos_token_id"] = self.eos_token_ids

    def _generate(self, prompts: list[Any], *args: Any, **kwargs: Any) -> Any:
        reads, inner = self.read == "decode", self.accelerator.unwrap_model(self.model)
        wanted = {*CHEAP, *self.reward.needs}
        tapped = DecodeTap(inner, self.temperature, wanted, TOP_K) if reads else nullcontext()
        with without_router_logits(inner), tapped as tap:
            output = super()._generate(prompts, *args, **kwargs)
        self.rollout = Rollout(prompt_ids=list(output[0]), completion_ids=list(output[1]))
        if tap is not None:
            self._keep(tap.fields(self.rollout.lengths), "decode")
        if self.capture is not None:
            rows = self.rollout.prompt_ids, self.rollout.completion_ids
            self._keep(self.capture.fields(*rows, self.accelerator.device), "vllm")
        return output

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self.verify_signal()
        output = super()._generate_and_score_completions(inputs)
        self.reward.take_advantages(gather_object(output["advantages"].tolist()))
        return output

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        call = super()._get_per_token_logps_and_entropies
        path = self._path_of(model) if self.rollout is not None and not torch.is_grad_enabled() else None
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
        theirs = {"entropy"} & self.reward.needs if model is not self.ref_model else set()
        if theirs:
            kwargs["compute_entropy"] = True
        wanted = {*CHEAP, *self.reward.needs} - theirs
        with BackboneTap(inner, input_ids, length, self.temperature, wanted, TOP_K) as tap:
            output = call(model, input_ids, mask, length, *args, **kwargs)
        fields = tap.fields(output[0])
        return output, fields if fields is None or not theirs else fields | {"entropy": output[1].float()}

    @property
    def read(self) -> PassName | None:
        """Finds the row of the table of passes that is read."""
        elsewhere = (
            self.use_vllm
            or in_shards(self.accelerator)  # there a process decodes on while others do
            or getattr(self, "use_transformers_continuous_batching", False)
        )
        conditions = Conditions(
            annotator=self.reward.annotator.kind,
            scored=scored_anyway("rloo" if isinstance(self, RLOOTrainer) else "grpo", vars(self.args)) is not None,
            reference=bool(self.args.beta),
            captured=self.capture is not None,
            plain=not elsewhere,
            inexact=self.inexact,
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
        elif self.reward.annotator.kind == "offline":
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
        ids_BL, mask_BL = padded(rows, self.accelerator.device, self.processing_class.pad_token_id)
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

    def verify_signal(self) -> None:
        """Compares what training will read with passes over one unpadded sequence in eval mode; once, before step 1.

        A few real prompts of different lengths get short completions. What TRL or vLLM computes is not read where it
        differs from these passes; a pass of rlif's own is read instead. The random state and the log do not change.
        What one process finds holds for all: each would read another path, or check on while the others train.

        Raises:
            ModelError: the pass of rlif's own differs too, or the model is not causal.
        """
        if self.verified:
            return
        self.verified = True
        while (found := self._rehearsed_on_all()) is not None:
            way = self.read
            if way is None:
                raise ModelError(
                    f"the confidence of {self._name} cannot be measured in batches: a pass of rlif's own in eval mode"
                    f" {found}; use another model, or rewards that read text alone, such as plurality_vote."
                )
            self.inexact |= {way}
            instead = self.read or ("a pass of rlif's own" if self.reward.needs else "nothing")
            if self.is_world_process_zero():
                LOG.warning("%s: the path %r %s; %s is read instead", self._name, way, found, instead)

    def _rehearsed_on_all(self) -> str | None:
        """Says what the first process with a difference found; an error on one is raised on all."""
        found = gather_object([on_all(self._rehearsed, failed=lambda sentence, _: ModelError(sentence))])
        return next(filter(None, found), None)

    def _rehearsed(self) -> str | None:
        try:
            return self._rehearse()
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if "memory" in str(error):  # `rlif.training.faults` says what to do
                raise
            instead = ", or training.router_aux_loss_coef=0" if getattr(self, "aux_loss_enabled", False) else ""
            raise ModelError(
                f"{self._name} fails in the passes that training runs: {first_line(error)}; use another model{instead}."
            ) from error

    @property
    def _name(self) -> str:
        return type(causal_lm(self.accelerator.unwrap_model(self.model))).__name__

    @torch.no_grad()
    def _rehearse(self) -> str | None:
        """Says how what is read now differs from passes over one sequence in eval mode; None if it does not."""
        metrics, seen = copy.deepcopy(self._metrics), self.state.num_input_tokens_seen
        tolerance = max(TOLERANCE.get(dtype, 0.0) for dtype in self._dtypes())
        with random_state_kept(self.accelerator.device) as drew, training_mode(self.model):
            rollout = self._short_rollout()
            random = drew() and self.read != "vllm"
            if getattr(self, "aux_loss_enabled", False):  # TRL's loss has a term of the routers, which may not be there
                self._score_padded(self.model, rollout, compute_aux_loss=True)
            rows = rollout.prompt_ids, rollout.completion_ids
            alone = causal(self._name, self._measure_alone, *rows, tolerance)
        self._metrics, self.state.num_input_tokens_seen = metrics, seen
        off = deviation(rollout.fields, alone, rollout.lengths)
        if random and rollout.fields:
            return "draws random numbers, as dropout does"
        return None if off <= tolerance else f"is {off:.2g} nats a token off an unpadded pass (limit {tolerance:g})"

    def _dtypes(self) -> set[torch.dtype]:
        """Returns the types that the statistics are computed in."""
        exact = torch.float16 if self.args.tf32 else torch.float32  # TF32 has as many digits
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision, exact)
        weights = {weight.dtype for weight in self.model.parameters()}  # a head in float32 may follow coarser ones
        engine = getattr(getattr(self.capture and self.capture.llm, "llm_engine", None), "model_config", None)
        return weights | {mixed, getattr(engine, "dtype", torch.float32)}

    def _short_rollout(self) -> Rollout:
        """Returns a few rows with statistics from the passes that training will read, in training mode."""
        prompts = ragged([row["prompt"] for row in islice(self.train_dataset, CANDIDATES)], ROWS)
        if self.read == "vllm":
            group, engine = self.num_generations, self.vllm_generation
            with replaced(engine, max_completion_length=min(TOKENS, engine.max_completion_length)):
                self._generate([prompt for prompt in prompts for _ in range(group)])  # an engine samples groups
            return self.take_rollout().every(group)
        if self.read == "decode":
            config = copy.deepcopy(self.generation_config)
            config.update(**GREEDY, max_new_tokens=min(TOKENS, config.max_new_tokens))
            with replaced(self, generation_config=config):
                self._generate(prompts)
            return self.take_rollout()
        ids = self._tokenize_prompts(prompts)[0]
        most = min(TOKENS, self.args.max_completion_length)
        ends = [row[-max(1, most - 3 * n) :] for n, row in enumerate(ids)]
        self.rollout = Rollout(ids, [*ends[1:], *ends[:1]])  # each prompt goes on with the end of another
        if self.read is not None:
            model, switched = self._reference() if self.read == "reference" else (self.model, nullcontext())
            with switched:
                self._score_padded(model, self.rollout)
        return self.take_rollout()

    def _score_padded(self, model: nn.Module, rollout: Rollout, **options: Any) -> None:
        """Runs TRL's scoring method as TRL does: prompts padded on the left, completions on the right."""
        pad = functools.partial(padded, device=self.accelerator.device, padding=self.processing_class.pad_token_id)
        parts = pad(rollout.prompt_ids, side="left"), pad(rollout.completion_ids)
        ids_BL, mask_BL = (torch.cat(pair, dim=1) for pair in zip(*parts, strict=True))
        options["batch_size"] = self.args.per_device_train_batch_size
        self._get_per_token_logps_and_entropies(model, ids_BL, mask_BL, max(rollout.lengths), **options)

    def _measure_alone(self, prompts: Ids, completions: Ids) -> dict[str, torch.Tensor]:
        """Computes statistics in eval mode, one unpadded sequence at a time."""
        if in_shards(self.accelerator):
            rows = [Rollout([p], [c]) for p, c in zip(prompts, completions, strict=True)]
            for row in rows:
                self._own_pass(row)
            pad = functools.partial(nn.utils.rnn.pad_sequence, batch_first=True)
            return {name: pad([row.fields[name][0] for row in rows]) for name in rows[0].fields}
        with self._annotating_model() as model:
            inner, k = self.accelerator.unwrap_model(model), min(TOP_K, self.vocab_size)
            stats = score_completions(inner, prompts, completions, temperature=self.temperature, top_k=k, batch_size=1)
        return {name: getattr(stats, f"{name}_BT") for name in EVERY}


class InternalGRPOTrainer(InternalFeedback, GRPOTrainer):
    """TRL's GRPOTrainer rewarded by a signal. Intuitor is this with `rlif.SIGNALS["self_certainty"]`."""


class InternalRLOOTrainer(InternalFeedback, RLOOTrainer):
    """TRL's RLOOTrainer rewarded by a signal."""
