"""Measures the error of self-certainty in bfloat16: each path against float64 on the same (bfloat16) weights.

python scripts/bf16_error.py --out results/bf16-error.md
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path
from typing import Any

import torch
from refusals import call
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlif.scoring.statistics import score_completions
from rlif.scoring.taps import BackboneTap, DecodeTap

ROWS, PROMPT, TOKENS = 16, 8, 64


def build(vocab: int, hidden: int) -> Any:
    """Builds a random Qwen2. Its logits have a deviation of about 3, like those of a trained model."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=3 / math.sqrt(hidden))
    return model.bfloat16()


def sample(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples; returns `ids_BL` and the decode tap's `mean_logprob_BT`."""
    prompts: Any = torch.randint(2, model.config.vocab_size, (ROWS, PROMPT))
    with DecodeTap(model, 1.0) as tap:
        ids: Any = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=TOKENS,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
        )
    fields = tap.fields([TOKENS] * ROWS)
    assert fields is not None
    return ids, fields["mean_logprob"]


@torch.no_grad()
def errors(model: Any) -> dict[str, torch.Tensor]:
    """Computes `mean_logprob_BT` of each path minus that in float64."""
    ids_BL, decoded_BT = sample(model)
    exact_BLV = torch.log_softmax(copy.deepcopy(model).double()(input_ids=ids_BL).logits, -1)
    exact_BT = exact_BLV[:, -TOKENS - 1 : -1].mean(-1)
    rows = ids_BL.tolist()
    stats = score_completions(model, [row[:PROMPT] for row in rows], [row[PROMPT:] for row in rows])
    with BackboneTap(model, ids_BL, TOKENS, 1.0) as tap:
        logits_BLV = model(input_ids=ids_BL).logits[:, -TOKENS - 1 : -1]
    logprob_BLV = torch.log_softmax(logits_BLV.float(), -1)
    tapped = tap.fields(logprob_BLV.gather(-1, ids_BL[:, -TOKENS:, None]).squeeze(-1))
    lowered_BT = logits_BLV.mean(-1) - logits_BLV.logsumexp(-1)
    assert stats.mean_logprob_BT is not None and tapped is not None
    return {
        "own pass": stats.mean_logprob_BT - exact_BT,
        "backbone tap": tapped["mean_logprob"] - exact_BT,
        "decode tap": decoded_BT - exact_BT,
        "all in bfloat16 (as the reference code)": lowered_BT.double() - exact_BT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = [
        "# Error of self-certainty in bfloat16, in nats",
        "",
        f"    python scripts/bf16_error.py --vocab {args.vocab} --hidden {args.hidden} --out {args.out}",
        "",
        f"A random Qwen2, hidden {args.hidden}, 2 layers, V = {args.vocab:,}; {ROWS} sampled completions of {TOKENS}"
        f" tokens; against float64 on the same weights. CPU, torch {torch.__version__}.",
        "",
        "| path | per token: mean | per token: std | per completion: largest |",
        "|---|---|---|---|",
    ]
    for path, error_BT in errors(build(args.vocab, args.hidden)).items():
        per_row = error_BT.mean(1).abs().max()
        lines.append(f"| {path} | {error_BT.mean():+.1e} | {error_BT.std():.1e} | {per_row:.1e} |")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    call(main)
