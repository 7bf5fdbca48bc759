"""torchrun runs this once for all tests of two processes: groups split between them, and runs equal to one's."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import save_file

import rlif
from rlif.config.token_update import TokenUpdate
from rlif.engines.trl.measuring.annotator import Annotator
from rlif.errors import ModelError, RewardError
from rlif.rewards.mixing import Mixer
from support import same_draws, sharded
from support.trainers import LastLetter, Lengths, make_trainer

GROUPS = {"plurality_vote": 1.0, "self_consistency": 0.5, "seed_grpo": 2.0, "random": 1.0, "self_certainty": 0.0}
GOLD = {"task": Lengths(), "problems": Lengths().load("train")}
MEANT = {"semantic_entropy": 1.0, "plurality_vote": 0.5}


def cluster_texts(prompt, texts):
    """Texts mean the same if their lengths are equal modulo two."""
    parities = [len(text) % 2 for text in texts]
    return [[i for i, parity in enumerate(parities) if parity == wanted] for wanted in sorted(set(parities))]


STRADDLING = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}  # a rollout is one group
CASES = {
    "on policy": {},
    "two iterations": {"num_iterations": 2},
    "rloo": {"algorithm": "rloo"},
    "ema": {"annotator": Annotator("ema", decay=0.5)},
    "groups": {"reward": GROUPS, **GOLD},
    "single tokens": {"task": LastLetter(), "num_iterations": 2},
    # Six rows on each process, so the second of three groups is split. Fourth completions only vote.
    "batch": {
        "reward": MEANT,
        "mixer": Mixer(list(MEANT), "batch_std"),
        "task": Lengths(),
        "cluster_texts": cluster_texts,
        "rewarded": 3,
        "per_device_train_batch_size": 6,
        "max_steps": 6,
    },
}


def fails_on_one(completions, **_):
    return [1.0] * (len(completions) - PartialState().process_index)


def checked_otherwise(trainer, find):
    """Makes the second process find something else, once, in the check before the first step."""
    rehearse = trainer._rehearse

    def once():
        found, trainer._rehearse = rehearse(), rehearse
        return find() if PartialState().process_index else found

    trainer._rehearse = once
    return trainer


def refuse():
    raise ModelError("the second process refuses its model")


def said(row):
    return {"prompt": row.prompt, "answer": row.answer, "text": row.text}


if __name__ == "__main__":
    model_folder, out = map(Path, sys.argv[1:])
    state, found = PartialState(), {"package": rlif.__file__}
    for case, changes in CASES.items():
        trainer = make_trainer(model_folder, **STRADDLING | changes)
        if case == "single tokens":
            trainer.token_update, trainer.mask_answer = TokenUpdate(kind="kl_cov", share=0.1), True
        trainer.train()
        completions = sum(len(rollout["advantages"]) for rollout in trainer.rollouts)
        found[case] = [
            {key: rollout[key] for key in ("advantages", "expected", "path")}
            | {"rows": trainer.rows, "completions": completions}
            | {
                "scored": [
                    {
                        "ids": row.completion_ids,
                        "advantage": row.advantage,
                        "answer": row.answer,
                        "prompt": row.prompt,
                        "text": row.text,
                        **row.rewards,
                    }
                    for row in rollout["scored"]
                ]
            }
            for rollout in trainer.rollouts
        ]
        logs = [log for log in trainer.state.log_history if "answer_tokens" in log]
        found[f"logs of {case}"] = [(log["answer_tokens"], log["weakened_tokens"]) for log in logs]
    try:
        make_trainer(model_folder, reward={"two_processes:fails_on_one": 1.0}, **STRADDLING).train()
    except RewardError as error:
        found["error"] = str(error)
    trainer = checked_otherwise(make_trainer(model_folder, **STRADDLING), lambda: "is 1 nat off")
    trainer.train()
    found["inexact on one"] = [rollout["path"] for rollout in trainer.rollouts]
    try:
        checked_otherwise(make_trainer(model_folder, **STRADDLING), refuse).train()
    except ModelError as error:
        found["refused"] = str(error)
    for case in same_draws.CASES:
        weights, trainer = same_draws.weights_after(case, model_folder, pytest.MonkeyPatch())
        save_file(weights, out / f"{case}.{state.process_index}.safetensors")
        scored = [row for rollout in trainer.rollouts for row in rollout["scored"]]
        found[f"same draws: {case}"] = {
            "steps": trainer.state.global_step,
            "completions": [row.completion_ids for row in scored],
            "unscorable": [row.reward is None for row in scored],
        }
    if hasattr(torch.cpu.Stream, "record_event"):  # without, as in torch 2.6, fully_shard fails on a CPU
        found["sharded"] = sharded.differences()
    (out / f"{state.process_index}.json").write_text(json.dumps(found))
    state.wait_for_everyone()
    state.destroy_process_group()
    os._exit(0)  # gloo's threads may abort an interpreter that is shutting down
