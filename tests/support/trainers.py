"""Makes small trainers that record TRL's advantages and the expected rewards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import trl
from peft import LoraConfig
from trl import GRPOTrainer

from rlif.config.defaults import LEAVE_ONE_OUT, OURS
from rlif.config.passes import conditions_of, needs_of, which_pass
from rlif.config.recipe import Recipe
from rlif.config.schedule import read_rows, read_weight
from rlif.engines.trl.measuring.annotator import Annotator
from rlif.engines.trl.rewards import InternalReward
from rlif.engines.trl.setup import trainer_of
from rlif.engines.trl.trainer import InternalGRPOTrainer
from rlif.rewards.mixing import Mixer
from rlif.rewards.terms import find_term
from rlif.scoring.head import causal_lm
from rlif.tasks.task import Mark, Task
from rlif.types import Problem
from support import oracle
from support.models import byte_tokenizer, tiny_model

SEVERAL_ENDS = pytest.mark.skipif(
    "eos_token_ids" not in GRPOTrainer.__init__.__code__.co_names,
    reason="TRL before 1.15 ends completions at one token; install a newer one",
)


class Lengths(Task):
    """A task for random text: the answer is the length modulo three; one completion in four has no answer."""

    name = "lengths"

    def load(self, split: str, **_: Any) -> list[Problem]:
        return [Problem(f"lengths/{n}", prompt, str(n % len(PROMPTS) % 3)) for n, prompt in enumerate(PROMPTS * 8)]

    def extract(self, completion: str) -> str | None:
        return None if len(completion.encode()) % 4 == 0 else str(len(completion.encode()) % 3)

    def equal(self, answer: str, gold: str) -> bool:
        return answer == gold

    def mark(self, problems: Any, completions: Any, **_: Any) -> list[Mark]:
        answers = [self.extract(completion) for completion in completions]
        return [Mark(a, a == p.gold) for a, p in zip(answers, problems, strict=True)]


LETTERS = "abcdefghijklm"


class LastLetter(Lengths):
    """A task for random bytes: the answer is the last of some letters."""

    def extract(self, completion: str) -> str | None:
        return next((character for character in reversed(completion) if character in LETTERS), None)


def kept_tokens(completion_ids: list[int]) -> list[bool]:
    """Which tokens of a completion are not LastLetter's answer; one token is one byte."""
    letters = [byte_tokenizer().decode([n]) in [*LETTERS] for n in completion_ids]
    last = max((i for i, letter in enumerate(letters) if letter), default=-1)
    return [i != last for i in range(len(completion_ids))]


LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_alpha=64, task_type="CAUSAL_LM")
PROMPTS = ["Add two and five.", "What is left?", "Count the cups on the table.", "Go."]
OPTIONS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 12,
    "max_steps": 3,
    "learning_rate": 1e-3,
    "beta": 0.0,
    "temperature": 1.0,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "log_level": "error",
}


def snapshot(model: Any) -> Any:
    """Copies a model without hooks and without TRL's patched forward, which would call the original."""
    clone = copy.deepcopy(model)
    causal_lm(clone).base_model._forward_hooks.clear()
    causal_lm(clone).__dict__.pop("forward", None)
    return clone


class Spy:
    """A mixin that counts forward passes by kind, and records each rollout with its self-certainty in float64."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rows = {"check": 0, "generate": 0, "policy": 0, "reference": 0, "train": 0}
        self.rollouts: list[dict[str, Any]] = []
        self.history: list[dict[str, torch.Tensor]] = []  # the policy's parameters at each rollout
        self.kind = None
        lm = causal_lm(self.model)
        lm.base_model.register_forward_hook(lambda m, a, o: self._count(o.last_hidden_state.shape[0], "policy"))
        if getattr(self, "ref_model", None) is not None:
            self.ref_model.base_model.register_forward_hook(
                lambda m, a, o: self._count(o.last_hidden_state.shape[0], "reference")
            )
        self.start = snapshot(self.model)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        assert self.rollouts, "a test that looks at every rollout would look at none"
        return output

    def _count(self, rows: int, kind: str) -> None:
        self.rows[self.kind or ("train" if torch.is_grad_enabled() else kind)] += rows

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        before, self.kind = self.kind, self.kind or "generate"
        output = super()._generate(*args, **kwargs)
        self.kind = before
        return output

    def verify_signal(self, *args: Any) -> None:
        self.kind = "check"
        super().verify_signal(*args)
        self.kind = None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        annotator = snapshot(self.model) if self.reward.annotator.kind == "online" else self.start
        scored = self.reward.scored
        self.history.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        self.rollouts.append(
            {
                "advantages": output["advantages"].tolist(),
                "scored": scored,
                "expected": [
                    oracle.self_certainty(annotator, row.prompt_ids, row.completion_ids, self.args.temperature)
                    for row in scored
                ],
                "path": self.reward.path,
            }
        )
        return output


def make_trainer(folder: Path, algorithm: str = "grpo", **changes: Any) -> Any:
    """Makes a tiny trainer over a model folder; `changes` are options of TRL and of rlif."""
    annotator = changes.pop("annotator", "online")
    weights = changes.pop("reward", {"self_certainty": 1.0})
    mixer = changes.pop("mixer", None) or Mixer(list(weights), "none" if algorithm in LEAVE_ONE_OUT else "group_std")
    names = ("task", "problems", "cluster_texts", "rewarded", "seed")
    ours = {name: changes.pop(name) for name in names if name in changes}
    peft_config, model = changes.pop("peft_config", None), changes.pop("model", None)
    prompts = changes.pop("prompts", PROMPTS * 8)
    vllm_capture = changes.pop("vllm_capture", False)
    trainer_class, config_class = trainer_of(algorithm)
    options = OPTIONS | ({"scale_rewards": "none", "loss_type": "grpo"} if algorithm == "grpo" else {}) | changes
    if model is None:
        model = tiny_model()
        model.config._name_or_path = str(folder)  # TRL loads the reference model from there
    rows = [{"prompt": prompt} | ({"problem": n} if "problems" in ours else {}) for n, prompt in enumerate(prompts)]
    terms = [find_term(name, read_weight(name, w), rows=read_rows(name, w)) for name, w in weights.items()]
    return type("Spied", (Spy, trainer_class), {})(
        model=model,
        args=config_class(**{"output_dir": str(folder / "out")} | options),
        reward_funcs=InternalReward(
            terms, mixer, annotator=Annotator(annotator) if isinstance(annotator, str) else annotator, **ours
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
        peft_config=peft_config,
        vllm_capture=vllm_capture,
    )


def planned_path(**changes: Any) -> str:
    """The path that the table of passes gives for the `changes` of `make_trainer`."""
    ours = {name: changes.pop(name) for name in ("algorithm", "annotator", "reward", "vllm_capture") if name in changes}
    lora = changes.pop("peft_config", None)
    lora = None if lora is None else {"lora_dropout": lora.lora_dropout}
    options = {key: value for key, value in (OPTIONS | changes).items() if key not in OURS}
    recipe = Recipe.model_validate({**ours, "lora": lora, "training": options})
    conditions = conditions_of(recipe, recipe.training, sharded=False)
    return which_pass(conditions, needs_of(recipe.weights)).path


def sums(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward function written for TRL, by whose small differences trainers can be compared."""
    return [sum(ids) % 7 / 7 for ids in completion_ids]


def some_sums(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """The same; one completion in three cannot be scored."""
    return [None if sum(ids) % 3 == 0 else sum(ids) % 7 / 7 for ids in completion_ids]


def make(
    reward_funcs: Any,
    trainer_class: Any = InternalGRPOTrainer,
    tmp_path: Any = "out",
    rows: Any = None,
    ours: Any = None,
    **options: Any,
) -> Any:
    """Makes a trainer as a script for TRL does; `ours` are keywords of the trainer itself."""
    config = trl.RLOOConfig if issubclass(trainer_class, trl.RLOOTrainer) else trl.GRPOConfig
    rows = {"prompt": PROMPTS * 4} if rows is None else rows
    ours = dict(ours or {})
    model = ours.pop("model", None) or tiny_model()
    if options.get("beta"):  # TRL loads the reference from the model's folder
        model.save_pretrained(tmp_path)
        model.config._name_or_path = str(tmp_path)
    return trainer_class(
        model=model,
        reward_funcs=reward_funcs,
        args=config(**{**OPTIONS, "max_steps": 2, "output_dir": str(tmp_path)} | options),
        train_dataset=datasets.Dataset.from_dict(rows) if isinstance(rows, dict) else rows,
        processing_class=byte_tokenizer(),
        **ours,
    )


def trained(*args: Any, **options: Any) -> Any:
    trainer = make(*args, **options)
    trainer.train()
    return trainer


def upper(completions: list[str], **_: Any) -> list[float]:
    return [sum(map(str.isupper, text)) / 12 for text in completions]
