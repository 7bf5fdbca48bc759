"""Samples the same batch on one process and on two, so that the learned weights can be compared.

A sampled token depends only on rollout, row of the global batch and position, not on the process that holds the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig

from rlif.engines.trl.measuring.annotator import Annotator
from support.trainers import PROMPTS, Lengths, make_trainer

END = 1  # the end token of the tiny models
GOLD = {"task": Lengths(), "problems": Lengths().load("train")}
VOTES = {"plurality_vote": 1.0, "self_consistency": 0.5, "seed_grpo": 2.0, "random": 1.0, "self_certainty": 0.0}
STEPS = 3
# A rollout has two groups of four: two micro-batches on one process, or one on each of two.
CASES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "grpo, beta": {"beta": 0.1},
    "dapo": {"loss_type": "dapo"},
    "two iterations": {"num_iterations": 2, "max_steps": 4},
    "rloo": {"algorithm": "rloo"},
    "group signals": {"reward": VOTES, **GOLD},
    "lora": {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_alpha=64, task_type="CAUSAL_LM")},
    "ema": {"annotator": Annotator("ema", decay=0.5)},
    # Five prompts in rollouts of two: in both epochs the fifth is left over.
    "uneven last batch": {"prompts": [*PROMPTS, "Once more."], "max_steps": -1, "num_train_epochs": 2},
    # The second process holds the second group; none of its completions end.
    "unscorable on one process": {"mask_truncated_completions": True, "ends": lambda row: row < 4},
}


@contextmanager
def drawn_alike(monkeypatch: Any, ends: Any = None) -> Iterator[Any]:
    """Makes `torch.multinomial` draw by row and position inside the block; gives a function that begins a rollout.

    Args:
        monkeypatch: pytest's.
        ends: says whether the completion of a row of the global batch ends at its fourth token; by default this is
            random.
    """
    at = {"rollout": 0, "position": 0}

    def begin() -> None:
        at["rollout"], at["position"] = at["rollout"] + 1, 0

    def draw(probs_BV: torch.Tensor, num_samples: int) -> torch.Tensor:
        rows, first = len(probs_BV), PartialState().process_index * len(probs_BV)
        drawn = []
        for row in range(rows):
            seed = (at["rollout"] * 100 + first + row) * 100 + at["position"]
            share = torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            token = int(torch.searchsorted(probs_BV[row].double().cumsum(0), share).clamp(max=probs_BV.shape[1] - 1))
            if ends is not None:
                token = END if ends(first + row) and at["position"] == 3 else token + 5 if token == END else token
            drawn.append(token)
        at["position"] += 1
        return torch.tensor(drawn).unsqueeze(1)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", draw)
        yield begin


def weights_after(case: str, folder: Path, monkeypatch: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Trains a case on the present processes; returns the trained parameters and the trainer."""
    changes = {"max_steps": STEPS, **CASES[case]}
    rows = 8 // PartialState().num_processes
    with drawn_alike(monkeypatch, changes.pop("ends", None)) as begin:
        trainer = make_trainer(
            folder,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=rows // 4,
            adam_epsilon=1e-4,  # else Adam makes full steps from gradients of mere rounding
            **changes,
        )
        generate = trainer._generate
        trainer._generate = lambda *args, **kwargs: (begin(), generate(*args, **kwargs))[1]
        trainer.train()
    inner = trainer.accelerator.unwrap_model(trainer.model)
    return {name: p.detach().clone() for name, p in inner.named_parameters()}, trainer
