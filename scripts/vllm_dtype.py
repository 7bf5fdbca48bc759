"""Measures how far vLLM's computation of a model is from the trainer's, by vLLM's dtype: the table of docs/vllm.md.

    TORCHDYNAMO_DISABLE=1 VLLM_CPU_OMP_THREADS_BIND=nobind .venv-vllm/bin/python scripts/vllm_dtype.py

Runs six steps of `demo-long` with vLLM colocated and the policy in float32. One number is the difference of
log-probabilities that TRL logs. The other compares the self-certainty captured inside vLLM in the first rollout with a
pass of the same policy.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from typing import Any

from rich.console import Console
from transformers import AutoModelForCausalLM
from trl.generation import vllm_generation

import rlif
from rlif.runs.folder import Run
from rlif.sampling.loading import model_path

SHORT = ["training.max_steps=6", "training.save_steps=6", "training.num_iterations=1", "training.use_vllm=true"]
SHORT += ["evaluate={}", "guard.prompt_check=0"]
CAPTURED = ["vllm_capture=true", "training.vllm_importance_sampling_correction=false"]


def use(dtype: str) -> None:
    """Makes engines use this dtype, and lets them take weights on the CPU (docs/vllm.md says why)."""
    import vllm._custom_ops as ops  # pyright: ignore[reportMissingImports]
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    ops._supports_onednn = False
    engines: Any = vllm_generation
    engines.LLM = lambda *args, **options: LLM(
        *args, **{"dtype": dtype, "enforce_eager": True, "kv_cache_memory_bytes": 2**28} | options
    )


def train(folder: str, *overrides: str) -> Run:
    recipe = rlif.load_recipe("demo-long", [*SHORT, f"output={folder}", *overrides])
    return rlif.train(recipe, name="dtype", console=Console(quiet=True))


def captured_error(run: Run) -> list[float]:
    """Computes the error of each completion of the first rollout, in nats."""
    recipe = run.recipe()
    rows = [json.loads(line) for line in (run.path / "completions/step-000001.jsonl").read_text().splitlines()]
    stats = rlif.score_completions(
        AutoModelForCausalLM.from_pretrained(model_path(recipe), dtype="float32"),
        [row["prompt_ids"] for row in rows],
        [row["completion_ids"] for row in rows],
        temperature=recipe.training["temperature"],
    )
    own = rlif.SIGNALS["self_certainty"](stats)
    return [abs(row["reward"] - value) for row, value in zip(rows, own, strict=True) if value is not None]


if __name__ == "__main__":
    print("| vLLM computes in | log p of a token: mean | largest | captured self-certainty: mean | largest |")
    print("|---|---|---|---|---|")
    for dtype, name in (("auto", "bfloat16, its own choice"), ("float32", "float32 (forced here)")):
        use(dtype)
        with tempfile.TemporaryDirectory() as folder:
            logged = train(folder, "name=corrected").metrics()
            errors = captured_error(train(folder, "name=captured", *CAPTURED))
        key = "sampling/sampling_logp_difference"
        cells = statistics.fmean(row[f"{key}/mean"] for row in logged), max(row[f"{key}/max"] for row in logged)
        cells += statistics.fmean(errors), max(errors)
        print(f"| {name} | {' | '.join(f'{cell:.1e}' for cell in cells)} |", flush=True)
