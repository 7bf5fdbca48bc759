"""From a recipe to a TRL trainer, and from a trainer's rollout to rows of a run folder."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerState
from trl import GRPOConfig, RLOOConfig  # pyright: ignore[reportPrivateImportUsage]

from rlif.config import Recipe
from rlif.engines.trl import InternalGRPOTrainer, InternalReward, InternalRLOOTrainer
from rlif.errors import RlifError, first_line, nearest
from rlif.policy import load_kwargs, model_path
from rlif.rewards import Normaliser
from rlif.rollout import token_chars
from rlif.signals import SIGNALS

STRICT = ConfigDict(arbitrary_types_allowed=True, strict=True)
TRAINERS = {"grpo": (InternalGRPOTrainer, GRPOConfig), "rloo": (InternalRLOOTrainer, RLOOConfig)}


def check_training(recipe: Recipe, processes: int) -> dict[str, Any]:
    """The options for TRL's config, names and types checked, before any model is loaded.

    Raises:
        RlifError: TRL knows no such option (the nearest is suggested), a wrong type, a batch that does not divide.
    """
    config = TRAINERS[recipe.algorithm][1]
    fields = {field.name for field in dataclasses.fields(config) if field.init}
    hints = typing.get_type_hints(config)
    options = recipe.resolved_training
    for name, value in options.items():
        if name not in fields:
            raise RlifError(f"unknown key 'training.{name}': TRL has no such option; {nearest(name, fields)}")
        try:
            TypeAdapter(hints[name], config=STRICT).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise RlifError(f"training.{name} in the recipe: {reason}, found {value!r}.") from None
        except PydanticSchemaGenerationError:
            continue
    return options | {"gradient_accumulation_steps": recipe.accumulation(processes)}


def build_trainer(recipe: Recipe, prompts: list[Any], tokenizer: Any, output_dir: str) -> Any:
    """A trainer for a recipe, its model loaded.

    Args:
        prompts: conversations or texts. They are all the trainer's data set holds, so that no gold answer can reach
            the training path.
        tokenizer: see `rlif.policy.load_tokenizer`.
        output_dir: where checkpoints go; trackers name the run after the folder around it.

    Raises:
        RlifError: TRL refuses the options, or the model cannot be loaded.
    """
    trainer_class, config_class = TRAINERS[recipe.algorithm]
    options = check_training(recipe, PartialState().num_processes)
    if recipe.algorithm == "grpo":
        options["scale_rewards"] = "none"
    options["save_total_limit"] = None  # old checkpoints are `survival.Keep`'s to delete, after the new one is sealed
    try:
        args = config_class(
            output_dir=output_dir,
            seed=recipe.seed,
            disable_tqdm=True,
            model_init_kwargs=load_kwargs(recipe),
            **{"run_name": Path(output_dir).parent.name, **options},
        )
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise RlifError(f"TRL refuses these training options: {first_line(error)}") from error
    reward = InternalReward(
        SIGNALS[recipe.reward],
        recipe.reward,
        recipe.annotator,
        Normaliser(recipe.resolved_normalisation, recipe.spread_floor),
    )
    reward.seconds = recipe.reward_seconds
    try:
        trainer = trainer_class(
            model=model_path(recipe),
            args=args,
            reward_funcs=reward,
            train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            peft_config=_lora(recipe),
        )
    except (OSError, ImportError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise RlifError(f"cannot set up training of {recipe.model!r}: {first_line(error)}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def load_finished(trainer: Any, checkpoint: str) -> None:
    """Weights and step of a checkpoint that was taken at the end of a run, without training."""
    trainer._load_from_checkpoint(checkpoint)
    trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))


def _lora(recipe: Recipe) -> Any:
    if recipe.lora is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise RlifError("a recipe with lora needs peft: pip install 'rlif[lora]'.") from error
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    for name in recipe.lora:
        if name not in known:
            raise RlifError(f"unknown key 'lora.{name}': peft has no such option; {nearest(name, known)}")
    options: dict[str, Any] = {"task_type": "CAUSAL_LM", **recipe.lora}
    return LoraConfig(**options)


def scored_rows(trainer: Any, limit: int) -> list[dict[str, Any]]:
    """The first rows of the rollout rewarded last, with the advantages TRL gave them; empty if there is no new one.

    TRL hands advantages to nobody; they are read from `_logs`, what it prints completions from.
    """
    reward: InternalReward = trainer.reward
    scored, reward.scored = reward.scored, []
    advantages = list(trainer._logs["advantages"])[-len(scored) :]
    rows = []
    for row, advantage in zip(scored[:limit], advantages[:limit], strict=False):
        text = row.completion if isinstance(row.completion, str) else row.completion[-1]["content"]
        rows.append(
            {
                "prompt": row.prompt,
                "completion": text,
                "prompt_ids": row.prompt_ids,
                "completion_ids": row.completion_ids,
                "token_chars": token_chars(trainer.processing_class, row.completion_ids, text),
                "token_self_certainty": [round(value, 2) for value in row.token_self_certainty.tolist()],
                "truncated": row.truncated,
                "rewards": {reward.__name__: row.reward},
                "reward": row.reward,
                "advantage": advantage,
            }
        )
    return rows
