"""torchrun runs this: verl's own FSDP2 engine with rlif's statistics, and one step of training with it.

Usage: torchrun --nproc-per-node N verl_engine.py MODEL OUT, with OUT a file per process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import verl  # noqa: F401  # loads the platform, which must come first
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine.base import EngineRegistry

from rlif.engines.verl.names import FIELDS, PREFIX

NAMES = ("mean_logprob", "entropy", "logprob", "topk_confidence")
LENGTHS = [7, 12, 9, 5]
FLOAT32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
CASES = {
    "padded float32": (False, FLOAT32),
    "unpadded float32": (True, FLOAT32),
    "padded mixed": (False, None),
    "unpadded mixed": (True, None),
}


def engine_of(folder: str, packed: bool, precision: dict[str, str] | None):
    """Builds verl's engine, fsdp2, with the weights in shards."""
    model = HFModelConfig(
        path=folder,
        use_remove_padding=packed,
        enable_gradient_checkpointing=False,
        override_config={"attn_implementation": "sdpa"},
    )
    config = FSDPEngineConfig(
        strategy="fsdp2",
        use_torch_compile=False,
        model_dtype="fp32",
        mixed_precision=precision,
        use_dynamic_bsz=False,
        use_remove_padding=packed,
        micro_batch_size_per_gpu=2,
        infer_micro_batch_size_per_gpu=2,
    )
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=model,
        engine_config=config,
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=10),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def rows(packed: bool) -> tuple[list[torch.Tensor], TensorDict]:
    """Makes rows of tokens, other ones on each process, and verl's batch of them."""
    torch.manual_seed(7 + dist.get_rank())
    ids = [torch.randint(5, 261, (n,)) for n in LENGTHS]

    def nested(parts):
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    data = TensorDict(
        {
            "input_ids": nested(ids),
            "position_ids": nested([torch.arange(n) for n in LENGTHS]),
            "loss_mask": nested([torch.ones(n, dtype=torch.int64) for n in LENGTHS]),
        },
        batch_size=[len(ids)],
    )
    settings = {"use_remove_padding": packed, "use_dynamic_bsz": False, "micro_batch_size_per_gpu": 2}
    settings |= {"calculate_entropy": True, "temperature": 0.9, "pad_token_id": 0, "use_fused_kernels": False}
    settings |= {"global_batch_size": len(ids) * dist.get_world_size(), "dp_size": dist.get_world_size()}
    tu.assign_non_tensor(data, global_token_num=LENGTHS, **settings)
    return ids, data


def whole(parameter: torch.Tensor) -> torch.Tensor:
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach().clone()


if __name__ == "__main__":
    folder, out = sys.argv[1:]
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    dist.init_process_group("gloo")
    found = {}
    for case, (packed, precision) in CASES.items():
        engine = engine_of(folder, packed, precision)
        ids, data = rows(packed)
        tu.assign_non_tensor(data, **{FIELDS: NAMES})
        with engine.eval_mode():
            output = engine.infer_batch(data)["model_output"]
        found[case] = {"engine": type(engine).__name__, "ids": [row.tolist() for row in ids]}
        for name in NAMES:
            found[case][name] = [row.tolist() for row in output[PREFIX + name].unbind()]
        found[case]["verl"] = [row.tolist() for row in output["log_probs"].unbind()]
        tu.assign_non_tensor(data, **{FIELDS: ()})
        with engine.eval_mode():
            found[case]["unasked"] = sorted(engine.infer_batch(data)["model_output"].keys())
    before = [whole(parameter) for parameter in engine.module.parameters()]

    def loss(model_output, data, dp_group=None):
        return -model_output["log_probs"].values().mean(), {}

    with engine.train_mode():
        engine.train_batch(data, loss_function=loss)
    after = [whole(parameter) for parameter in engine.module.parameters()]
    found["moved"] = max((new - old).abs().max().item() for old, new in zip(before, after, strict=True))
    Path(out, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that is shutting down
