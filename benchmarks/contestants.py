"""Builds the three trainers that are compared: plain TRL, ours, and the reference method.

    plain       TRL's trainer with a constant reward: the cost of a step without any signal
    ours        rlif's trainer with self-certainty
    reference   TRL's trainer whose reward runs one more forward pass over prompt and completion, without gradient.
                It keeps the logits of all positions and takes logsumexp minus mean over the vocabulary. It is written
                from the description of the method's first implementation (arXiv 2505.19590), and aligned as in the
                paper's formula

All three have the same weights, prompts and seeds, and a learning rate of zero. So they sample the same completions in
every lap and do the same optimiser work. A `Stepper` runs TRL's own training loop in a thread, one lap at a time.
"""

from __future__ import annotations

import importlib.util
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from measure import Meter, synchronise
from peft import LoraConfig
from shapes import problems
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer  # pyright: ignore[reportPrivateImportUsage]

from rlif.config.loading import load_recipe
from rlif.config.schedule import read_weight
from rlif.engines.trl.measuring.annotator import Annotator
from rlif.engines.trl.rewards import InternalReward
from rlif.engines.trl.trainer import InternalGRPOTrainer, InternalRLOOTrainer
from rlif.rewards.mixing import Mixer
from rlif.rewards.terms import find_term
from rlif.sampling.loading import load_tokenizer
from rlif.scoring.head import causal_lm
from rlif.scoring.taps import BackboneTap, DecodeTap

CONTESTANTS = ("plain", "ours", "reference")


@dataclass(frozen=True)
class Setting:
    """Holds the sizes of a step.

    Attributes:
        folder: the model's, see `shapes.save`.
        batch: completions per micro-batch; a step has `accumulation` micro-batches.
        group: completions per prompt.
        tokens: limit on the tokens of a completion.
        joined: problems in one prompt.
        optim: transformers' name of the optimiser.
    """

    folder: Path
    batch: int = 8
    accumulation: int = 2
    group: int = 4
    tokens: int = 32
    joined: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    optim: str = "adamw_torch"


@dataclass(frozen=True)
class Way:
    """Holds the options of one path through TRL's step, and the extra passes that rlif promises on it."""

    changes: dict[str, Any] = field(default_factory=dict)
    rloo: bool = False
    annotator: Any = "online"
    lora: bool = False
    promised: int = 0


PATHS = {
    "generate": Way(),
    "two iterations": Way({"num_iterations": 2}),
    "beta offline": Way({"beta": 0.04}, annotator="offline"),
    "rloo": Way(rloo=True),
    "lora": Way(lora=True),
    "vllm": Way({"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.2}),
}

TAPS = Meter()  # time in the hooks that rlif puts on TRL's passes
for tap in (DecodeTap, BackboneTap):
    tap._read = TAPS.around(tap._read)


class Clocked:
    """Counts a trainer's seconds by part, and rows through the models outside generation and gradients; a mixin."""

    model: Any
    args: Any
    _calculate_rewards: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seconds = {"generation": 0.0, "scoring": 0.0}
        self.rows = self.completions = self.generated = 0
        self.rewarding, self.generating = Meter(), False
        self.around: Callable[[], AbstractContextManager[Any]] = nullcontext  # sampling and scoring
        self._calculate_rewards = self.rewarding.around(self._calculate_rewards)
        self.prompt_ids: list[list[int]] = []
        self.completion_ids: list[list[int]] = []
        reference = getattr(self, "ref_model", None)
        for model in (self.model, *([reference] if reference is not None else [])):
            causal_lm(model).base_model.register_forward_hook(self._count)

    def _count(self, module: Any, args: Any, output: Any) -> None:
        if not self.generating and not torch.is_grad_enabled():
            self.rows += output.last_hidden_state.shape[0]

    def _now(self) -> float:
        synchronise(self.args.device.type)
        return time.perf_counter()

    def forget(self) -> None:
        """Resets all counts."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self.rows = self.completions = self.generated = 0
        self.rewarding.seconds = 0.0

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        start, self.generating = self._now(), True
        output = super()._generate(*args, **kwargs)  # type: ignore[misc]
        self.generating = False
        self.seconds["generation"] += self._now() - start
        self.prompt_ids, self.completion_ids = list(output[0]), list(output[1])
        self.completions += len(self.completion_ids)
        self.generated += sum(map(len, self.completion_ids))
        return output

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        start, generation = self._now(), self.seconds["generation"]
        with self.around():
            output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self.seconds["scoring"] += self._now() - start - (self.seconds["generation"] - generation)
        return output


def constant(prompts: list[Any], **_: Any) -> list[float]:
    """Rewards every completion with 0, at no cost."""
    return [0.0] * len(prompts)


class ReferenceReward:
    """Computes self-certainty by one more forward pass with the logits of all positions."""

    __name__ = "reference"

    def __init__(self, offline: bool):
        self.offline = offline
        self.trainer: Any = None
        self.values: list[float] = []

    @torch.no_grad()
    def __call__(self, prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        trainer, size = self.trainer, self.trainer.args.per_device_train_batch_size
        model = trainer.ref_model if self.offline else trainer.model
        rows = list(zip(trainer.prompt_ids, completion_ids, strict=True))
        self.values = []
        for start in range(0, len(rows), size):
            with trainer.accelerator.autocast():
                self.values += self._score(model, rows[start : start + size])
        return self.values

    def _score(self, model: Any, rows: list[tuple[list[int], list[int]]]) -> list[float]:
        device, longest = self.trainer.args.device, max(len(completion) for _, completion in rows)
        ids = [torch.tensor([*p, *c, *[0] * (longest - len(c))], device=device) for p, c in rows]
        ones = [torch.tensor([1] * (len(p) + len(c)) + [0] * (longest - len(c)), device=device) for p, c in rows]
        ids_BL, mask_BL = (
            torch.nn.utils.rnn.pad_sequence(x, batch_first=True, padding_side="left") for x in (ids, ones)
        )
        logits_BLV = model(input_ids=ids_BL, attention_mask=mask_BL).logits
        certainty_BL = logits_BLV.logsumexp(-1) - logits_BLV.mean(-1) - math.log(logits_BLV.shape[-1])
        mask_BT = mask_BL[:, -longest:]
        return ((certainty_BL[:, -longest - 1 : -1] * mask_BT).sum(1) / mask_BT.sum(1)).tolist()


@contextmanager
def engines(device: str) -> Iterator[None]:
    """Sets what vLLM's CPU build needs when TRL builds an engine: float32, a small cache, weights not repacked."""
    if device != "cpu" or importlib.util.find_spec("vllm") is None:
        yield
        return
    import vllm._custom_ops as ops  # pyright: ignore[reportMissingImports]
    from trl.generation import vllm_generation

    theirs: Any = vllm_generation
    llm, onednn = theirs.LLM, ops._supports_onednn
    needed = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2**25}
    theirs.LLM, ops._supports_onednn = (lambda *args, **options: llm(*args, **needed | options)), False
    try:
        yield
    finally:
        theirs.LLM, ops._supports_onednn = llm, onednn


def build(contestant: str, path: Way, setting: Setting) -> Any:
    """Builds a trainer that can be run lap by lap."""
    with engines(setting.device):
        return _build(contestant, path, setting)


def _build(contestant: str, path: Way, setting: Setting) -> Any:
    ours = contestant == "ours"
    if path.rloo:
        trainer_class, config_class = (InternalRLOOTrainer if ours else RLOOTrainer), RLOOConfig
    else:
        trainer_class, config_class = (InternalGRPOTrainer if ours else GRPOTrainer), GRPOConfig
    options: dict[str, Any] = _options(setting) | ({} if path.rloo or not ours else {"scale_rewards": "none"})
    reward: Any = constant
    if ours:
        mixer = Mixer(["self_certainty"], "none" if path.rloo else "group_std")
        reward = InternalReward(
            [find_term("self_certainty", read_weight("self_certainty", 1.0))],
            mixer,
            annotator=Annotator(path.annotator),
        )
    elif contestant == "reference":
        reward = ReferenceReward(path.annotator == "offline")
    recipe = load_recipe("demo-long")
    prompts = problems(64, setting.joined)
    trainer: Any = type(contestant, (Clocked, trainer_class), {})(
        model=str(setting.folder),
        args=config_class(**options | path.changes),
        reward_funcs=reward,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=load_tokenizer(recipe),
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if path.lora else None,
    )
    if contestant == "reference":
        reward.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _options(setting: Setting) -> dict[str, Any]:
    return {
        "output_dir": str(setting.folder / "out"),
        "per_device_train_batch_size": setting.batch,
        "gradient_accumulation_steps": setting.accumulation,
        "num_generations": setting.group,
        "max_completion_length": setting.tokens,
        "model_init_kwargs": {"dtype": setting.dtype},
        "bf16": setting.dtype == "bfloat16" and setting.device == "cuda",
        "use_cpu": setting.device == "cpu",
        "optim": setting.optim,
        "learning_rate": 0.0,
        "beta": 0.0,
        "temperature": 1.0,
        "gradient_checkpointing": setting.device == "cuda",
        "max_steps": 10**6,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "log_level": "error",
    }


class Stepper(TrainerCallback):
    """Runs a trainer's own training loop in a thread, one lap at a time, and pauses between laps.

    A lap is one rollout with its updates. It starts where an optimiser step ended, so it includes fetching rows and
    everything else in the loop.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.steps = trainer, getattr(trainer, "num_iterations", 1)
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._train, daemon=True)
        self.stopping, self.laps = False, 0
        self.error: BaseException | None = None
        trainer.add_callback(self)

    def lap(self) -> None:
        """Runs one rollout and its updates; the first lap also sets up."""
        if self.thread.ident is None:
            self.thread.start()
        else:
            self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Ends the training loop and releases the trainer."""
        self.stopping = True
        if self.thread.is_alive():
            self.go.release()
            self.thread.join()
        del self.trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.steps:
            return
        self.done.release()
        self.go.acquire()
        self.laps += 1
        torch.manual_seed(self.laps)
        control.should_training_stop = self.stopping

    def _train(self) -> None:
        try:
            self.trainer.train()
        except BaseException as error:
            self.error = error
        self.done.release()
