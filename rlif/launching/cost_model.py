"""Estimates seconds and memory of a step on given GPUs, by arithmetic. Nothing is measured and no GPU is needed.

With N the parameters that multiply at a token (all but the embedding), a token at context c takes

    forward    2 N + 4 L q c  FLOP                       L layers, q the width of all query heads
    training   three times that, four with gradient checkpointing
    scoring    one forward for each pass that TRL or rlif runs without gradient

and decoding step t reads the weights once and the cache of every sequence, 2 L k (P + t) values each, k the width of
all key heads, so it takes the longer of

    bandwidth  (weights + S sequences' cache) / B        compute   S forward(P + t) / F

plus a fixed time. Sequences whose cache does not fit wait for a second wave. B and F are data-sheet values times the
shares in `Assumed`. A plan is as good as these shares; docs/scaling.md compares it with measurements.

Not counted: communication between GPUs, loading, evaluation, checkpoints, rewards that run programs or models, and
that the longest completion keeps a GPU waiting.
"""

import math
from dataclasses import dataclass

from rlif.config.passes import conditions_of, keeps_copy, needs_of, which_pass
from rlif.config.recipe import Recipe
from rlif.config.steps import BYTES
from rlif.launching.commands import IN_SHARDS
from rlif.launching.hardware import Gpu, Shape

GIB = 2**30
FULL = 0.95  # of a GPU's memory; the rest is lost to fragmentation
HALF, SINGLE = 2, 4  # bytes


@dataclass(frozen=True)
class Assumed:
    """Holds the assumed shares of the data sheet that are reached, and times that it does not give."""

    training: float = 0.38  # of the FLOP/s, forward and backward
    scoring: float = 0.45  # of the FLOP/s, forward alone
    bandwidth: float = 0.7  # of the memory, while decoding
    vllm_step: float = 4e-3  # seconds of a decoding step of vLLM beside the arithmetic: launching, scheduling
    generate_layer: float = 8e-4  # the same of transformers' generate, for each layer
    context: float = 1.5  # GiB that CUDA and the libraries take


@dataclass(frozen=True)
class Setting:
    """Holds what a plan is made for."""

    recipe: Recipe  # to be trained
    shape: Shape  # of its model
    gpu: Gpu | None  # the kind; None where it is unknown, which is enough for memory
    gpus: int  # how many, the server's included
    strategy: str  # of `rlif.launching.commands.STRATEGIES`
    server_gpus: int  # of them, those of a vLLM server
    prompt: float  # mean tokens of a prompt
    completion: float  # mean tokens of a completion
    assumed: Assumed = Assumed()  # see there

    @property
    def trainers(self) -> int:
        return self.gpus - self.server_gpus

    @property
    def rows(self) -> int:
        """Completions per update, all GPUs together."""
        return self.recipe.problems_per_update * self.recipe.resolved_training["num_generations"]

    @property
    def vllm(self) -> bool:
        return bool(self.recipe.training.get("use_vllm"))

    @property
    def checkpointing(self) -> bool:
        return bool(self.recipe.training.get("gradient_checkpointing", True))  # TRL's default

    @property
    def sleeps(self) -> bool:
        """Whether vLLM gives its share of the GPUs back while they train."""
        return self.vllm and not self.server_gpus and bool(self.recipe.training.get("vllm_enable_sleep_mode"))

    @property
    def width(self) -> int:
        """Bytes of a value that is computed with."""
        training = self.recipe.training
        half = training.get("fp16") or training.get("bf16") in (True, None)  # unset it is TRL's default
        return HALF if half or self.recipe.dtype in ("bfloat16", "float16") else SINGLE

    @property
    def card(self) -> Gpu:
        """The GPU, where time or room is asked for."""
        assert self.gpu is not None, "time and room are those of a known GPU"
        return self.gpu

    @property
    def peak(self) -> float:
        """FLOP/s of the data sheet for that width."""
        return self.card.flops if self.width == HALF else self.card.single

    @property
    def cache(self) -> int:
        """Bytes of a token in the key-value cache."""
        return 2 * self.shape.layers * self.shape.key_value * self.width


def forward_flop(shape: Shape, tokens: float, context: float, heads: float | None = None) -> float:
    """FLOP of a forward pass over some tokens.

    Args:
        context: mean number of tokens that each attends to.
        heads: positions that the output head is applied to; all if left out.
    """
    attention = 4 * shape.layers * shape.query * context
    return tokens * (2 * shape.body + attention) + 2 * shape.head * (tokens if heads is None else heads)


def passes(setting: Setting) -> int:
    """Counts no-grad passes over each completion: TRL's for old and reference log-probabilities, and rlif's own.

    Dropout of the model's own is not known here.
    """
    recipe = setting.recipe
    options = recipe.resolved_training | {"gradient_accumulation_steps": recipe.accumulation(setting.trainers)}
    conditions = conditions_of(recipe, options, sharded=setting.strategy in IN_SHARDS)
    return conditions.scored + conditions.reference + which_pass(conditions, needs_of(recipe.weights)).extra


@dataclass(frozen=True)
class Time:
    """Seconds of one update, by part."""

    generation: float
    scoring: float
    training: float

    @property
    def total(self) -> float:
        return self.generation + self.scoring + self.training


def step_time(setting: Setting) -> Time:
    """Seconds of an update; a rollout that several updates share is shared out among them."""
    shape, assumed, training = setting.shape, setting.assumed, setting.recipe.resolved_training
    reuse = training.get("num_iterations", 1)
    length = setting.prompt + setting.completion
    one = setting.rows * forward_flop(shape, length, length / 2, setting.completion)
    speed = setting.trainers * setting.peak
    factor = 4 if setting.checkpointing else 3
    if setting.recipe.lora is not None:
        factor -= 1  # no gradients of the frozen weights
    return Time(
        generation=_generation(setting) / reuse,
        scoring=passes(setting) * one / (speed * assumed.scoring) / reuse,
        training=factor * one / (speed * assumed.training),
    )


def _generation(setting: Setting) -> float:
    """Seconds to sample the completions of one rollout; infinite where vLLM has no room for a single one."""
    shape, assumed, gpu = setting.shape, setting.assumed, setting.card
    generators = setting.server_gpus or setting.trainers
    sequences = setting.rows / generators
    P, C = setting.prompt, setting.completion
    if vllm_room(setting) < 0:
        return math.inf
    waves = max(1.0, sequences * (P + C) * setting.cache / _cache_bytes(setting)) if setting.vllm else 1.0
    weights = shape.parameters * (HALF / parallel(setting) if setting.vllm else setting.width)
    steps = C * waves
    read = steps * weights + sequences * setting.cache * C * (P + C / 2)
    compute = sequences * forward_flop(shape, C, P + C / 2) / (setting.peak * assumed.scoring)
    group = setting.recipe.resolved_training["num_generations"] if setting.vllm else 1  # prompts are cached by vLLM
    prefill = sequences / group * forward_flop(shape, P, P / 2, 1) / (setting.peak * assumed.scoring)
    fixed = assumed.vllm_step if setting.vllm else assumed.generate_layer * shape.layers
    return max(read / (gpu.bandwidth * assumed.bandwidth), compute) + steps * fixed + prefill


def share(setting: Setting) -> float:
    """Gives the share of a GPU's memory that vLLM takes."""
    if setting.server_gpus:
        return 0.9  # the server's default
    return setting.recipe.resolved_training.get("vllm_gpu_memory_utilization", 0.3)  # TRL's default


def parallel(setting: Setting) -> int:
    """Counts the GPUs that share one engine of vLLM, its weights and its cache."""
    return setting.server_gpus or setting.recipe.resolved_training.get("vllm_tensor_parallel_size", 1)


def _vllm_fixed(setting: Setting) -> float:
    """Bytes that vLLM takes of a GPU before any cache: its own copy of the weights and a GiB of work space."""
    return setting.shape.parameters * HALF / parallel(setting) + GIB


def _cache_bytes(setting: Setting) -> float:
    """Returns the bytes that vLLM has for the cache on one GPU."""
    return share(setting) * setting.card.memory * GIB - _vllm_fixed(setting)


def _one_completion(setting: Setting) -> float:
    """Returns the bytes of vLLM's cache for one full-length completion on one GPU."""
    return _longest(setting) * setting.cache / parallel(setting)


def _vllm_beside(setting: Setting) -> float:
    """Bytes that vLLM takes of a GPU that trains; where the GPU is unknown, the least that it starts with."""
    if not setting.vllm or setting.server_gpus:
        return 0.0
    if setting.gpu is None:
        return _vllm_fixed(setting) + _one_completion(setting)
    return share(setting) * setting.gpu.memory * GIB


def vllm_room(setting: Setting) -> float:
    """Gives the GiB that vLLM has beyond one completion of full length; below 0 it cannot start; 0 without vLLM."""
    return (_cache_bytes(setting) - _one_completion(setting)) / GIB if setting.vllm else 0.0


def memory(setting: Setting) -> dict[str, float]:
    """Estimates GiB on one GPU that trains, by part; generation and activations take turns."""
    recipe, shape, n = setting.recipe, setting.shape, setting.trainers
    training = recipe.resolved_training
    own = BYTES[recipe.dtype]
    trained = shape.parameters if recipe.lora is None else lora_parameters(recipe, shape)
    deepspeed = setting.strategy.startswith("zero")
    stored = setting.width if deepspeed else own
    weights = n if setting.strategy in IN_SHARDS else 1
    gradients = 1 if setting.strategy == "ddp" else n
    moments = 3 * SINGLE if deepspeed else 2 * (SINGLE if recipe.lora is not None else own)  # DeepSpeed: and a copy
    parts = {
        "weights": shape.parameters * stored / weights,
        "gradients": trained * (SINGLE if recipe.lora is not None else stored) / gradients,
        "optimiser state": trained * moments / gradients,
    }
    if setting.strategy in IN_SHARDS:  # the root's group, a layer and the next
        apart = shape.parameters - shape.body
        parts["gathered for the moment"] = (apart + 2 * shape.body / shape.layers) * setting.width
    if setting.strategy == "ddp" and n > 1:
        parts["buckets of DDP"] = parts["gradients"]
    if training.get("beta") and recipe.lora is None:
        parts["reference model"] = shape.parameters * stored / weights
    if keeps_copy(recipe):
        parts["annotator's copy"] = trained * (SINGLE if recipe.annotator == "ema" else own)
    training_only = _activations(setting) + _cast_weights(setting, own)
    engine = _vllm_beside(setting)
    cache = 0 if setting.vllm else setting.rows / n * _longest(setting) * setting.cache  # of generate, a whole rollout
    if setting.sleeps:
        parts["activations or vLLM"] = max(training_only, engine)
    else:
        parts["activations or cache"] = max(training_only, cache)
        parts |= {"vLLM" if setting.gpu else "vLLM, at least": engine} if engine else {}
    return {name: size / GIB for name, size in parts.items()} | {"CUDA and libraries": setting.assumed.context}


def lora_parameters(recipe: Recipe, shape: Shape) -> int:
    """Counts the parameters of adapters; on all linear layers of a block without targets, as peft's `all-linear`."""
    options = recipe.lora or {}
    h, q, k, i = shape.hidden, shape.query, shape.key_value, shape.inner
    sizes = {"q_proj": h + q, "k_proj": h + k, "v_proj": h + k, "o_proj": q + h}
    sizes |= {"gate_proj": h + i, "up_proj": h + i, "down_proj": i + h}
    targets = options.get("target_modules", "all-linear")
    names = sizes if isinstance(targets, str) else targets
    return options.get("r", 8) * shape.layers * sum(sizes.get(name, 0) for name in names)


def _activations(setting: Setting) -> float:
    """Counts bytes that a micro-batch of full-length rows keeps for its backward pass, and those of TRL's fused head.

    The head takes two tiles of logits, and a gradient of the whole head in float32, whatever else is halved or
    sharded (`ChunkedLogProbFunction.backward` in trl/kernels/chunked_logprob.py); not where the head is frozen.
    """
    shape, length = setting.shape, _longest(setting)
    rows = setting.recipe.resolved_training["per_device_train_batch_size"]
    block = 6 * shape.hidden + 2 * (shape.query + 2 * shape.key_value) + 4 * shape.inner
    kept = shape.layers * shape.hidden + block if setting.checkpointing else shape.layers * block
    tile = 4096 * min(32768, shape.vocab) * setting.width
    gradient = shape.head * SINGLE if setting.recipe.lora is None else 0
    return rows * length * kept * setting.width + 2 * tile + gradient


def _cast_weights(setting: Setting, own: int) -> float:
    """Bytes of the halved copies of float32 weights that a forward pass under autocast leaves.

    Autocast keeps the copy of each weight that is trained until the pass ends (`cached_cast` in torch's
    aten/src/ATen/autocast_mode.cpp), gradient checkpointing or not. A frozen weight's is kept by the graph of the
    backward pass, which checkpointing throws away but for the block at work. FSDP and DeepSpeed cast by themselves.
    """
    if setting.strategy != "ddp" or own != SINGLE or setting.width != HALF:
        return 0.0
    one_block = setting.recipe.lora is not None and setting.checkpointing
    return setting.shape.body * HALF / (setting.shape.layers if one_block else 1)


def _longest(setting: Setting) -> int:
    return setting.recipe.max_prompt_tokens + setting.recipe.resolved_training["max_completion_length"]


def room(setting: Setting) -> float:
    """Gives the GiB left on a GPU that trains, less what fragmentation takes; below 0 nothing fits."""
    return FULL * setting.card.memory - sum(memory(setting).values())


def fits(setting: Setting) -> bool:
    """Whether training has room, and vLLM where it is used."""
    return room(setting) >= 0 and vllm_room(setting) >= 0
