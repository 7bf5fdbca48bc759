"""Tests signals where others than the model write tokens: rollout functions, tools, environments."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from unittest.mock import patch

import datasets
import pytest
import torch
import trl
from support import oracle
from support.models import byte_tokenizer, tiny_model
from support.trainers import OPTIONS, PROMPTS

from rlif.trl import GRPOTrainer

MASK = [1, 1, 0, 1, 0, 1]
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
TEMPLATE = Path(trl.__file__).parent / "chat_templates/qwen3.jinja"
TOKENS = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def recorded(trainer):
    """Makes a trainer remember, for each rollout, its signal, the same in float64, and which tokens it reads."""
    kept, calculate = [], trainer._calculate_rewards

    def remember(*args, **kwargs):
        rollout, model = copy.copy(trainer.rollout), copy.deepcopy(trainer.model)
        output = calculate(*args, **kwargs)
        exact = []
        for prompt, completion, written in zip(
            rollout.prompt_ids, rollout.completion_ids, rollout.written, strict=True
        ):
            logp_TV = oracle.logprobs_TV(model, prompt, completion, 1.0)
            certainty_T = -math.log(logp_TV.shape[1]) - logp_TV.mean(1)
            exact.append(certainty_T[torch.tensor(written, dtype=torch.bool)].mean().item())
        kept.append((trainer.reward.values["self_certainty"], exact, rollout.written))
        return output

    trainer._calculate_rewards = remember
    return kept


def draw(prompts, trainer):
    """Samples nothing: six tokens, two of them from an environment."""
    ids = [torch.randint(5, 200, (6,)).tolist() for _ in prompts]
    return {
        "prompt_ids": [trainer.processing_class(prompt).input_ids for prompt in prompts],
        "completion_ids": ids,
        "logprobs": [[0.0] * 6 for _ in prompts],
        "env_mask": [MASK for _ in prompts],
    }


@pytest.mark.parametrize("options", [{}, {"num_iterations": 2}], ids=["a pass of its own", "the pass of TRL's"])
def test_a_rollout_function_is_rewarded_for_the_tokens_of_the_model(options, tmp_path):
    trainer = GRPOTrainer(
        model=tiny_model(),
        reward_funcs="self_certainty",
        args=trl.GRPOConfig(output_dir=str(tmp_path), **OPTIONS | {"max_steps": 2} | options),
        train_dataset=datasets.Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=byte_tokenizer(),
        rollout_func=draw,
    )
    kept = recorded(trainer)
    trainer.train()
    assert kept and trainer.verified and trainer.reward.path == ("policy" if options else "pass")
    for found, exact, _ in kept:
        assert found == pytest.approx(exact, abs=1e-4)


def multiply(a: int, b: int) -> int:
    """
    Multiplies two numbers.

    Args:
        a: The first number.
        b: The second number.

    Returns:
        The product.
    """
    return a * b


class Counter:
    """An environment with one tool."""

    def reset(self, **_):
        self.count = 0
        return "Count."

    def multiply(self, a: int, b: int) -> str:
        """
        Counts on.

        Args:
            a: The first number.
            b: The second number.

        Returns:
            The count.
        """
        self.count += a * b
        return f"It is {self.count}."

    def get_reward(self):
        return float(self.count)


def with_template():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})
    tokenizer.chat_template, tokenizer.eos_token = TEMPLATE.read_text(), "<|im_end|>"
    return tokenizer


@pytest.mark.daily(every=2)
@pytest.mark.parametrize(
    "given", [{"tools": [multiply]}, {"environment_factory": Counter}], ids=["tools", "environment"]
)
def test_tools_and_environments_are_rewarded_for_the_tokens_of_the_model(given, tmp_path):
    tokenizer = with_template()
    call = '<tool_call>\n{"name": "multiply", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|>'
    calls, says = (tokenizer(text).input_ids for text in (call, "It is so.<|im_end|>"))

    def generate(input_ids, **_):
        rows = [calls, says, calls, says] if len(input_ids) == 4 else [says] * len(input_ids)
        width = max(map(len, rows))
        filled = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]
        return torch.cat([input_ids, torch.tensor(filled)], dim=1)

    options = {"max_steps": 2, "max_completion_length": 300, "gradient_accumulation_steps": 1}
    trainer = GRPOTrainer(
        model=tiny_model(vocab_size=len(tokenizer), max_position_embeddings=4096),
        reward_funcs=["self_certainty"],
        args=trl.GRPOConfig(output_dir=str(tmp_path), **OPTIONS | options),
        train_dataset=datasets.Dataset.from_dict({"prompt": CHATS * 4}),
        processing_class=tokenizer,
        **given,
    )
    kept = recorded(trainer)
    with patch.object(trainer.model, "generate", side_effect=generate):
        trainer.train()
    assert len(kept) == 2
    for found, exact, written in kept:
        assert [0 in row for row in written] == [True, False, True, False]
        assert found == pytest.approx(exact, abs=1e-4)
