"""Trains a shipped reasoner by its own confidence in a TRL script, with the settings of `rlif train demo`.

    python examples/two_lines.py [STEPS]

Two lines change in a script for TRL: the import of the trainer, and `reward_funcs`, which names the signal.
"""

import sys
from importlib.resources import files
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig  # pyright: ignore[reportPrivateImportUsage]

import rlif
from rlif.trl import GRPOTrainer  # the line that changes: instead of trl's

MODEL = str(files("rlif") / "models/tiny-equal")
TASK = rlif.TASKS["clock"]


def accuracy(model: Any, tokenizer: Any, problems: list[rlif.Problem]) -> float:
    """Computes the share of problems that greedy completions solve."""
    tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": problem.text}] for problem in problems]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    with torch.random.fork_rng(), torch.no_grad():
        output = model.eval().generate(**inputs.to(model.device), do_sample=False, max_new_tokens=56)
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    marks = TASK.mark(problems, texts)
    return sum(bool(mark.right) for mark in marks) / len(marks)


def main(steps: int = 12, output: str = "two-lines") -> tuple[GRPOTrainer, list[float]]:
    """Trains; returns the trainer and the accuracy before and after."""
    prompts = [[{"role": "user", "content": problem.text}] for problem in TASK.load("train")]
    trainer = GRPOTrainer(
        model=MODEL,
        reward_funcs="self_certainty",  # and this one
        normalisation="group_std_floor",
        args=GRPOConfig(
            output_dir=output,
            max_steps=steps,
            learning_rate=3e-4,
            lr_scheduler_type="cosine",
            warmup_steps=5,
            num_generations=8,
            per_device_train_batch_size=64,
            gradient_accumulation_steps=2,
            max_completion_length=56,
            beta=0.1,
            loss_type="grpo",
            model_init_kwargs={"dtype": "float32"},
            seed=0,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    held_out = TASK.load("test", limit=256)
    before = accuracy(trainer.model, tokenizer, held_out)
    trainer.train()
    after = accuracy(trainer.model, tokenizer, held_out)
    print(f"accuracy on {len(held_out)} held-out problems: {before:.1%} before, {after:.1%} after {steps} steps")
    return trainer, [before, after]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
