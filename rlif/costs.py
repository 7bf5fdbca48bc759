"""What a step costs on given GPUs: seconds and memory, by arithmetic. Nothing is measured and no GPU is needed.

With N the parameters that multiply at a token (all but the embedding), a token at context c takes

    forward    2 N + 4 L q c  FLOP                       L layers, q the width of all query heads
    training   three times that, four with gradient checkpointing
    scoring    one forward for each pass that TRL or rlif runs without gradient

and decoding step t reads the weights once and the cache of every sequence, 2 L k (P + t) values each, k the width of
all key heads, so it takes the longer of

    bandwidth  (weights + S sequences' cache) / B        compute   S forward(P + t) / F

plus a fixed time. Sequences whose cache does not fit wait for a second wave. B and F are data-sheet values times the
shares in `Assumed`; these shares are what a plan can be wrong by, see docs/scaling.md for how far it was.

Not counted: communication between GPUs, loading, evaluation, checkpoints, rewards that run programs or models, and
that the longest completion keeps a GPU waiting.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from rlif.config import LEAVE_ONE_OUT, Recipe
from rlif.hardware import Gpu, Shape
from rlif.launch import IN_SHARDS

GIB = 2**30
HALF, SINGLE = 2, 4  # bytes
OFFERED = 6  # ways to make a run fit


@dataclass(frozen=True)
class Assumed:
    """Shares of the data sheet that are reached, and times that no data sheet has. Assumptions, all of them.

    Attributes:
        training: of the FLOP/s, forward and backward.
        scoring: of the FLOP/s, forward alone.
        bandwidth: of the memory, while decoding.
        vllm_step: seconds of a decoding step of vLLM beside the arithmetic: launching, scheduling.
        generate_layer: the same of transformers' generate, for each layer.
        context: GiB that CUDA and the libraries take.
    """

    training: float = 0.38
    scoring: float = 0.45
    bandwidth: float = 0.7
    vllm_step: float = 4e-3
    generate_layer: float = 8e-4
    context: float = 1.5


@dataclass(frozen=True)
class Setting:
    """What is planned for.

    Attributes:
        recipe: to be trained.
        shape: of its model.
        gpu: the kind.
        gpus: how many, the server's included.
        strategy: of `rlif.launch.STRATEGIES`.
        server_gpus: of them, those of a vLLM server.
        prompt: mean tokens of a prompt.
        completion: mean tokens of a completion.
        assumed: see there.
    """

    recipe: Recipe
    shape: Shape
    gpu: Gpu
    gpus: int
    strategy: str
    server_gpus: int
    prompt: float
    completion: float
    assumed: Assumed = Assumed()

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
    def width(self) -> int:
        """Bytes of a value that is computed with."""
        half = self.recipe.training.get("bf16") or self.recipe.training.get("fp16")
        return HALF if half or self.recipe.dtype in ("bfloat16", "float16") else SINGLE

    @property
    def peak(self) -> float:
        """FLOP/s of the data sheet for that width."""
        return self.gpu.flops if self.width == HALF else self.gpu.single

    @property
    def cache(self) -> int:
        """Bytes of a token in the key-value cache."""
        return 2 * self.shape.layers * self.shape.key_value * self.width


def forward_flop(shape: Shape, tokens: float, context: float, heads: float | None = None) -> float:
    """FLOP of a forward pass over some tokens.

    Args:
        shape: of the model.
        tokens: how many.
        context: mean number of tokens that each attends to.
        heads: positions that the output head is applied to; all if left out.
    """
    attention = 4 * shape.layers * shape.query * context
    return tokens * (2 * shape.body + attention) + 2 * shape.head * (tokens if heads is None else heads)


def passes(setting: Setting) -> int:
    """No-grad passes over each completion: TRL's for old and reference log-probabilities, ours where none serves."""
    recipe, training = setting.recipe, setting.recipe.resolved_training
    own_slices = training.get("steps_per_generation") not in (None, recipe.accumulation(setting.trainers))
    policy = setting.vllm or training.get("num_iterations", 1) > 1 or own_slices or recipe.algorithm in LEAVE_ONE_OUT
    reference = bool(training.get("beta"))
    copied = recipe.annotator in ("ema", "lagged") or (recipe.annotator == "offline" and not reference)
    undecodable = setting.strategy in IN_SHARDS and recipe.annotator == "online"
    return int(policy) + int(reference) + int(copied or (undecodable and not policy))


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
    shape, assumed, gpu = setting.shape, setting.assumed, setting.gpu
    generators = setting.server_gpus or setting.trainers
    sequences = setting.rows / generators
    P, C = setting.prompt, setting.completion
    if vllm_room(setting) < 0:
        return math.inf
    waves = max(1.0, sequences * (P + C) * setting.cache / _cache_bytes(setting)) if setting.vllm else 1.0
    weights = shape.parameters * (HALF if setting.vllm else setting.width)
    steps = C * waves
    read = steps * weights + sequences * setting.cache * C * (P + C / 2)
    compute = sequences * forward_flop(shape, C, P + C / 2) / (setting.peak * assumed.scoring)
    group = setting.recipe.resolved_training["num_generations"] if setting.vllm else 1  # prompts are cached by vLLM
    prefill = sequences / group * forward_flop(shape, P, P / 2, 1) / (setting.peak * assumed.scoring)
    fixed = assumed.vllm_step if setting.vllm else assumed.generate_layer * shape.layers
    return max(read / (gpu.bandwidth * assumed.bandwidth), compute) + steps * fixed + prefill


def _share(setting: Setting) -> float:
    """What vLLM takes of a GPU's memory."""
    if setting.server_gpus:
        return 0.9  # the server's default
    return setting.recipe.resolved_training.get("vllm_gpu_memory_utilization", 0.3)  # TRL's default


def _cache_bytes(setting: Setting) -> float:
    """What vLLM has for the cache on one GPU, beside its own copy of the weights and a GiB of work space."""
    weights = setting.shape.parameters * HALF / (setting.server_gpus or 1)
    return _share(setting) * setting.gpu.memory * GIB - weights - GIB


def vllm_room(setting: Setting) -> float:
    """GiB that vLLM has beyond what one completion of full length takes; below 0 it cannot start. 0 without vLLM."""
    return (_cache_bytes(setting) - _longest(setting) * setting.cache) / GIB if setting.vllm else 0.0


def memory(setting: Setting) -> dict[str, float]:
    """GiB on one GPU that trains, by part; the key-value cache and the activations of training take turns."""
    recipe, shape, n = setting.recipe, setting.shape, setting.trainers
    training = recipe.resolved_training
    own = {"float32": SINGLE}.get(recipe.dtype, HALF)
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
    copied = {"ema": SINGLE, "lagged": own, "offline": 0 if training.get("beta") else own, "online": 0}
    if copied[recipe.annotator]:
        parts["annotator's copy"] = trained * copied[recipe.annotator]
    parts["activations or cache"] = max(_activations(setting), 0 if setting.vllm else _generate_cache(setting))
    if setting.vllm and not setting.server_gpus:
        parts["vLLM"] = _share(setting) * setting.gpu.memory * GIB
    return {name: size / GIB for name, size in parts.items()} | {"CUDA and libraries": setting.assumed.context}


def lora_parameters(recipe: Recipe, shape: Shape) -> int:
    """Parameters of adapters; on all linear layers of a block where the targets are not said, peft's `all-linear`."""
    options = recipe.lora or {}
    h, q, k, i = shape.hidden, shape.query, shape.key_value, shape.inner
    sizes = {"q_proj": h + q, "k_proj": h + k, "v_proj": h + k, "o_proj": q + h}
    sizes |= {"gate_proj": h + i, "up_proj": h + i, "down_proj": i + h}
    targets = options.get("target_modules", "all-linear")
    names = sizes if isinstance(targets, str) else targets
    return options.get("r", 8) * shape.layers * sum(sizes.get(name, 0) for name in names)


def _activations(setting: Setting) -> float:
    """Bytes that a micro-batch of full-length rows keeps for its backward pass, and the tile of TRL's fused head."""
    shape, length = setting.shape, _longest(setting)
    rows = setting.recipe.resolved_training["per_device_train_batch_size"]
    block = 6 * shape.hidden + 2 * (shape.query + 2 * shape.key_value) + 4 * shape.inner
    kept = shape.layers * shape.hidden + block if setting.checkpointing else shape.layers * block
    tile = 4096 * min(32768, shape.vocab) * setting.width
    return rows * length * kept * setting.width + 2 * tile


def _generate_cache(setting: Setting) -> float:
    """Bytes of the cache of transformers' generate, which holds a process's whole rollout at full length."""
    return setting.rows / setting.trainers * _longest(setting) * setting.cache


def _longest(setting: Setting) -> int:
    return setting.recipe.max_prompt_tokens + setting.recipe.resolved_training["max_completion_length"]


def total(parts: dict[str, float]) -> float:
    """GiB of all parts."""
    return sum(parts.values())


def room(setting: Setting) -> float:
    """GiB left on a GPU that trains; below 0 the run does not fit. A twentieth is left to fragmentation."""
    return 0.95 * setting.gpu.memory - total(memory(setting))


def fits(setting: Setting) -> bool:
    """Whether training has room, and vLLM where it is used."""
    return room(setting) >= 0 and vllm_room(setting) >= 0


Change = Callable[[Setting], Setting]


def knobs(setting: Setting) -> list[tuple[str, float]]:
    """What makes a run fit that does not, and the GiB it leaves: the fewest changes at once, three at most."""
    changes = _changes(setting)
    for number in (1, 2, 3):
        found = []
        for names in itertools.combinations(changes, number):
            if len({name.partition("=")[0].split()[0] for name in names}) < number:
                continue  # one knob, turned twice
            changed = functools.reduce(lambda so_far, name: changes[name](so_far), names, setting)
            if _shares_out(changed) and fits(changed):
                found.append((" ".join(names), room(changed)))
        if found:
            return found[:OFFERED]
    return []


def _shares_out(setting: Setting) -> bool:
    """Whether the batch divides among the GPUs."""
    batch = setting.recipe.resolved_training["per_device_train_batch_size"]
    return setting.trainers > 0 and setting.rows % (batch * setting.trainers) == 0


def _changes(setting: Setting) -> dict[str, Change]:
    """What can be changed, in the order in which it costs little."""
    recipe, training = setting.recipe, setting.recipe.resolved_training
    found: dict[str, Change] = {}
    if setting.trainers > 1:
        for strategy in ("zero2", "fsdp2"):
            if setting.strategy in ("ddp", "zero2") and setting.strategy != strategy:
                found[f"--strategy {strategy}"] = _with_strategy(strategy)
    if not setting.checkpointing:
        found["training.gradient_checkpointing=true"] = _with_training(gradient_checkpointing=True)
    batch = training["per_device_train_batch_size"]
    smaller = [size for size in range(1, batch) if setting.rows % (size * setting.trainers) == 0]
    if smaller:
        name = f"training.per_device_train_batch_size={smaller[-1]}"
        found[name] = _with_training(per_device_train_batch_size=smaller[-1])
    if setting.vllm and not setting.server_gpus:
        for share in (0.2, 0.45, 0.6):
            if share != _share(setting):
                name = f"training.vllm_gpu_memory_utilization={share}"
                found[name] = _with_training(vllm_gpu_memory_utilization=share)
        found |= {"training.vllm_mode=server": _with_server} if setting.gpus > 1 else {}
    if recipe.lora is None:
        found["lora={r: 16, target_modules: all-linear}"] = _with_lora
        found |= {"training.beta=0": _with_training(beta=0.0)} if training.get("beta") else {}
    if training["max_completion_length"] >= 1024:
        half = training["max_completion_length"] // 2
        found[f"training.max_completion_length={half}"] = _with_training(max_completion_length=half)
    return found


def _with_training(**changes: object) -> Change:
    def change(setting: Setting) -> Setting:
        recipe = setting.recipe.model_copy(update={"training": setting.recipe.training | changes})
        return dataclasses.replace(setting, recipe=recipe)

    return change


def _with_strategy(strategy: str) -> Change:
    return lambda setting: dataclasses.replace(setting, strategy=strategy)


def _with_server(setting: Setting) -> Setting:
    return dataclasses.replace(_with_training(vllm_mode="server")(setting), server_gpus=1)


def _with_lora(setting: Setting) -> Setting:
    lora = {"r": 16, "target_modules": "all-linear"}
    return dataclasses.replace(setting, recipe=setting.recipe.model_copy(update={"lora": lora}))
