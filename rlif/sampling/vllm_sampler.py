"""Samples completions by vLLM, with the self-certainty of each, as `rlif.sampling.sampler.TransformersSampler` does.

The same decoding means the same distribution there and here: prompts go in as token ids, sampling defaults of the
model's own generation config are ignored (its end-of-sequence tokens are not), nothing is penalised, and only top_p
filters. Self-certainty is read inside the engine, off the raw logits (`rlif.sampling.vllm_capture`): no extra pass.

Repeatable: each completion has a random stream of its own, derived from the seed, its prompt's place and its number,
so it depends on nothing else in the batch; the prefix cache is emptied before each call; the engine runs in this
process, which makes its schedule deterministic. What is left: in half precision logits depend on the shape of the
batch, so the same call repeats, but a prompt among other prompts may not.

Watch: self-certainty cannot be had under speculative decoding, beside another plug-in that edits logits, or in vLLM's
V2 model runner before 0.31; it is None there, and a warning says why. Three of vLLM's environment variables are set
here where they are not set yet: VLLM_ENABLE_V1_MULTIPROCESSING=0 (1 works too: the engine is then a process of its own
and its schedule depends on timing), VLLM_USE_V2_MODEL_RUNNER=0 and VLLM_LOGGING_LEVEL=WARNING. An engine in this
process seeds the process's own random state when it loads. Tested on vLLM's CPU build; not yet run on a GPU.
"""

from __future__ import annotations

import itertools
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from rlif.config.recipe import Recipe
from rlif.errors import RlifError, first_line
from rlif.sampling.loading import model_path
from rlif.sampling.sampler import Completion, Decoding, cut
from rlif.scoring.statistics import length_mask
from rlif.signals import SIGNALS
from rlif.types import TokenStats

# Where there is no GPU, unless told otherwise.
CPU = {
    # After each piece of a prompt but the last vLLM rewinds the random stream, which torch cannot do on the CPU.
    "enable_chunked_prefill": False,
    "enforce_eager": True,  # compiling takes a minute
    "kv_cache_memory_bytes": 2**31,  # and not a share of all memory; VLLM_CPU_KVCACHE_SPACE, in GiB, overrides it
}

NUMBERS = itertools.count()  # of requests; one count for all engines, which may share what they capture


class VllmSampler:
    """Samples by vLLM; the engine is built once.

    Args:
        model: a model folder, or a hub name.
        tokenizer: of transformers, to render and decode with; the model's own if left out.
        dtype: of weights and activations; "auto" is the checkpoint's own (vLLM's own auto halves float32).
        max_model_len: tokens of prompt and completion together, the model's own limit if left out. A completion that
            meets it ends there and is `truncated`.
        gpu_memory_utilization: share of the device's memory for weights and cache.
        batch_size: completions it is best given at once; how many run together is vLLM's decision.
        engine: whatever else `vllm.LLM` takes, as it stands: tensor_parallel_size, quantization, ...

    Raises:
        RlifError: vLLM is not installed, or cannot load the model.

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
        self.measures = obstacle is None
        if obstacle is None:
            os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
            engine["logits_processors"] = [processor(), *engine.get("logits_processors", ())]
            engine["worker_extension_cls"] = "rlif.sampling.vllm_capture.Worker"
        else:
            warnings.warn(f"vLLM cannot measure self-certainty {obstacle}; it is left out.", stacklevel=2)
        engine |= {"max_model_len": max_model_len, "gpu_memory_utilization": gpu_memory_utilization}
        self.llm = _load(model, dtype, engine)
        self.tokenizer = self.llm.get_tokenizer() if tokenizer is None else tokenizer

    def sample(self, prompt_ids: Sequence[Sequence[int]], decoding: Decoding) -> list[Completion]:
        """`decoding.n` completions of each prompt, those of the first prompt first; the same for the same seed.

        Raises:
            RlifError: a prompt is empty, leaves no room for a token or holds one the model does not know, or vLLM
                refuses the decoding.
        """
        self._check(prompt_ids)
        places = [(i, sample) for i in range(len(prompt_ids)) for sample in range(decoding.n)]
        numbers = [next(NUMBERS) for _ in places]
        try:
            params = [
                self._sampling_params(decoding, place, number) for place, number in zip(places, numbers, strict=True)
            ]
        except Exception as error:  # a ValueError or vLLM's own, by version
            raise RlifError(f"vLLM refuses this decoding: {said(error)}") from error
        self.llm.reset_prefix_cache()
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt_ids[i])} for i, _ in places], params, use_tqdm=False
        )
        drawn = [output.outputs[0] for output in outputs]
        if odd := {each.finish_reason for each in drawn} - {"stop", "length"}:
            raise RuntimeError(f"vLLM ended a completion by {odd.pop()!r}")
        certainties = self._self_certainty(numbers, [len(each.token_ids) for each in drawn])
        return [
            Completion(
                text=cut(self.tokenizer.decode(each.token_ids, skip_special_tokens=True), decoding.stop),
                prompt_ids=list(prompt_ids[i]),
                completion_ids=list(each.token_ids),
                truncated=each.finish_reason == "length",
                self_certainty=certainty,
            )
            for (i, _), each, certainty in zip(places, drawn, certainties, strict=True)
        ]

    def close(self) -> None:
        """Ends the engine and frees the device's memory; it samples no more."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm

    def _check(self, prompt_ids: Sequence[Sequence[int]]) -> None:
        limit, vocab_size = self.llm.model_config.max_model_len, self.llm.model_config.get_vocab_size()
        for i, ids in enumerate(prompt_ids):
            if not 0 < len(ids) < limit:
                raise RlifError(
                    f"prompt {i} has {len(ids)} tokens and must have from 1 to {limit - 1}, for the engine holds"
                    f" {limit} with the completion; raise max_model_len where the model allows it."
                )
            if not 0 <= min(ids) <= max(ids) < vocab_size:
                raise RlifError(
                    f"prompt {i} holds a token id outside the model's {vocab_size}; is the tokenizer its own?"
                )

    def _sampling_params(self, decoding: Decoding, place: tuple[int, int], number: int) -> Any:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        from rlif.sampling.vllm_capture import KEY

        return SamplingParams(
            max_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p if decoding.temperature else 1.0,
            stop=list(decoding.stop),
            seed=stream(decoding.seed, *place) if decoding.temperature else None,
            extra_args={KEY: number},
        )

    def _self_certainty(self, numbers: Sequence[int], lengths: Sequence[int]) -> list[float | None]:
        """Of each request; None for one of which a token was not seen."""
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
        if mean_logprob_BT[mask_BT].isnan().any():
            warnings.warn("vLLM did not show the logits of every token; self-certainty is None there.", stacklevel=3)
        return SIGNALS["self_certainty"](TokenStats(mask_BT, vocab_size, mean_logprob_BT=mean_logprob_BT))


def load_sampler(recipe: Recipe, tokenizer: Any, *, label: str, batch_size: int = 512) -> VllmSampler:
    """The sampler of a recipe's model; only the fields that say how it is loaded are read.

    Args:
        label: what the model is called where it is refused.

    Raises:
        RlifError: an adapter, which vLLM would want merged; or as `VllmSampler`.
    """
    path = model_path(recipe)
    if (Path(path) / "adapter_config.json").is_file():
        raise RlifError(f"{label} is a LoRA adapter; merge it, or leave --engine at transformers.")
    options = {"revision": recipe.revision, "load_format": "auto" if recipe.allow_pickle else "safetensors"}
    return VllmSampler(path, tokenizer, dtype=recipe.dtype, batch_size=batch_size, **options)


def require_vllm() -> None:
    """Says what to install where vLLM is not.

    Raises:
        RlifError: it is not.
    """
    if find_spec("vllm") is None:
        raise RlifError(
            "vLLM is not installed; `pip install 'rlif[vllm]'` brings it for GPUs, requirements-vllm.txt its CPU"
            " build, and the transformers engine (training.use_vllm=false) needs neither."
        )


def why_no_self_certainty(engine: Mapping[str, Any]) -> str | None:
    """What keeps an engine of these options from measuring it, None if nothing does."""
    if any(engine.get(option) for option in ("speculative_config", "spec_method", "spec_model")):
        return "under speculative decoding"
    if _v2_asked_for() and not _v2_takes_processors():
        return "in its V2 model runner before vLLM 0.31 (VLLM_USE_V2_MODEL_RUNNER)"
    if plugins := entry_points(group="vllm.logits_processors"):
        return f"after the plug-in {', '.join(sorted(plugins.names))}, which may edit the logits first"
    return None


def processor() -> str:
    """Where vLLM finds the processor for its model runner, which is V1 where nothing is said."""
    return f"rlif.sampling.vllm_capture{'_v2' if _v2_asked_for() else ''}:SelfCertainty"


def _v2_asked_for() -> bool:
    return os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0").lower() not in ("", "0", "false")


def _v2_takes_processors() -> bool:
    try:
        return find_spec("vllm.v1.worker.gpu.sample.logits_processor") is not None
    except ModuleNotFoundError:
        return False


def stream(seed: int, prompt: int, sample: int) -> int:
    """The seed of one completion's random stream; a larger n or more prompts leave the others what they were."""
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
        raise RlifError(f"vLLM cannot load {model}: {said(error)}") from error


def _own_dtype(model: str, engine: Mapping[str, Any]) -> str:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        model, revision=engine.get("revision"), trust_remote_code=engine.get("trust_remote_code", False)
    )
    dtype = config.get_text_config().dtype or config.dtype
    return "auto" if dtype is None else str(dtype).removeprefix("torch.")


def said(error: Exception) -> str:
    """The first thing an error says; pydantic's first line only counts its errors."""
    return error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
