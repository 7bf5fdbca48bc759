r"""Pre-trains tiny-reasoner, which ships, from random weights, in twenty minutes or so on two CPU cores.

    python scripts/pretrain_reasoner.py --out rlif/models/tiny-reasoner

Its documents are problems of `rlif.tasks.miniature` with solutions of three kinds, mixed as on the web:

    60 %  jump to an answer, which is a guess
    34 %  work step by step, and are right
     6 %  ramble and never end

So the model is able to work in steps, but greedy decoding leaps. Held-out problems are never read. The script measures
the model and writes `base.json` beside the weights: greedy accuracy, and accuracy if the first step is given.

Labels are smoothed a little. Self-certainty averages log p over the whole vocabulary, impossible tokens included. In a
model this small, their log p depends more on how often a position was trained than on how sure the model is. Without
smoothing leaps scored above steps (10.2 against 9.8 nats). Smoothing gives all impossible tokens the same log p.

Other bases are made from the first in a few minutes more; `base_writers` says who writes their documents:

    python scripts/pretrain_reasoner.py --from rlif/models/tiny-reasoner --writers wrong-and-sure \
        --steps 200 --batch 64 --lr 5e-4 --out runs/wrong-and-sure-base
    python scripts/pretrain_reasoner.py --from rlif/models/tiny-reasoner --writers short-sure \
        --steps 200 --batch 64 --lr 5e-4 --dtype bfloat16 --out rlif/models/tiny-short
    python scripts/pretrain_reasoner.py --from rlif/models/tiny-reasoner --writers equal-sure \
        --steps 200 --batch 64 --lr 5e-4 --dtype bfloat16 --out rlif/models/tiny-equal
    python scripts/pretrain_reasoner.py --from rlif/models/tiny-equal --writers goes-on \
        --steps 600 --batch 64 --lr 5e-4 --out runs/goes-on-base
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from base_writers import BATCH, FAMILIES, LENGTH, STEPS, WRITERS, documents
from refusals import call
from tokenizers import trainers
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, get_cosine_schedule_with_warmup

from rlif.sampling.sampler import Decoding, generate
from rlif.tasks import TASKS
from rlif.tasks.prompts import PROMPTS
from rlif.tasks.rendering import render_all
from rlif.types import Problem

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SMOOTHING = 0.002  # see above


def build_tokenizer() -> Qwen2Tokenizer:
    """Trains a byte-level BPE tokenizer, as Qwen2 has, whose merges end in the words of the two families."""
    stream = documents(seed=0)
    texts = [part for problem, _, text in itertools.islice(stream, 5000) for part in (problem.text, text)]
    tokenizer = Qwen2Tokenizer(
        unk_token="<|pad|>",  # never used: text without a token is left out
        pad_token="<|pad|>",
        eos_token="<|end|>",
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=SPECIAL, min_frequency=1, show_progress=False)
    tokenizer.backend_tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.08,
        pad_token_id=0,  # the order of SPECIAL
        eos_token_id=1,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def prompt_ids(tokenizer: Qwen2Tokenizer, problems: list[Problem]) -> list[list[int]]:
    return render_all(tokenizer, PROMPTS["plain"], [problem.text for problem in problems], chat=True)


def batches(
    tokenizer: Qwen2Tokenizer, size: int, seed: int, writers: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields padded `ids_BL` and `labels_BL`; only completions have labels."""
    stream = rendered(tokenizer, documents(seed, writers))
    while True:
        ids_rows, label_rows = [], []
        for prompt, style, text in itertools.islice(stream, size):
            answer = tokenizer.encode(text, add_special_tokens=False)[: 64 if style == "ramble" else 128]
            answer += [] if style == "ramble" else [tokenizer.eos_token_id]
            ids_rows.append(torch.tensor(prompt + answer))
            label_rows.append(torch.tensor([-100] * len(prompt) + answer))
        pad = torch.nn.utils.rnn.pad_sequence
        yield pad(ids_rows, True, 0), pad(label_rows, True, -100)


def rendered(
    tokenizer: Qwen2Tokenizer, stream: Iterator[tuple[Problem, str, str]]
) -> Iterator[tuple[list[int], str, str]]:
    """Yields prompts as ids; many are rendered at once, because each call tries the chat template in a process."""
    while True:
        drawn = list(itertools.islice(stream, 2048))
        for ids, (_, style, text) in zip(prompt_ids(tokenizer, [p for p, _, _ in drawn]), drawn, strict=True):
            yield ids, style, text


def measure(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, n: int) -> dict[str, float]:
    """Measures greedy accuracy on held-out problems: without help, and with the first step given."""
    result = {}
    for name in FAMILIES:
        task = TASKS[name]
        problems = task.load("test", limit=n)
        prompts = prompt_ids(tokenizer, problems)
        first_steps = [(p.solution or "").partition(". ")[0] + "." for p in problems]
        for kind, prefixes in (("greedy", [""] * n), ("first_step_given", first_steps)):
            rows = [
                prompt + tokenizer.encode(prefix, add_special_tokens=False)
                for prompt, prefix in zip(prompts, prefixes, strict=True)
            ]
            completions = generate(model, tokenizer, rows, Decoding(LENGTH), batch_size=n)
            right = [task.grade(p, c.text) for p, c in zip(problems, completions, strict=True)]
            result[f"{name}/{kind}"] = sum(map(bool, right)) / n
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and the tokenizer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH, help="documents per step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--from", dest="start", type=Path, help="start from this model instead of random weights")
    parser.add_argument("--writers", choices=WRITERS, default="messy", help="who writes the documents, see above")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights that are kept"
    )
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    if args.start:
        tokenizer = Qwen2Tokenizer.from_pretrained(args.start, padding_side="left")
        model = Qwen2ForCausalLM.from_pretrained(args.start, dtype=torch.float32)  # whatever its file holds
    else:
        tokenizer = build_tokenizer()
        model = build_model(tokenizer)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, min(100, args.steps // 10), args.steps)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")

    start, stream = time.time(), batches(tokenizer, args.batch, args.seed, args.writers)
    for step in range(1, args.steps + 1):
        ids_BL, labels_BL = next(stream)
        mask_BL = ids_BL != tokenizer.pad_token_id
        logits_BLV = model(input_ids=ids_BL, attention_mask=mask_BL).logits[:, :-1]
        loss = cross_entropy(
            logits_BLV.flatten(0, 1), labels_BL[:, 1:].flatten(), ignore_index=-100, label_smoothing=SMOOTHING
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.time() - start:.0f} s", flush=True)

    dtype = getattr(torch, args.dtype)
    model.to(dtype).float().eval()  # what is measured is what is kept
    model.generation_config.max_new_tokens = LENGTH
    made = {"seed": args.seed, "steps": args.steps, "writers": args.writers}
    base = {**made, "n": 256, **measure(model, tokenizer, n=256)}
    model.to(dtype).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "base.json").write_text(json.dumps(base, indent=2) + "\n")
    print(json.dumps(base, indent=2))


if __name__ == "__main__":
    call(main)
