"""Run by a test under torchrun: a group of four lies on two processes, two rows on each."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState
from trainers import make_trainer

CASES = {"on policy": {}, "two iterations": {"num_iterations": 2}, "rloo": {"algorithm": "rloo"}}

if __name__ == "__main__":
    model_folder, out = map(Path, sys.argv[1:])
    state, found = PartialState(), {}
    for case, changes in CASES.items():
        trainer = make_trainer(model_folder, per_device_train_batch_size=2, **changes)
        trainer.train()
        completions = sum(len(rollout["advantages"]) for rollout in trainer.rollouts)
        found[case] = [
            {key: rollout[key] for key in ("advantages", "expected", "path")}
            | {"rows": trainer.rows, "completions": completions}
            for rollout in trainer.rollouts
        ]
    (out / f"{state.process_index}.json").write_text(json.dumps(found))
    state.wait_for_everyone()
    state.destroy_process_group()
    os._exit(0)  # gloo's threads may abort an interpreter that is being torn down
