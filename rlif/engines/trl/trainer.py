"""GRPOTrainer and RLOOTrainer of TRL, whose `reward_funcs` take signals, group signals and graders by name.

The mixin overrides methods of TRL's and of transformers', `super()` first, and changes nothing of what these do:
`contract.USED` lists them. So a signal costs no forward pass wherever TRL runs one that serves. `rlif.config.passes`
has the table; the path taken is logged. Without a name of rlif's among the rewards, the trainer is TRL's.

A signal is None for rows that are truncated while `mask_truncated_completions` is on, for rows without tokens, and
where its value is not finite. Such a row is outside the group's mean, and its advantage is zero. With tools and
environments, a signal reads only the tokens that the model wrote.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate.utils import DistributedType, gather_object
from trl import GRPOTrainer as TheirGRPOTrainer  # pyright: ignore[reportPrivateImportUsage]
from trl import RLOOTrainer as TheirRLOOTrainer  # pyright: ignore[reportPrivateImportUsage]
from trl.trainer.utils import nanstd

from rlif.config.passes import needs_copy
from rlif.config.recipe import Equivalence, Normalisation
from rlif.engines.trl.checkpointing import NormaliserState, SameOrder
from rlif.engines.trl.contract import check_trl
from rlif.engines.trl.guard_callback import ScriptGuard
from rlif.engines.trl.measuring.annotator import Annotator, Shadow
from rlif.engines.trl.measuring.passes import in_shards
from rlif.engines.trl.measuring.rollout import Rollout
from rlif.engines.trl.names import check_data, check_prompt, check_scaling, clustering, refuse_images, resolve
from rlif.engines.trl.rewards import Column, InternalReward
from rlif.engines.trl.updating.by_token import ByToken
from rlif.engines.trl.vllm import Capture, colocated, restore_seed, with_capture_processor
from rlif.errors import RecipeError
from rlif.guard.limits import Guard
from rlif.rewards.measuring import grids
from rlif.rewards.mixing import Mixer
from rlif.scoring.head import head_of, verify_head, without_router_logits
from rlif.scoring.taps import CHEAP, DecodeTap
from rlif.signals.token_confidence import TOP_K
from rlif.tasks import Task
from rlif.tasks.chat_template import Chat
from rlif.tasks.rendering import encode_all, ends_of

THEIRS = (TheirGRPOTrainer, TheirRLOOTrainer)


class InternalFeedback(ByToken):
    """Mixin over a TRL trainer or a subclass of one: put it before that among the bases.

    Args:
        args: as TRL's, and so are all other keywords; `reward_funcs` takes names of `rlif.SIGNALS`,
            `rlif.signals.GROUP_SIGNALS` and `rlif.graders.GRADERS` beside functions and reward models, and these as
            `rlif.trl.labelled(NAME)` or `rlif.trl.unlabelled(NAME)`.
        normalisation: scales every reward within its group instead of TRL's `scale_rewards`, see `rlif.rewards.mixing`.
        annotator: the model whose confidence token signals measure: online, offline, ema, lagged, or an `Annotator`.
        guard: watches the logs for collapse: True, or policy and limits.
        task: extracts and compares answers, by name or as an object; boxed expressions if left out.
        vllm_capture: reads self-certainty inside vLLM.
        equivalence: the model of semantic_entropy, {"entailment": NAME} or {"embedding": NAME}.
    """

    # as without a name of rlif's; also of trainers that are made without __init__, as tests of TRL's do
    reward = InternalReward([])
    scales = False
    chat: Chat | None = None

    def __init_subclass__(cls, **kwargs: Any):
        """Refuses a subclass whose trainer comes before the mixin, so that TRL would read the names."""
        super().__init_subclass__(**kwargs)
        before = [base for base in cls.__mro__[: cls.__mro__.index(InternalFeedback)] if issubclass(base, THEIRS)]
        if theirs := next((base for base in before if not issubclass(base, InternalFeedback)), None):
            raise RecipeError(
                f"the class {cls.__name__} has {theirs.__name__} before InternalFeedback; put InternalFeedback first"
                " among its bases."
            )

    def __init__(
        self,
        *args: Any,
        normalisation: Normalisation | None = None,
        annotator: Annotator | str = "online",
        guard: Guard | Mapping[str, Any] | bool | None = None,
        task: Task | str | None = None,
        vllm_capture: bool = False,
        equivalence: Equivalence | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        check_trl(type(self))
        first = dict(zip(("model", "reward_funcs", "args", "train_dataset"), args, strict=False)) | kwargs
        self.by_recipe = isinstance(first.get("reward_funcs"), InternalReward)
        functions, self.reward = resolve(first.get("reward_funcs"), task, annotator)
        self._check(first, normalisation, vllm_capture)
        if not self.by_recipe:
            self.reward.cluster_texts = clustering(equivalence, self.reward)
        given = [functions if n == 1 else each for n, each in enumerate(args)]
        kwargs |= {"reward_funcs": functions} if len(args) < 2 else {}
        trains_on = hasattr(first.get("model"), "get_base_model")  # an adapter; with it off the model is not its start
        with with_capture_processor() if vllm_capture else nullcontext():
            super().__init__(*given, **kwargs)
        self._prepare_rewards(normalisation)
        if self.measures:
            self._prepare_measuring(vllm_capture, trains_on)
        if self.by_recipe:
            self._render_as(self.reward.chat or Chat(True, self.args.chat_template_kwargs))
        if guard is not None and guard is not False:
            self.callback_handler.callbacks.insert(0, ScriptGuard(guard, self))

    def _check(self, given: Mapping[str, Any], normalisation: Normalisation | None, vllm_capture: bool) -> None:
        """Refuses what cannot work, before a model is loaded."""
        self.measures = self.by_recipe or bool(self.reward.needs)
        self.needs, self.measured = frozenset(self.reward.needs), self.reward.annotator
        names = [term.name for term in self.reward.terms]
        scaling = self.reward.mixer.sum_normaliser.kind if self.by_recipe else normalisation
        check_scaling(given.get("args"), scaling, names, by_recipe=self.by_recipe)
        check_data(self.reward, given.get("train_dataset"), given.get("args"))
        if vllm_capture and not self.by_recipe and not getattr(given.get("args"), "use_vllm", False):
            raise RecipeError("vllm_capture reads self-certainty inside vLLM; set use_vllm=True, or leave it out.")

    def _prepare_rewards(self, normalisation: Normalisation | None) -> None:
        """Names the columns of TRL's matrix, and sets up what scales and mixes them."""
        names = self.reward_func_names
        self.columns = [name if names.count(name) == 1 else f"{name}/{n}" for n, name in enumerate(names)]
        self.scales = self.by_recipe or normalisation is not None
        self.mixer = self.reward.mixer if self.by_recipe else Mixer(self.columns, normalisation or "none")
        self.reward.trainer = self
        if self.scales:
            self.scale_rewards = "none"
            self.add_callback(NormaliserState(self.mixer))

    def _prepare_measuring(self, vllm_capture: bool, trains_on: bool) -> None:
        """Sets up what reads statistics.

        Args:
            trains_on: whether the model had adapters already.
        """
        if self.by_recipe:
            restore_seed(self)
        if not self.use_vllm:  # TRL reads one tensor of one row for each prompt, whatever the model's own file asks for
            self.generation_config.update(return_dict_in_generate=False, num_return_sequences=1)
        if vllm_capture and in_shards(self.accelerator):  # each process would decide alone whether to run a pass
            raise RecipeError("vllm_capture needs whole weights on every process, and these are sharded; leave it out.")
        if vllm_capture:
            self.capture = Capture(colocated(self), self.temperature)
        self.vocab_size = head_of(self.model).vocab_size
        verify_head(self.model)
        annotator, inner = self.measured, self.accelerator.unwrap_model(self.model)
        starts = hasattr(inner, "get_base_model") and (not trains_on or "ref" in inner.peft_config)
        if needs_copy(annotator.kind, held=self.ref_model is not None or starts):
            if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
                raise RecipeError(
                    f"annotator {annotator.kind} keeps a copy of whole parameters, which needs strategy ddp."
                )
            self.shadow = Shadow(inner, annotator)
            self.add_callback(self.shadow)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.shadow and self.measured.follows() and self.args.should_save:  # offline: the start is the start
            self.shadow.save(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.shadow and self.measured.follows() and checkpoint is not None:
            self.shadow.load(Path(checkpoint))

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        return SameOrder(sampler, self) if self.reward.terms or self.scales else sampler

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """Renders prompts as TRL does or, for `chat`, as all of rlif: without an appended EOS, without two BOS."""
        if self.chat is None:
            return super()._tokenize_prompts(prompts)
        return encode_all(self.processing_class, prompts, self.chat), None, {}

    @property
    def ends(self) -> list[int]:
        """The tokens that end a completion; TRL before 1.15 knows one alone."""
        return getattr(self, "eos_token_ids", [self.text_tokenizer.eos_token_id])

    def _render_as(self, chat: Chat) -> None:
        """Renders prompts as `rlif train` does. The token that closes a turn in the template ends completions too."""
        self.chat = chat
        conversations = not isinstance(self.train_dataset[0]["prompt"], str)
        more = [end for end in ends_of(self.processing_class, chat) if end not in self.ends]
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
        if not self.measures:
            output = super()._generate(prompts, *args, **kwargs)
            if self.reward.terms:
                self.rollout = Rollout(list(output[0]), list(output[1]))
            return output
        reads, inner = self.read == "decode", self.accelerator.unwrap_model(self.model)
        tapped = DecodeTap(inner, self.temperature, {*CHEAP, *self.needs}, TOP_K) if reads else nullcontext()
        with without_router_logits(inner), tapped as tap:
            output = super()._generate(prompts, *args, **kwargs)
        rollout = Rollout(list(output[0]), list(output[1]), written=output[2] if self.in_turns else None)
        if self.in_turns and self.needs and output[-2] is not None:
            raise RecipeError("a signal is measured on text alone, and a tool gave images; use other rewards.")
        if self.in_turns:
            self.verify_signal(rollout.prompt_ids)
        self.rollout = rollout
        if tap is not None:
            self._keep(tap.fields(rollout.lengths), "decode")
        if self.capture is not None:
            self._keep(self.capture.fields(rollout.prompt_ids, rollout.completion_ids, self.accelerator.device), "vllm")
        return output

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        if self.needs:
            for row in inputs:
                check_prompt(row.get("prompt"))
                refuse_images(self.reward, row)
        if self.measures and not self.in_turns:
            self.verify_signal(None if self.shows_prompts else [row["prompt"] for row in inputs])
        output = super()._generate_and_score_completions(inputs)
        if self.reward.terms:
            self.reward.take_advantages(gather_object(output["advantages"].tolist()))
        if self.mask_answer and self.model.training:
            self.mask_answers(output, self.reward.scored[self.reward.first :][: len(output["advantages"])])
        if self.reward.terms or self.scales:
            self._log_as_measured()
        return output

    def _calculate_rewards(self, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.reward.terms and not self.scales:
            return super()._calculate_rewards(inputs, *args, **kwargs)
        self.reward.measured = False
        if self.by_recipe:
            weights = [term.weight.at(self.state.global_step) for term in self.reward.terms]
            self.reward_weights = torch.tensor(weights, dtype=torch.float32)
        else:
            weights = self.reward_weights.tolist()
        rewards_NK = super()._calculate_rewards(inputs, *args, **kwargs)
        return self._mixed(rewards_NK, dict(zip(self.columns, weights, strict=True)))

    def _mixed(self, rewards_NK: torch.Tensor, weights: dict[str, float]) -> torch.Tensor:
        """Returns the columns whose weighted sum is the reward, and remembers those that were measured."""
        values = {
            column: function.values() if isinstance(function, Column) else _none_for_nan(rewards_N)
            for column, function, rewards_N in zip(self.columns, self.reward_funcs, rewards_NK.T.tolist(), strict=True)
        }
        training = self.model.training
        if self.reward.terms:
            self.reward.take_rewards(values, weights)
        group = self.num_generations if training else self.num_generations_eval
        mixed = self.mixer.columns(grids(values, group), weights, self.reward.factors, learn=training)
        if self.reward.terms:
            self.reward.log(self._log_metric, self.mixer, weights)
        self.as_measured = values
        mixed_NK = torch.stack([mixed[name].flatten() for name in self.columns], dim=1).to(rewards_NK)
        ours_K = torch.tensor([isinstance(function, Column) for function in self.reward_funcs], device=mixed_NK.device)
        return mixed_NK if self.scales else torch.where(ours_K, mixed_NK, rewards_NK)

    def _log_as_measured(self) -> None:
        """Gives TRL's metrics and tables the rewards as they were measured, not as they were scaled."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, values in zip(self.reward_func_names, self.as_measured.values(), strict=True):
            column_N = torch.tensor(numpy.array(values, dtype=numpy.float32), device=self.accelerator.device)
            metrics[f"rewards/{name}/mean"][-1] = torch.nanmean(column_N).item()
            metrics[f"rewards/{name}/std"][-1] = nanstd(column_N).item()
            table = self._logs["rewards"][name]
            for _ in range(min(len(values), len(table))):
                table.pop()
            table.extend(column_N.tolist())


def _none_for_nan(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


class GRPOTrainer(InternalFeedback, TheirGRPOTrainer):
    """TRL's GRPOTrainer, whose rewards may be signals. Intuitor is this with the reward "self_certainty"."""


class RLOOTrainer(InternalFeedback, TheirRLOOTrainer):
    """TRL's RLOOTrainer, whose rewards may be signals."""


# Names of earlier versions.
InternalGRPOTrainer, InternalRLOOTrainer = GRPOTrainer, RLOOTrainer
