"""Measures what rounding and padding do to a model's statistics. Writes `padding-error.md` in `results`.

    python scripts/padding_error.py smollm2-135m

Takes prompts and completions of several lengths, in each type. Compares mean log p over the vocabulary
of the tokens, in nats, with a pass over each sequence alone: the mean over the tokens of a row of absolute differences,
and in brackets the difference of the row's mean, in the row where the first is largest.

    padded              all rows in one pass, padded
    another type        float32 alone against this type alone
    padding attended    each sequence alone after nine tokens of padding that the model is not told of: a fault
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from refusals import call

from rlif.config.loading import check_recipe
from rlif.files.atomic import replace_file
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.scoring.statistics import score_completions

QUESTIONS = (
    "A short one.",
    "Ben has 3 cups and gets 4 more. How many cups does Ben have now?",
    "A farmer has 12 eggs, sells five of them, and finds two more. Say how many are left, and how you know.",
    "Count from one to ten, then name the days of the week in order, and then tell me which of them you like best.",
)
TEXT = "First we add the two numbers, which makes seven. So the answer is that he has seven cups now, and not four."
TOKENS, PADDING = (16, 11, 6, 3), 9  # of the completions; tokens of padding
TYPES = ("float32", "float16", "bfloat16")
Rows = list[torch.Tensor]


def together(model: Any, prompts: list[list[int]], completions: list[list[int]]) -> Rows:
    """Computes mean log p of each token, [T] and padding, in one pass."""
    mean_logprob_BT = score_completions(model, prompts, completions).mean_logprob_BT
    assert mean_logprob_BT is not None
    return [*mean_logprob_BT]


def alone(model: Any, prompts: list[list[int]], completions: list[list[int]]) -> Rows:
    """Computes the same, a pass per row."""
    pairs = zip(prompts, completions, strict=True)
    return [together(model, [prompt], [completion])[0] for prompt, completion in pairs]


def largest(found: Rows, truth: Rows) -> str:
    """Writes the largest mean absolute difference of a row, and that row's mean difference."""
    rows = [a[: len(b)] - b for a, b in zip(found, truth, strict=True)]
    off = max(rows, key=lambda off_T: off_T.abs().mean().item())
    return f"{off.abs().mean().item():.1g} ({off.mean().item():+.1g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    tokenizer = load_tokenizer(check_recipe({"model": args.model}))
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in QUESTIONS
    ]
    completions = [tokenizer.encode(TEXT, add_special_tokens=False)[:length] for length in TOKENS]
    lines, exact = [], None
    for dtype in TYPES:
        model = load_model(check_recipe({"model": args.model, "dtype": dtype}))
        truth = alone(model, prompts, completions)
        exact = exact or truth
        padded = together(model, prompts, completions)
        shifted = alone(model, [[tokenizer.pad_token_id] * PADDING + prompt for prompt in prompts], completions)
        lines.append(f"| {dtype} | {largest(padded, truth)} | {largest(truth, exact)} | {largest(shifted, truth)} |")
        print(lines[-1], flush=True)
    head = "| type | padded | another type | padding attended |"
    text = [f"# Rounding and padding in {args.model}", "", f"    python scripts/padding_error.py {args.model}", ""]
    text += [head, "|---|---|---|---|", *lines, "", f"CPU, torch {torch.__version__}."]
    text += ["", (__doc__ or "").split("\n\n", 2)[2].strip(), ""]
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(args.out / "padding-error.md", "\n".join(text))


if __name__ == "__main__":
    call(main)
