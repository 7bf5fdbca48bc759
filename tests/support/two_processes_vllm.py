"""torchrun runs this for a test: two processes with an engine each, and two rows of each group of four."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState
from transformers import AutoModelForCausalLM

from rlif.engines.trl.vllm import shut_down
from support.trainers import make_trainer
from support.vllm_on_cpu import engines_for_tests

STRADDLING = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 2}
COLOCATED = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 128}
CASES = {"policy": {}, "vllm": {"vllm_importance_sampling_correction": False, "vllm_capture": True}}

if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:])
    state, found = PartialState(cpu=True), {}
    with engines_for_tests():
        for case, changes in CASES.items():
            model = AutoModelForCausalLM.from_pretrained(folder)
            trainer = make_trainer(folder, model=model, **STRADDLING, **COLOCATED, **changes)
            trainer.train()
            found[case] = [
                {key: rollout[key] for key in ("advantages", "expected", "path")}
                | {"self_certainty": [row.rewards["self_certainty"] for row in rollout["scored"]]}
                | {"completions": [row.completion_ids for row in rollout["scored"]]}
                for rollout in trainer.rollouts
            ]
            shut_down(trainer)
            state.wait_for_everyone()
    (out / f"{state.process_index}.json").write_text(json.dumps(found))
    state.wait_for_everyone()
    os._exit(0)  # gloo's threads may abort an interpreter that is shutting down
