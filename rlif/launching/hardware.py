"""Lists the figures of GPUs, and the shapes of the models that recipes name.

GPUs: NVIDIA's data sheets. Memory in GiB, as the driver reports it; dense bfloat16 with float32 accumulation, without
sparsity; bandwidth of the memory. A model listed here needs no hub; others are read from their folder or the hub.
Shapes are those of the models' config.json on the hub.
"""

from dataclasses import dataclass
from typing import Any

from rlif.config.recipe import Recipe
from rlif.config.steps import count_parameters
from rlif.errors import ModelError
from rlif.sampling.loading import load_config
from rlif.sampling.sources import NAMED


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    memory: float  # GiB
    flops: float  # peak, dense bfloat16, per second
    single: float  # the same in float32 as torch computes it by default, without TF32
    bandwidth: float  # of memory, bytes per second
    source: str  # where these are from


GPUS = {
    "b200": Gpu(179.0, 2250e12, 75e12, 8.0e12, "HGX B200 data sheet, per GPU"),
    "h200": Gpu(140.4, 989e12, 67e12, 4.8e12, "H200 SXM data sheet"),
    "h100": Gpu(79.6, 989e12, 67e12, 3.35e12, "H100 SXM data sheet"),
    "h100-pcie": Gpu(79.6, 756e12, 51e12, 2.0e12, "H100 PCIe data sheet"),
    "a100": Gpu(80.0, 312e12, 19.5e12, 2.039e12, "A100 80 GB SXM data sheet"),
    "a100-40": Gpu(40.0, 312e12, 19.5e12, 1.555e12, "A100 40 GB SXM data sheet"),
    "l40s": Gpu(45.0, 362e12, 91.6e12, 0.864e12, "L40S data sheet"),
    "a6000": Gpu(48.0, 155e12, 38.7e12, 0.768e12, "RTX A6000 data sheet, GA102 white paper"),
    "4090": Gpu(24.0, 165e12, 82.6e12, 1.008e12, "Ada white paper"),
    "3090": Gpu(24.0, 71e12, 35.6e12, 0.936e12, "GA102 white paper"),
}

QWEN25, QWEN3 = {"model_type": "qwen2"}, {"model_type": "qwen3", "head_dim": 128}
LLAMA, OLMO2 = {"model_type": "llama", "head_dim": 128}, {"model_type": "olmo2"}
SMOLLM2 = {"model_type": "llama", "head_dim": 64}


SIZES = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "tie_word_embeddings",
)  # fmt: skip


def _shape(family: dict[str, Any], *sizes: int) -> dict[str, Any]:
    return family | dict(zip(SIZES, sizes, strict=True))


SHAPES = {
    "Qwen/Qwen2.5-0.5B": _shape(QWEN25, 24, 896, 4864, 14, 2, 151936, True),
    "Qwen/Qwen2.5-1.5B": _shape(QWEN25, 28, 1536, 8960, 12, 2, 151936, True),
    "Qwen/Qwen2.5-3B": _shape(QWEN25, 36, 2048, 11008, 16, 2, 151936, True),
    "Qwen/Qwen2.5-7B": _shape(QWEN25, 28, 3584, 18944, 28, 4, 152064, False),
    "Qwen/Qwen2.5-14B": _shape(QWEN25, 48, 5120, 13824, 40, 8, 152064, False),
    "Qwen/Qwen3-14B": _shape(QWEN3, 40, 5120, 17408, 40, 8, 151936, False),
    "HuggingFaceTB/SmolLM2-135M-Instruct": _shape(SMOLLM2, 30, 576, 1536, 9, 3, 49152, True),
    "meta-llama/Llama-3.2-3B": _shape(LLAMA, 28, 3072, 8192, 24, 8, 128256, True),
    "allenai/OLMo-2-1124-7B": _shape(OLMO2, 32, 4096, 11008, 32, 32, 100352, False),
}


@dataclass(frozen=True)
class Shape:
    """Holds the sizes of a dense model."""

    parameters: int  # all of them
    layers: int  # blocks
    heads: int  # of queries
    hidden: int  # H
    inner: int  # of the feed-forward part
    query: int  # width of all query heads together
    key_value: int  # width of all key heads together, and of all value heads
    vocab: int  # V
    tied: bool  # whether the head is the embedding

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.vocab * self.hidden

    @property
    def body(self) -> int:
        """Parameters that multiply at every token: all but embeddings and head."""
        return self.parameters - self.head * (1 if self.tied else 2)


def config_of(recipe: Recipe) -> Any:
    """Reads the configuration of a recipe's model, from `SHAPES` where it is listed."""
    from transformers import AutoConfig

    known = SHAPES.get(NAMED[recipe.model].hub if recipe.model in NAMED else recipe.model)
    return AutoConfig.for_model(**known) if known else load_config(recipe)


def shape_of(config: Any) -> Shape:
    """Reads the shape from a configuration of transformers; refuses a mixture of experts."""
    text = config.get_text_config()
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ModelError("costs are known for dense models; this one is a mixture of experts.")
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    key_value = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return Shape(
        parameters=count_parameters(config),
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,  # GPT-2 names none
        query=text.num_attention_heads * head_dim,
        key_value=key_value * head_dim,
        vocab=text.vocab_size,
        tied=bool(getattr(text, "tie_word_embeddings", False)),
    )
