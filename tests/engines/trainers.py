"""Small trainers that remember what TRL made of our rewards, and what it should have been."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import oracle
import torch
from conftest import byte_tokenizer, tiny_model

import rlif
from rlif.engines.trl import InternalReward
from rlif.engines.trl_setup import TRAINERS
from rlif.rewards import Normaliser
from rlif.scoring import causal_lm

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
    """A copy without our hooks and without TRL's patched forward, which would call into the original."""
    clone = copy.deepcopy(model)
    causal_lm(clone).base_model._forward_hooks.clear()
    causal_lm(clone).__dict__.pop("forward", None)
    return clone


class Spy:
    """Mixin: forward passes by kind, and each rollout with float64 self-certainty taken at the same moment."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rows = {"generate": 0, "policy": 0, "reference": 0, "train": 0}
        self.rollouts: list[dict[str, Any]] = []
        self.kind = None
        lm = causal_lm(self.model)
        lm.base_model.register_forward_hook(lambda m, a, o: self._count(o.last_hidden_state.shape[0], "policy"))
        if getattr(self, "ref_model", None) is not None:
            self.ref_model.base_model.register_forward_hook(
                lambda m, a, o: self._count(o.last_hidden_state.shape[0], "reference")
            )
        self.start = snapshot(self.model)

    def _count(self, rows: int, kind: str) -> None:
        self.rows[self.kind or ("train" if torch.is_grad_enabled() else kind)] += rows

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        self.kind = "generate"
        output = super()._generate(*args, **kwargs)
        self.kind = None
        return output

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        annotator = snapshot(self.model) if self.reward.annotator == "online" else self.start
        scored = self.reward.scored
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
    """A tiny trainer over a model folder; `changes` are TRL options, and ours by keyword."""
    annotator = changes.pop("annotator", "online")
    normaliser = changes.pop("normaliser", None) or Normaliser("group_std" if algorithm == "grpo" else "none")
    peft_config, model = changes.pop("peft_config", None), changes.pop("model", None)
    trainer_class, config_class = TRAINERS[algorithm]
    options = OPTIONS | ({"scale_rewards": "none", "loss_type": "grpo"} if algorithm == "grpo" else {}) | changes
    if model is None:
        model = tiny_model()
        model.config._name_or_path = str(folder)  # where TRL loads the reference model from
    return type("Spied", (Spy, trainer_class), {})(
        model=model,
        args=config_class(**{"output_dir": str(folder / "out")} | options),
        reward_funcs=InternalReward(rlif.SIGNALS["self_certainty"], "self_certainty", annotator, normaliser),
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS * 8]),
        processing_class=byte_tokenizer(),
        peft_config=peft_config,
    )
