"""Says before anything long starts what a model cannot do, from its configuration and from its weights.

    check_kind         a model of text, which transformers loads as a causal language model
    check_trainable    quantised weights take adapters; no layers are dropped at random
    check_fit          prompts and completions within its positions, and tokens within its embeddings (`check_tokens`)
    check_generation   options of sampling that transformers refuses, tried on a tiny model
    check_tokenizer    a tokenizer with as many tokens as the model, see also `check_pair`
    check_finite       weights without NaN and infinite values; `check_files` reads them off the disk

Training, its dry run, evaluation, selection and the forecast call these through `rlif.sampling.loading`,
`rlif.training.prepare` and the samplers. `rlif.scoring.statistics` refuses rows that are too long itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlif.errors import ModelError, RecipeError, first_line, nearest
from rlif.scoring.head import longest_sequence


def check_kind(name: str, config: Any) -> None:
    """Refuses a model that transformers does not load as a causal language model of text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if not getattr(config, "return_dict", True):
        raise ModelError(f"config.json of {name} has return_dict: false, which hides its hidden states; take it out.")
    if config.model_type in KNOWN:
        return
    others = [part.removesuffix("_config") for part in getattr(config, "sub_configs", {}) if part != "text_config"]
    parts = f", with {' and '.join(others)}" if others else ""
    raise ModelError(
        f"{name} is a {config.model_type} model{parts}, and transformers has no causal language model of text of this"
        " kind; use a model of text."
    )


def check_trainable(name: str, config: Any, adapters: bool) -> None:
    """Refuses to train quantised weights themselves, where adapters can be trained, and layers dropped at random."""
    for key, value in config.to_dict().items():
        if key.endswith("layerdrop") and value:
            raise ModelError(
                f"config.json of {name} has {key}: {value}, and completions cannot be sampled while layers are dropped"
                " at random; set it to 0."
            )
    found = getattr(config, "quantization_config", None) or {}
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    if method in ("awq", "bitsandbytes", "gptq") and not adapters:
        raise ModelError(
            f"the weights of {name} are quantised ({method}) and cannot be trained themselves; train adapters over them"
            " (lora), or take the model that was not quantised."
        )


def check_fit(name: str, config: Any, tokenizer: Any, prompt_ids: Sequence[Sequence[int]], max_tokens: int) -> None:
    """Refuses prompts that the model cannot read, or cannot complete by `max_tokens` within its positions."""
    limit, longest = longest_sequence(config), max(map(len, prompt_ids), default=0)
    if limit is not None and longest + max_tokens > limit:
        raise RecipeError(
            f"the longest prompt has {longest} tokens and a completion up to {max_tokens}, together"
            f" {longest + max_tokens}, but {name} has {limit} positions; lower the limit of completions"
            " (training.max_completion_length, --max-tokens) or leave out long prompts."
        )
    check_tokens(name, config, tokenizer, prompt_ids)


def check_tokens(name: str, config: Any, tokenizer: Any, rows: Iterable[Sequence[int]]) -> None:
    """Refuses token ids that a model has no embedding of.

    Raises:
        ModelError: names the largest.
    """
    last = config.get_text_config().vocab_size - 1
    read = {tokenizer.pad_token_id, tokenizer.eos_token_id}.union(*rows) - {None}
    if (token := max(read)) > last:
        raise ModelError(
            f"the tokenizer gives token {token} ({tokenizer.convert_ids_to_tokens(token)!r}), but the embeddings of"
            f" {name} end at {last}; use the model's own tokenizer, or save the model with resized embeddings."
        )


def check_generation(name: str, own: Any, options: Mapping[str, Any], vocabulary: int) -> None:
    """Refuses settings of sampling that transformers refuses, by drawing two tokens from a tiny model.

    Args:
        own: the model's generation config; its values hold where TRL sets none.
        options: for TRL's config.
    """
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    filters = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "cache_implementation")
    given = {key: options[key] for key in filters if options.get(key) is not None}
    more = options.get("generation_kwargs")
    more = more if isinstance(more, dict) else {}
    known = GenerationConfig().to_dict()
    for key in more:
        if key not in known:
            near = nearest(key, known, "transformers.GenerationConfig")
            raise RecipeError(
                f"unknown key 'training.generation_kwargs.{key}': transformers has no such option; {near}"
            )
    size: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    ids = torch.zeros((2, 2), dtype=torch.long)
    with torch.random.fork_rng(devices=[]):
        model: Any = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, num_hidden_layers=1, **size)).eval()
        model.generation_config = own
        try:
            settings = {"do_sample": True, "pad_token_id": 0, **given, **more}  # as TRL builds it
            config = GenerationConfig(**settings, disable_compile=True)
            for each in (own, config):  # two tokens are enough
                lengths = ("max_length", "max_new_tokens", "min_length", "min_new_tokens")
                for key in lengths:
                    if isinstance(getattr(each, key, None), int):
                        setattr(each, key, None)
                each.num_return_sequences = 1
            config.max_new_tokens, config.return_dict_in_generate = 2, False
            model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        except Exception as error:  # the settings are the user's, and transformers raises many types
            raise RecipeError(
                f"transformers cannot sample as training asks it to: {first_line(error).rstrip('.')}; change"
                f" {', '.join(f'training.{key}' for key in [*given, 'generation_kwargs'])}, or generation_config.json"
                f" of {name}."
            ) from error


LIKE = 0.8  # share of the tokens that model and tokenizer have in common at least; padded vocabularies have 97 % and up


def check_pair(model: Any, tokenizer: Any) -> None:
    """Refuses what is not a causal language model with its tokenizer, for models that a caller has loaded."""
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise RecipeError(
            f"the model is a {type(model).__name__}; expected a causal language model of transformers, a hub name or a"
            " folder."
        )
    if tokenizer is None:
        raise RecipeError("there is no tokenizer; give that of the model.")
    check_tokenizer(type(model).__name__, model.config, tokenizer)


def check_tokenizer(name: str, config: Any, tokenizer: Any) -> None:
    """Refuses what is not a tokenizer, or one whose vocabulary is much larger or smaller than the model's."""
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise RecipeError(f"the tokenizer is a {type(tokenizer).__name__}; expected a tokenizer of transformers.")
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-sequence token, so nothing ends a completion; set eos_token.")
    has, reads = len(tokenizer), config.get_text_config().vocab_size
    if min(has, reads) < LIKE * max(has, reads):
        raise ModelError(f"the tokenizer has {has} tokens, but {name} reads {reads}; use the model's own tokenizer.")


def check_finite(name: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuses weights with NaN or infinite values."""
    for tensor_name, tensor in tensors:
        if not tensor.numel() or not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
            continue
        if not all(bound.isfinite() for bound in torch.aminmax(tensor.detach())):
            raise ModelError(
                f"the weights of {name} are damaged: {tensor_name} holds values that are not finite; get it anew."
            )


def check_files(name: str, folder: Path) -> None:
    """Refuses a local model whose weights cannot be read or are not finite, a tensor at a time."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                keys = file.keys()
                check_finite(name, ((key, file.get_tensor(key)) for key in keys))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"cannot read {path.name} of {name}: {first_line(error)}") from error
