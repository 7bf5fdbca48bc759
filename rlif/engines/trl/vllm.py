"""Adds what TRL leaves open where vLLM samples. TRL itself builds the engine, syncs the weights and samples.

    refusals         what cannot work together is refused before a model is loaded
    random state     an engine in this process sets the process's seed to its own, the same for every recipe; the
                     recipe's is set again, so that `seed` decides the samples too
    capture          `vllm_capture` reads mean_logprob off the logits inside vLLM (`rlif.sampling.vllm_capture`), where
                     TRL runs no pass that gives it. The tokens of prompt and completion identify a row, because they
                     decide its values; so the order of rows does not matter
    end              TRL never shuts its engine down; a run that ends or rolls back frees its memory

Watch: capture measures the model as vLLM computes it. Its dtype is vLLM's: TRL passes none, so that float32 checkpoints
are halved on GPUs, and the self-certainty of a token then differs from the policy's as `sampling_logp_difference` does.
Tested on vLLM's CPU build, one process; tensor parallelism, sleep and the transfer of weights to a server need GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from transformers import set_seed
from trl.generation import vllm_generation

from rlif.config.passes import TABLE, needs_of, scored_anyway
from rlif.config.recipe import Recipe
from rlif.engines.trl.contract import raised_by_library
from rlif.errors import MachineError, RecipeError, first_line, lookup
from rlif.sampling.vllm_sampler import NUMBERS, error_message, processor, require_vllm, why_no_self_certainty

if TYPE_CHECKING:
    from rlif.engines.trl.trainer import InternalFeedback

MODES = {"colocate": "an engine on the trainer's own devices", "server": "an engine that was started beside it"}
MASKS = ("logit_bias", "bad_words", "allowed_token_ids", "min_tokens", "structured_outputs")  # of SamplingParams


def check_vllm(recipe: Recipe, options: Mapping[str, Any]) -> None:
    """Refuses what cannot work, from the recipe and the options for TRL's config; imports and loads nothing."""
    if options.get("use_vllm"):
        lookup(MODES, options.get("vllm_mode", "colocate"), "training.vllm_mode")
        window, longest = options.get("vllm_max_model_length"), options["max_completion_length"]
        if window is not None and window < recipe.max_prompt_tokens + longest:
            raise RecipeError(
                f"training.vllm_max_model_length is {window}, but max_prompt_tokens and training.max_completion_length"
                f" together are {recipe.max_prompt_tokens + longest}; raise it, or lower one of these."
            )
    if recipe.vllm_capture and (why := _no_capture(recipe, options)):
        raise RecipeError(f"vllm_capture reads self-certainty inside vLLM, but {why}; leave vllm_capture out.")


def _no_capture(recipe: Recipe, options: Mapping[str, Any]) -> str | None:
    """Says why capture is impossible or saves no pass; None where it does."""
    if not options.get("use_vllm"):
        return "training.use_vllm is not set"
    if options.get("vllm_mode", "colocate") != "colocate":
        return "training.vllm_mode server leaves vLLM to a process of its own"
    if recipe.annotator != "online":
        return f"annotator {recipe.annotator} measures another model than the one that samples"
    if why := scored_anyway(recipe.algorithm, options):
        return f"{why}, so TRL scores the policy anyway and self-certainty costs no pass"
    for name in recipe.weights:
        if lacking := needs_of([name]) - TABLE["vllm"].gives:
            return f"{name} reads {lacking.pop()}, which takes a pass"
    masks = [name for name in MASKS if name in (options.get("generation_kwargs") or {})]
    if options.get("vllm_structured_outputs_regex"):
        masks.append("vllm_structured_outputs_regex")
    return f"{masks[0]} masks the logits first" if masks else None


@contextmanager
def vllm_errors(recipe: Recipe, options: Mapping[str, Any]) -> Iterator[None]:
    """Checks that vLLM is installed; says in a sentence what its engine or server refuses while a trainer is built."""
    if not options.get("use_vllm"):
        yield
        return
    require_vllm()
    if recipe.vllm_capture:
        if why := why_no_self_certainty({}):
            raise MachineError(f"vllm_capture cannot measure self-certainty {why}; change that, or leave it out.")
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    try:
        yield
    except Exception as error:  # TRL's client raises a bare Exception for what a server answers, too
        if not raised_by_library(error):
            raise
        if options.get("vllm_mode", "colocate") == "server":
            raise MachineError(_server_trouble(recipe, options, error)) from error
        if isinstance(error, ValidationError):
            raise RecipeError(f"cannot set up training of {recipe.model!r}: {error_message(error)}") from error
        raise


def _server_trouble(recipe: Recipe, options: Mapping[str, Any], error: Exception) -> str:
    host, port = options.get("vllm_server_host", "0.0.0.0"), options.get("vllm_server_port", 8000)
    url = options.get("vllm_server_base_url") or f"http://{host}:{port}"
    return (
        f"cannot train with the vLLM server at {url}: {first_line(error).rstrip('.')}; start it with `trl vllm-serve"
        f" --model {recipe.model} --port {url.rpartition(':')[2].rstrip('/')}` on GPUs that the trainer does not use,"
        " let `rlif launch` do it, or set training.vllm_mode=colocate."
    )


@contextmanager
def with_capture_processor() -> Iterator[None]:
    """Makes TRL build its engine with our logits processor while the context is open."""
    theirs: Any = vllm_generation
    builder = theirs.LLM

    def build(*args: Any, **options: Any) -> Any:
        processors = [processor(), *options.pop("logits_processors", ())]
        worker = "rlif.sampling.vllm_capture.Worker"
        return builder(*args, logits_processors=processors, worker_extension_cls=worker, **options)

    theirs.LLM = build
    try:
        yield
    finally:
        theirs.LLM = builder


class Capture:
    """Captures mean_logprob of each token while TRL has an engine generate, by prompt and completion.

    Args:
        llm: the engine, built within `with_capture_processor`; its `generate` is wrapped.
        temperature: to measure at.
    """

    def __init__(self, llm: Any, temperature: float):
        self.llm, self.temperature, self.generate = llm, temperature, llm.generate
        self.seen: dict[tuple[tuple[int, ...], tuple[int, ...]], list[float]] = {}
        llm.generate = self._generate

    def _generate(self, prompts: Sequence[Any], *args: Any, sampling_params: Any, **options: Any) -> Any:
        """Calls the engine's own, with a number for each request."""
        from rlif.sampling.vllm_capture import KEY, TEMPERATURE

        numbers = [next(NUMBERS) for _ in prompts]
        params = [sampling_params.clone() for _ in prompts]
        for each, number in zip(params, numbers, strict=True):
            each.extra_args = {**(each.extra_args or {}), KEY: number, TEMPERATURE: self.temperature}
        outputs = self.generate(prompts, *args, sampling_params=params, **options)
        taken = self.llm.collective_rpc("take_mean_logprob")
        captured = {number: values for of_worker in taken for number, values in of_worker.items()}
        self.seen = {
            (tuple(output.prompt_token_ids), tuple(row.token_ids)): captured.get(number, [])[: len(row.token_ids)]
            for number, output in zip(numbers, outputs, strict=True)
            for row in output.outputs
        }
        return outputs

    def fields(
        self, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], device: Any
    ) -> dict[str, torch.Tensor] | None:
        """Returns `mean_logprob`, [B, T], of rows of the latest generation; None if a token of them was not seen."""
        rows = [self.seen.get((tuple(p), tuple(c)), []) for p, c in zip(prompt_ids, completion_ids, strict=True)]
        if [len(row) for row in rows] != [len(ids) for ids in completion_ids]:
            return None
        mean_logprob_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        return None if mean_logprob_BT.isnan().any() else {"mean_logprob": mean_logprob_BT.to(device)}


def colocated(trainer: InternalFeedback) -> Any:
    """Returns the engine in this process, None without one."""
    return getattr(getattr(trainer, "vllm_generation", None), "llm", None)


def restore_seed(trainer: InternalFeedback) -> None:
    """Sets the recipe's seed again, which loading an engine replaced; the processes of one engine get the same."""
    if colocated(trainer) is not None:
        set_seed(trainer.args.seed + trainer.accelerator.process_index // trainer.args.vllm_tensor_parallel_size)


def shut_down(trainer: InternalFeedback) -> None:
    """Ends the engine in this process, if there is one, and frees its memory; the trainer cannot sample afterwards.

    The engine's own shutdown would end torch's process group as well, which is the trainer's.
    """
    if (llm := colocated(trainer)) is not None:
        llm.llm_engine.model_executor.shutdown()
        del trainer.vllm_generation.llm
        trainer.capture = None
