"""From a recipe to a TRL trainer, and from a trainer's rollout to rows of a run folder."""

import dataclasses
import math
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

import datasets
import torch
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerState, get_scheduler
from transformers.integrations.integration_utils import (
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)
from trl import GRPOConfig, RLOOConfig  # pyright: ignore[reportPrivateImportUsage]

from rlif.config.defaults import BOUNDS, CHOICES, LEAVE_ONE_OUT
from rlif.config.recipe import Recipe
from rlif.engines.kept_rows import sampled_row, scored_row
from rlif.engines.trl.contract import compared_with, raised_by_library
from rlif.engines.trl.measuring.annotator import Annotator
from rlif.engines.trl.rewards import InternalReward
from rlif.engines.trl.trainer import GRPOTrainer, InternalFeedback, RLOOTrainer
from rlif.engines.trl.vllm import check_vllm, vllm_errors
from rlif.errors import MachineError, ModelError, RecipeError, first_line, lookup, nearest
from rlif.files.strict import takes_bool
from rlif.rewards.equivalence import load_equivalence
from rlif.rewards.mixing import recipe_mixer
from rlif.rewards.terms import recipe_terms
from rlif.runs.launcher_contract import SERVER_HOST
from rlif.sampling.limits import check_finite
from rlif.sampling.loading import check_whole, is_adapter, load_adapter, load_kwargs, model_path
from rlif.tasks import Task
from rlif.types import Problem

STRICT = ConfigDict(arbitrary_types_allowed=True, strict=True)
GRPO, RLOO = (GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)


def trainer_of(algorithm: str) -> tuple[Any, Any]:
    """Returns the trainer and the config that run an algorithm of `rlif.config.defaults.ALGORITHMS`."""
    return RLOO if algorithm in LEAVE_ONE_OUT else GRPO


def check_training(recipe: Recipe, processes: int) -> dict[str, Any]:
    """Returns the options for TRL's config, names and types checked, before any model is loaded."""
    options = check_options(recipe.resolved_training, trainer_of(recipe.algorithm)[1])
    options |= {"gradient_accumulation_steps": recipe.accumulation(processes)}
    check_vllm(recipe, options)
    if options.get("use_liger_kernel") and find_spec("liger_kernel") is None:
        raise MachineError("training.use_liger_kernel needs liger-kernel: pip install liger-kernel; or leave it out.")
    return options


def check_options(values: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Returns options of a recipe's `training` as one of TRL's configs takes them, names and types checked."""
    fields = {field.name for field in dataclasses.fields(config) if field.init}
    hints = typing.get_type_hints(config)
    pairs = {name for name, hint in hints.items() if any(get_origin(part) is tuple for part in (hint, *get_args(hint)))}
    options = {  # YAML has no tuples
        name: tuple(value) if name in pairs and isinstance(value, list) else value for name, value in values.items()
    }
    for name, value in options.items():
        if name not in fields:
            near = nearest(name, fields, f"trl.{config.__name__}")
            raise RecipeError(f"unknown key 'training.{name}': TRL has no such option; {near}")
        if isinstance(value, bool) and not takes_bool(hints[name]):
            raise RecipeError(f"training.{name} in the recipe: input should not be true or false, found {value}.")
        try:
            checked = TypeAdapter(hints[name], config=STRICT).validate_python(value)
            options[name] = checked if isinstance(checked, float) else value  # transformers takes no 2 for 2.0
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise RecipeError(f"training.{name} in the recipe: {reason}, found {value!r}.") from None
        except PydanticSchemaGenerationError:
            continue
        online = config in (GRPOConfig, RLOOConfig)
        if online and name in CHOICES and value is not None and (choices := compared_with(name)):
            lookup(dict.fromkeys(choices), str(value), f"training.{name}")
        least, most = BOUNDS.get(name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not least <= value <= most:
            limits = f"{least} or more" if most == math.inf else f"between {least} and {most}"
            raise RecipeError(f"training.{name} is {value}; it must be {limits}.")
    return options


def trainer_config(recipe: Recipe, options: dict[str, Any], output_dir: str) -> Any:
    """Builds TRL's config of a recipe, and what it leaves to a step; refuses what these refuse. Writes nothing."""
    options = {**options, "save_total_limit": None}  # `checkpointing.SealCheckpoints` deletes old ones
    if recipe.algorithm not in LEAVE_ONE_OUT:
        options["scale_rewards"] = "none"
    if server := os.environ.get(SERVER_HOST):
        options["vllm_server_host"] = server
    options = {"run_name": Path(output_dir).parent.name, "model_init_kwargs": load_kwargs(recipe), **options}
    return make_config(trainer_of(recipe.algorithm)[1], output_dir=output_dir, seed=recipe.seed, **options)


def make_config(config: Any, **options: Any) -> Any:
    """Builds one of TRL's configs, and what it leaves to a step; refuses what these refuse. Writes nothing."""
    with _refused("TRL"):
        args = config(disable_tqdm=True, **options)
    trackers = [name for name in args.report_to if name != "none"]
    with _refused("transformers"):
        _try_options(args)
        get_reporting_integration_callbacks(trackers)
    if missing := [name for name in trackers if name not in get_available_reporting_integrations()]:
        raise MachineError(f"training.report_to names {missing[0]}, which is not installed.")
    return args


def _try_options(args: Any) -> None:
    """Builds what a step builds: an optimiser and its schedule, workers, a checkpointed layer."""
    args.get_process_log_level()
    layer: Any = torch.nn.Linear(1, 1)
    if not args.optim_target_modules:  # these are a real model's
        optimiser, settings = Trainer.get_optimizer_cls_and_kwargs(args, layer)
        if "model" not in settings:
            optimiser = optimiser(layer.parameters(), **settings)
            kwargs: dict[str, Any] = {"scheduler_specific_kwargs": dict(args.lr_scheduler_kwargs or {})}
            get_scheduler(args.lr_scheduler_type, optimiser, args.get_warmup_steps(8), 8, **kwargs)
    DataLoader(
        [0],  # type: ignore[arg-type]
        num_workers=args.dataloader_num_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
    )
    if args.gradient_checkpointing:
        settings = {"use_reentrant": True, **(args.gradient_checkpointing_kwargs or {})}
        checkpoint(layer, torch.ones(1, 1, requires_grad=True), **settings)


@contextmanager
def _refused(library: str) -> Iterator[None]:
    """Says in a sentence what a library refuses of the training options. Only its own code may run within."""
    try:
        yield
    except Exception as error:  # libraries raise many types
        name = "" if isinstance(error, ValueError | RuntimeError | ImportError) else f"{type(error).__name__}: "
        raise RecipeError(f"{library} refuses these training options: {name}{first_line(error)}") from error


def build_trainer(
    recipe: Recipe,
    options: dict[str, Any],
    prompts: list[Any],
    tokenizer: Any,
    output_dir: str,
    task: Task | None = None,
    problems: Sequence[Problem] | None = None,
) -> InternalFeedback:
    """Builds a trainer for a recipe, its model loaded.

    Args:
        options: from `check_training`.
        prompts: conversations or texts. For a label-free recipe they are all the trainer's data set holds, so that no
            gold answer can reach the training path.
        output_dir: where checkpoints go; trackers name the run after the folder around it.
        problems: one for each prompt; only where the recipe asks for gold or columns.
    """
    trainer_class, _ = trainer_of(recipe.algorithm)
    check_whole(recipe)  # TRL says nothing of what is missing
    args = trainer_config(recipe, options, output_dir)
    reward, lora = build_reward(recipe, task, problems, prompts[0]), read_lora(recipe)
    rows = [{"prompt": prompt} | ({} if problems is None else {"problem": n}) for n, prompt in enumerate(prompts)]
    path = model_path(recipe)
    try:
        with vllm_errors(recipe, options):
            trainer = trainer_class(
                model=load_adapter(recipe, path, trained_on=True) if is_adapter(path) else path,
                args=args,
                reward_funcs=reward,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=tokenizer,
                peft_config=None if is_adapter(path) else lora,
                vllm_capture=recipe.vllm_capture,
            )
    except (OSError, ImportError, TypeError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if not raised_by_library(error):
            raise
        raise ModelError(f"cannot set up training of {recipe.model!r}: {first_line(error)}") from error
    trainer.token_update, trainer.mask_answer = recipe.token_update, recipe.mask_answer
    check_finite(recipe.model, trainer.model.named_parameters())
    trainer.remove_callback(PrinterCallback)
    return trainer


def build_reward(
    recipe: Recipe, task: Task | None, problems: Sequence[Problem] | None, prompt: Any = None, device: str | None = None
) -> InternalReward:
    """Builds the reward of a recipe, its models loaded; they must be able to read `prompt`, if it is given.

    Args:
        device: where its models go; by default the accelerator. With "meta" their files are checked and not read.
    """
    reward = InternalReward(
        recipe_terms(recipe, prompt, device),
        recipe_mixer(recipe),
        annotator=Annotator(recipe.annotator, recipe.annotator_decay, recipe.annotator_every, recipe.annotator_copy),
        task=task,
        problems=problems,
        cluster_texts=load_equivalence(recipe.equivalence, device) if recipe.equivalence else None,
        rewarded=recipe.rewarded_per_group,
        seed=recipe.seed,
    )
    reward.chat = recipe.chat_template
    return reward


def load_finished(trainer: InternalFeedback, checkpoint: Path) -> None:
    """Loads weights and step of a checkpoint that was taken at the end of a run, without training."""
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def read_lora(recipe: Recipe) -> Any:
    """Returns what peft makes of a recipe's `lora`, names checked; None without it."""
    if recipe.lora is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MachineError("a recipe with lora needs peft: pip install 'rlif[lora]'.") from error
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    for name in recipe.lora:
        if name not in known:
            near = nearest(name, known, "peft.LoraConfig")
            raise RecipeError(f"unknown key 'lora.{name}': peft has no such option; {near}")
    options: dict[str, Any] = {"task_type": "CAUSAL_LM", "revision": recipe.revision, **recipe.lora}
    try:
        lora = LoraConfig(**options)
        targets, saved = lora.target_modules or (), lora.modules_to_save or ()
        head = re.fullmatch(targets, "lm_head") if isinstance(targets, str) else "lm_head" in targets
        head = head or "lm_head" in saved
    except Exception as error:  # peft raises many types
        raise RecipeError(f"peft refuses the lora of the recipe: {first_line(error)}") from error
    if head:
        raise RecipeError("lora names lm_head, which TRL does not train; leave it out.")
    return lora


def check_lora(model: Any, lora: Any) -> None:
    """Refuses adapters that a model has no place for.

    Args:
        model: on "meta". So a start that is computed from its weights, as pissa's, is not tried.
    """
    from peft import get_peft_model

    of_weights = str(lora.init_lora_weights).startswith(("corda", "eva", "loftq", "lora_ga", "olora", "pissa"))
    try:
        get_peft_model(model, dataclasses.replace(lora, init_lora_weights=True) if of_weights else lora)
    except Exception as error:  # peft raises many types
        raise RecipeError(f"peft refuses the lora of the recipe: {first_line(error)}") from error


def completed_rows(trainer: InternalFeedback) -> list[dict[str, Any]]:
    """Returns every row of the latest rollout, as it was sampled; none once `scored_rows` has taken it."""
    return [sampled_row(row) for row in trainer.reward.scored]


def scored_rows(trainer: InternalFeedback, limit: int) -> list[dict[str, Any]]:
    """Takes the first rows of the latest rollout, with rewards and advantages; none if there was no new one."""
    rows = trainer.reward.scored[:limit]
    trainer.reward.scored = []
    return [scored_row(row, trainer.processing_class) for row in rows]
