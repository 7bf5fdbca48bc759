"""Samples completions by vLLM, with the self-certainty of each, like `rlif.sampling.sampler.TransformersSampler`.

The same decoding gives the same distribution in both. Prompts go in as token ids. Sampling defaults of the model's own
generation config are ignored, except its end-of-sequence tokens. There are no penalties, and only top_p filters.
Self-certainty is measured inside the engine from the raw logits (`rlif.sampling.vllm_capture`), without another pass.

Results repeat. Each completion has its own random stream, derived from the seed, its prompt's place and its number.
The prefix cache is emptied before each call. The engine runs in this process, so its schedule is deterministic. One
limit: in half precision, logits depend on the shape of the batch. The same call repeats; a prompt among other prompts
may not.

Watch: self-certainty cannot be measured under speculative decoding, after a plug-in that edits logits, or in vLLM's V2
model runner before 0.31. It is None there, and the log has a warning. Three environment variables get values if they
have none: VLLM_ENABLE_V1_MULTIPROCESSING=0, VLLM_USE_V2_MODEL_RUNNER=0 and VLLM_LOGGING_LEVEL=WARNING. With 1 for the
first, the engine is another process, and its schedule depends on timing. An engine in this process seeds its random
state when it loads. Tested on vLLM's CPU build; not yet run on a GPU.
"""

import itertools
import logging
import os
import random
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

import torch
from pydantic import ValidationError

from rlif import progress
from rlif.config.recipe import Recipe
from rlif.errors import DataError, MachineError, ModelError, RecipeError, first_line
from rlif.sampling.loading import is_adapter, model_path
from rlif.sampling.sampler import Completion, Decoding, cut
from rlif.scoring.statistics import length_mask
from rlif.signals import SIGNALS
from rlif.types import TokenStats

# Defaults where there is no GPU.
CPU = {
    # After each piece of a prompt but the last vLLM rewinds the random stream, which torch cannot do on the CPU.
    "enable_chunked_prefill": False,
    "enforce_eager": True,  # compiling takes a minute
    "kv_cache_memory_bytes": 2**31,  # instead of a share of all memory; VLLM_CPU_KVCACHE_SPACE, in GiB, overrides it
}

logger = logging.getLogger(__name__)

NUMBERS = itertools.count()  # of requests; one count for all engines, which may share what they capture


class VllmSampler:
    """Samples by vLLM; builds the engine once.

    Args:
        model: a model folder, or a hub name.
        tokenizer: a tokenizer of transformers; the model's own if left out.
        dtype: data type of weights and activations; "auto" is the checkpoint's own (vLLM's own auto halves float32).
        max_model_len: limit of prompt and completion together, in tokens; the model's own if left out. A completion
            that reaches it is `truncated`.
        gpu_memory_utilization: share of the device's memory for weights and cache.
        batch_size: how many completions to ask for at once; vLLM decides how many run together.
        engine: further arguments of `vllm.LLM`: tensor_parallel_size, quantization, ...

    Example::

        sampler = VllmSampler("Qwen/Qwen2.5-3B", max_model_len=4096)
        surest = max(sampler.sample(prompt_ids, Decoding(max_tokens=512)), key=lambda c: c.self_certainty)
    """

    def __init__(
        self,
        model: str,
        tokenizer: Any = None,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        batch_size: int = 512,
        **engine: Any,
    ):
        require_vllm()
        self.batch_size = batch_size
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        obstacle = why_no_self_certainty(engine)
        self.measures, self.incomplete = obstacle is None, False
        if obstacle is None:
            os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
            engine["logits_processors"] = [processor(), *engine.get("logits_processors", ())]
            engine["worker_extension_cls"] = "rlif.sampling.vllm_capture.Worker"
        else:
            logger.warning("vLLM cannot measure self-certainty %s; it is left out.", obstacle)
        engine |= {"max_model_len": max_model_len, "gpu_memory_utilization": gpu_memory_utilization}
        self.llm = _load(model, dtype, engine)
        self.tokenizer = self.llm.get_tokenizer() if tokenizer is None else tokenizer

    def sample(self, prompt_ids: Sequence[Sequence[int]], decoding: Decoding) -> list[Completion]:
        """Samples `decoding.n` completions of each prompt, in the order of the prompts; repeatable by the seed."""
        self._check(prompt_ids)
        places = [(i, sample) for i in range(len(prompt_ids)) for sample in range(decoding.n)]
        numbers = [next(NUMBERS) for _ in places]
        params = [_sampling_params(decoding, place, number) for place, number in zip(places, numbers, strict=True)]
        self.llm.reset_prefix_cache()
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt_ids[i])} for i, _ in places], params, use_tqdm=False
        )
        drawn = [request.outputs[0] for request in outputs]
        if odd := {output.finish_reason for output in drawn} - {"stop", "length"}:
            raise RuntimeError(f"vLLM ended a completion by {odd.pop()!r}")
        certainties = self._self_certainty(numbers, [len(output.token_ids) for output in drawn])
        return [
            Completion(
                text=cut(self.tokenizer.decode(output.token_ids, skip_special_tokens=True), decoding.stop),
                prompt_ids=list(prompt_ids[i]),
                completion_ids=list(output.token_ids),
                truncated=output.finish_reason == "length",
                self_certainty=certainty,
            )
            for (i, _), output, certainty in zip(places, drawn, certainties, strict=True)
        ]

    def close(self) -> None:
        """Stops the engine and frees the memory of the device; the sampler cannot sample any more."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm

    def _check(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        limit, vocab_size = self.llm.model_config.max_model_len, self.llm.model_config.get_vocab_size()
        for i, ids in enumerate(prompt_ids):
            if not 0 < len(ids) < limit:
                raise DataError(
                    f"prompt {i} has {len(ids)} tokens and must have from 1 to {limit - 1}, for the engine holds"
                    f" {limit} with the completion; raise max_model_len where the model allows it."
                )
            if not 0 <= min(ids) <= max(ids) < vocab_size:
                raise DataError(
                    f"prompt {i} holds a token id outside the model's {vocab_size}; is the tokenizer its own?"
                )

    def _self_certainty(self, numbers: Sequence[int], lengths: Sequence[int]) -> list[float | None]:
        """Returns the self-certainty of each request; None if one of its tokens was not seen."""
        if not self.measures:
            return [None] * len(numbers)
        captured: dict[int, list[float]] = {}
        for taken in self.llm.collective_rpc("take_mean_logprob"):
            captured |= taken
        mean_logprob_BT = torch.full((len(numbers), max(lengths, default=0)), torch.nan)
        for b, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
            values = captured.get(number, [])[:length]
            mean_logprob_BT[b, : len(values)] = torch.tensor(values)
        mask_BT, vocab_size = length_mask(lengths), self.llm.model_config.get_vocab_size()
        if mean_logprob_BT[mask_BT].isnan().any() and not self.incomplete:
            self.incomplete = True  # one warning is enough
            logger.warning("vLLM did not show the logits of every token; self-certainty is None there.")
        return SIGNALS["self_certainty"](TokenStats(mask_BT, vocab_size, mean_logprob_BT=mean_logprob_BT))


def _sampling_params(decoding: Decoding, place: tuple[int, int], number: int) -> Any:
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

    from rlif.sampling.vllm_capture import KEY

    options = {
        "max_tokens": decoding.max_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p if decoding.temperature else 1.0,
        "stop": list(decoding.stop),
        "stop_token_ids": list(decoding.ends),
        "seed": stream(decoding.seed, *place) if decoding.temperature else None,
        "extra_args": {KEY: number},
    }
    try:
        return SamplingParams(**options)
    except TypeError:  # an option that vLLM does not know: a mistake of ours
        raise
    except Exception as error:  # a ValueError or a class of vLLM's own, which changes with its version
        raise RecipeError(f"vLLM refuses this decoding: {error_message(error)}") from error


@progress.task("starting vLLM")
def load_sampler(recipe: Recipe, tokenizer: Any, *, label: str, batch_size: int = 512) -> VllmSampler:
    """Loads the sampler of a recipe's model; reads only the fields that say how to load it."""
    path = model_path(recipe)
    if is_adapter(path):
        raise ModelError(f"{label} is a LoRA adapter; merge it, or leave --engine at transformers.")
    options = {"revision": recipe.revision, "load_format": "auto" if recipe.allow_pickle else "safetensors"}
    return VllmSampler(path, tokenizer, dtype=recipe.dtype, batch_size=batch_size, **options)


def require_vllm() -> None:
    """Refuses to go on without vLLM; the message names what to install."""
    if find_spec("vllm") is None:
        raise MachineError(
            "vLLM is not installed; `pip install 'rlif[vllm]'` brings it for GPUs, requirements-vllm.txt its CPU"
            " build, and the transformers engine (training.use_vllm=false) needs neither."
        )


def why_no_self_certainty(engine: Mapping[str, Any]) -> str | None:
    """Says why an engine with these options cannot measure self-certainty; None if it can."""
    if any(engine.get(option) for option in ("speculative_config", "spec_method", "spec_model")):
        return "under speculative decoding"
    if _v2_asked_for() and not _v2_takes_processors():
        return "in its V2 model runner before vLLM 0.31 (VLLM_USE_V2_MODEL_RUNNER)"
    if plugins := entry_points(group="vllm.logits_processors"):
        return f"after the plug-in {', '.join(sorted(plugins.names))}, which may edit the logits first"
    return None


def processor() -> str:
    """Returns the import path of the processor for vLLM's model runner; V1 is the default."""
    return f"rlif.sampling.vllm_capture{'_v2' if _v2_asked_for() else ''}:SelfCertainty"


def _v2_asked_for() -> bool:
    return os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0").lower() not in ("", "0", "false")


def _v2_takes_processors() -> bool:
    try:
        return find_spec("vllm.v1.worker.gpu.sample.logits_processor") is not None
    except ModuleNotFoundError:
        return False


def stream(seed: int, prompt: int, sample: int) -> int:
    """Returns the seed of one completion's random stream; more prompts or a larger n change no other stream."""
    return random.Random(f"{seed} {prompt} {sample}").getrandbits(63)


def _load(model: str, dtype: str, engine: dict[str, Any]) -> Any:
    import vllm  # pyright: ignore[reportMissingImports]
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    if current_platform.is_cpu():
        engine = CPU | engine
    try:
        if dtype == "auto":
            dtype = _own_dtype(model, engine)
        return vllm.LLM(model=model, dtype=dtype, generation_config="vllm", use_tqdm_on_load=False, **engine)
    except (OSError, ValueError) as error:
        raise ModelError(f"vLLM cannot load {model}: {error_message(error)}") from error


def _own_dtype(model: str, engine: Mapping[str, Any]) -> str:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        model, revision=engine.get("revision"), trust_remote_code=engine.get("trust_remote_code", False)
    )
    dtype = config.get_text_config().dtype or config.dtype
    return "auto" if dtype is None else str(dtype).removeprefix("torch.")


def error_message(error: Exception) -> str:
    """Returns the first message of an error; the first line of pydantic's only counts its errors."""
    return error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
