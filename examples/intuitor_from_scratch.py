"""Trains by Intuitor from scratch: the whole method in one file of torch, without a trainer. Read this first.

    python examples/intuitor_from_scratch.py

A language model learns from its own confidence (arXiv 2505.19590). Each step does four things:

    1. sample     G completions of each of P problems
    2. score      each by its self-certainty under the model itself: mean_i KL(U || p_i)
    3. compare    within the group: advantage = (score - mean) / std
    4. update     the policy gradient, held near the start by a KL term

Training does not use gold answers. They are used only to print the accuracy, so that you can watch it rise. The library
does the same on TRL's trainers, without an extra forward pass. This file is simpler. It makes one update per rollout,
so the ratio of new to old policy is 1 and nothing is clipped. It uses one process and float32.

Shapes: B = P * G completions, L tokens of a padded row, T of its completion, V vocabulary.
"""

from __future__ import annotations

import argparse
import copy
import math
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlif import TASKS
from rlif.config.recipe import Recipe
from rlif.sampling.loading import model_path

GROUP = 8  # completions per problem
PROBLEMS = 32  # per step
MAX_TOKENS = 56
LEARNING_RATE = 1e-4
KL_WEIGHT = 0.02
LEAST_SPREAD = 0.4  # share of the spread at the start; 0 is the paper's normalisation, which collapses here: try it


@torch.no_grad()
def sample(model: Any, tokenizer: Any, problems: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples G completions of each problem. Returns `ids_BL`, `mask_BL` of real tokens, `completion_mask_BT`."""
    prompts = [[{"role": "user", "content": problem}] for problem in problems for _ in range(GROUP)]
    batch = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    ids_BL = model.generate(**batch, max_new_tokens=MAX_TOKENS, do_sample=True, temperature=1.0, top_k=0)
    completion_BT = ids_BL[:, batch["input_ids"].shape[1] :]
    ended_BT = (completion_BT == tokenizer.eos_token_id).cumsum(1)
    before_end_BT = ended_BT - (completion_BT == tokenizer.eos_token_id).long() == 0  # cumsum counts the first end too
    return ids_BL, torch.cat([batch["attention_mask"].bool(), before_end_BT], dim=1), before_end_BT


def logprobs(model: Any, ids_BL: torch.Tensor, mask_BL: torch.Tensor, length: int) -> torch.Tensor:
    """Computes log p of the distributions that generated the last `length` tokens: position i - 1 generates token i."""
    positions_BL = (mask_BL.long().cumsum(1) - 1).clamp(min=0)
    logits_BLV = model(input_ids=ids_BL, attention_mask=mask_BL.long(), position_ids=positions_BL).logits
    return torch.log_softmax(logits_BLV[:, -length - 1 : -1].float(), dim=-1)


def self_certainty(logprobs_BTV: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Averages KL(U || p) = -log V - mean_j log p_j over the completion's tokens. `[B]`, in nats."""
    divergence_BT = -math.log(logprobs_BTV.shape[-1]) - logprobs_BTV.mean(-1)
    return (divergence_BT * mask_BT).sum(1) / mask_BT.sum(1)


def advantages(scores_B: torch.Tensor, least_std: float = 0.0) -> torch.Tensor:
    """Compares each score with its group. `least_std` keeps tiny differences small once all completions are sure."""
    scores_PG = scores_B.view(-1, GROUP)
    std_P1 = scores_PG.std(1, keepdim=True).clamp(min=least_std)
    return ((scores_PG - scores_PG.mean(1, keepdim=True)) / (std_P1 + 1e-4)).flatten()


def loss(
    chosen_BT: torch.Tensor, reference_BT: torch.Tensor, advantage_B: torch.Tensor, mask_BT: torch.Tensor
) -> torch.Tensor:
    """Computes the loss of GRPO on policy: means over tokens, then over completions; KL by the k3 estimator."""
    ratio_BT = torch.exp(chosen_BT - chosen_BT.detach())  # 1, with the gradient of log p
    gap_BT = reference_BT - chosen_BT
    kl_BT = torch.exp(gap_BT) - gap_BT - 1
    per_token_BT = -ratio_BT * advantage_B.unsqueeze(1) + KL_WEIGHT * kl_BT
    return ((per_token_BT * mask_BT).sum(1) / mask_BT.sum(1)).mean()


def accuracy(tokenizer: Any, completion_BT: torch.Tensor, golds: list[str]) -> float:
    """Computes the share of sampled completions that are right. It is only printed."""
    texts = tokenizer.batch_decode(completion_BT, skip_special_tokens=True)
    answers = [TASKS["clock"].extract(text) for text in texts]
    return sum(answer == gold for answer, gold in zip(answers, golds, strict=True)) / len(golds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Intuitor from scratch.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    path = model_path(Recipe(model="tiny-reasoner"))
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    problems = TASKS["clock"].load("train", limit=PROBLEMS * args.steps, seed=args.seed)
    start_spread = None

    for step in range(args.steps):
        batch = problems[step * PROBLEMS : (step + 1) * PROBLEMS]
        ids_BL, mask_BL, mask_BT = sample(model, tokenizer, [problem.text for problem in batch])
        completion_BT = ids_BL[:, -mask_BT.shape[1] :]

        logprobs_BTV = logprobs(model, ids_BL, mask_BL, mask_BT.shape[1])
        scores_B = self_certainty(logprobs_BTV.detach(), mask_BT)
        spread = scores_B.view(-1, GROUP).std(1).mean().item()
        start_spread = start_spread or spread
        advantage_B = advantages(scores_B, LEAST_SPREAD * start_spread)

        chosen_BT = logprobs_BTV.gather(-1, completion_BT.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            reference_BTV = logprobs(reference, ids_BL, mask_BL, mask_BT.shape[1])
            reference_BT = reference_BTV.gather(-1, completion_BT.unsqueeze(-1)).squeeze(-1)
        loss(chosen_BT, reference_BT, advantage_B, mask_BT).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

        right = accuracy(tokenizer, completion_BT, [problem.gold or "" for problem in batch for _ in range(GROUP)])
        print(
            f"step {step + 1:3d}  self-certainty {scores_B.mean():5.2f}  spread {spread:.3f}"
            f"  tokens {mask_BT.sum(1).float().mean():4.1f}  sampled accuracy {right:.2f}"
        )


if __name__ == "__main__":
    main()
