"""Compares what training will read with passes over one unpadded sequence in eval mode, before the first step.

So no list of architectures is needed. The numbers differ under dropout, where positions shift under padding, where rows
influence each other, and in models that read later tokens.
"""

import copy
import functools
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import datasets
import torch
from accelerate.utils import gather_object
from torch import nn

from rlif.config.passes import EVERY
from rlif.engines.trl.measuring.passes import Passes, in_shards
from rlif.engines.trl.measuring.processes import on_all
from rlif.engines.trl.measuring.rollout import Rollout
from rlif.errors import ModelError, first_line
from rlif.scoring.exactness import TOLERANCE, causal, deviation, ragged, random_state_kept, replaced
from rlif.scoring.head import causal_lm, training_mode
from rlif.scoring.statistics import padded, score_completions
from rlif.signals.token_confidence import TOP_K

Ids = list[list[int]]
LOG = logging.getLogger(__name__)
ROWS, TOKENS, CANDIDATES = 4, 16, 2_000  # completions, their length, prompts to choose from
# Greedy decoding. Other values of the filters have no effect in it, and transformers warns of them.
GREEDY = {"do_sample": False, "min_new_tokens": None, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None}
GREEDY["penalty_alpha"] = 0.0  # not contrastive search


class Verification(Passes):
    """Mixin over a TRL trainer: the check of its signal."""

    verified = False  # whether the signal was checked
    examples: Sequence[Any] | None = None

    def verify_signal(self, examples: Sequence[Any] | None = None) -> None:
        """Compares what training will read with passes over one unpadded sequence in eval mode; once, before step 1.

        Nothing is checked where no reward reads statistics. A few real prompts of different lengths get short
        completions. What TRL or vLLM computes is not read where it differs from these passes; a pass of rlif's own is
        read instead. The random state and the log do not change. What one process finds holds for all: each would
        read another path, or check on while the others train.

        Args:
            examples: prompts, as token ids where tools or environments take part; those of the data set if left out.

        Raises:
            ModelError: the pass of rlif's own differs too, or the model is not causal.
        """
        if self.verified or not self.measures:
            return
        self.verified, self.examples = True, examples
        while (found := self._rehearsed_on_all()) is not None:
            way, name = self.read, self._architecture
            if way is None:
                raise ModelError(
                    f"the confidence of {name} cannot be measured in batches: a pass of rlif's own in eval mode"
                    f" {found}; use another model, or rewards that read text alone, such as plurality_vote."
                )
            self.inexact |= {way}
            instead = self.read or ("a pass of rlif's own" if self.needs else "nothing")
            if self.is_world_process_zero():
                LOG.warning("%s: the path %r %s; %s is read instead", name, way, found, instead)

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
                f"{self._architecture} fails in the passes that training runs: {first_line(error)}; use another"
                f" model{instead}."
            ) from error

    @property
    def _architecture(self) -> str:
        return type(causal_lm(self.accelerator.unwrap_model(self.model))).__name__

    @torch.no_grad()
    def _rehearse(self) -> str | None:
        """Says how what is read now differs from passes over one sequence in eval mode; None if it does not."""
        metrics, seen = copy.deepcopy(self._metrics), self.state.num_input_tokens_seen
        tolerance = max(TOLERANCE.get(dtype, 0.0) for dtype in self._dtypes())
        silent = replaced(self.args, report_to=[])  # TRL gives trackers the times of its methods
        with random_state_kept(self.accelerator.device) as drew, training_mode(self.model), silent:
            rollout = self._short_rollout()
            random = drew() and self.read != "vllm"
            if getattr(self, "aux_loss_enabled", False):  # TRL's loss has a term of the routers, which may not be there
                self._score_padded(self.model, rollout, compute_aux_loss=True)
            rows = rollout.prompt_ids, rollout.completion_ids
            alone = causal(self._architecture, self._measure_alone, *rows, tolerance)
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
        prompts = ragged(self.examples or [row["prompt"] for row in islice(self.train_dataset, CANDIDATES)], ROWS)
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
        ids = prompts if self.in_turns else self._tokenize_prompts(prompts)[0]
        most = min(TOKENS, self.args.max_completion_length)
        ends = [row[-max(1, most - 3 * n) :] for n, row in enumerate(ids)]
        self.rollout = Rollout(ids, [*ends[1:], *ends[:1]])  # each prompt goes on with the end of another
        if self.read is not None:
            model, switched = self._reference() if self.read == "reference" else (self.model, nullcontext())
            with switched:
                self._score_padded(model, self.rollout)
        return self.take_rollout()

    @property
    def shows_prompts(self) -> bool:
        """Tells whether the data set shows its prompts before training."""
        rows = self.train_dataset
        return not self.in_turns and isinstance(rows, datasets.Dataset) and "prompt" in rows.column_names

    def _score_padded(self, model: nn.Module, rollout: Rollout, **options: Any) -> None:
        """Runs TRL's scoring method as TRL does: prompts padded on the left, completions on the right."""
        pad = functools.partial(padded, device=self.accelerator.device, padding=self.text_tokenizer.pad_token_id)
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
