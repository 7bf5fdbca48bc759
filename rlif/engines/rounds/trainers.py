"""Builds TRL's SFTTrainer or DPOTrainer of a round.

The data set is token ids: prompts as rlif renders them everywhere, completions as they were sampled. TRL would tokenise
texts, so that a completion could get other tokens, or an end that was never sampled.

    sft    {input_ids, labels}, labels -100 at the prompt; TRL skips its preparation
    dpo    {prompt_ids, chosen_ids, rejected_ids, chosen_value, rejected_value}; `PairTrainer` skips it
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from rlif import progress
from rlif.config.recipe import Recipe
from rlif.config.rounds import SAMPLING, Rounds, check_option_names, options_of
from rlif.config.steps import starts_unchanged
from rlif.engines.rounds.choices import CHOICES, LOSSES, SAMPLERS
from rlif.engines.rounds.examples import Example
from rlif.engines.trl.contract import check_trl, compared_with, raised_by_library
from rlif.engines.trl.setup import check_options, make_config, read_lora
from rlif.errors import MachineError, ModelError, RecipeError, first_line, lookup
from rlif.sampling.limits import check_finite
from rlif.sampling.loading import check_whole, is_adapter, load_adapter, load_kwargs, load_model, model_path

# Options of TRL's data sets. Rounds build theirs, so TRL would not read these, or would cut rows.
OF_DATA_SETS = (
    "assistant_only_loss", "chat_template_path", "completion_only_loss", "dataset_kwargs", "dataset_text_field",
    "eos_token", "eval_packing", "max_length", "packing", "padding_free", "truncation_mode",
)  # fmt: skip
OF_LOSSES = ("f_divergence_type", "label_smoothing", "ld_alpha", "loss_weights", "use_weighting")  # of TRL's own
PROBLEMS = (OSError, ImportError, TypeError, ValueError, KeyError, RuntimeError, SafetensorError)


class PairTrainer(DPOTrainer):
    """TRL's DPOTrainer over pairs that are token ids already."""

    method_options: Mapping[str, Any] = {}  # the recipe's `rounds.options` and defaults, for losses that read them

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def check_training(recipe: Recipe) -> dict[str, Any]:
    """Returns the options of training and sampling, names and types checked, before any model is loaded."""
    rounds = recipe.rounds
    assert rounds is not None
    if recipe.algorithm == "dpo":
        check_trl(PairTrainer)
    _check_parts(recipe, rounds)
    _check_data_options(recipe, rounds)
    training = recipe.resolved_training
    sampling = {key: value for key, value in training.items() if key in SAMPLING}
    # `Recipe.chat_template` reads chat_template_kwargs.
    given = {key: value for key, value in training.items() if key not in (*SAMPLING, "chat_template_kwargs")}
    options = check_options(given, SFTConfig if recipe.algorithm == "sft" else DPOConfig)
    if recipe.algorithm == "sft" and "loss_type" in given:
        lookup(dict.fromkeys(compared_with("loss_type", "SFTTrainer")), str(given["loss_type"]), "training.loss_type")
    for name, least in (("temperature", 0.0), ("top_p", 0.0)):
        value = sampling.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= least:
            raise RecipeError(f"training.{name} is {value!r}; it must be a number above {least:g}.")
    if options.get("use_liger_kernel") and find_spec("liger_kernel") is None:
        raise MachineError("training.use_liger_kernel needs liger-kernel: pip install liger-kernel; or leave it out.")
    return options | {"gradient_accumulation_steps": recipe.accumulation(1)} | sampling


def _check_parts(recipe: Recipe, rounds: Rounds) -> None:
    """Refuses names of parts that are not there, and parts that do not fit together."""
    sampler = lookup(SAMPLERS, rounds.sample, "rounds.sample")
    choice = lookup(CHOICES, rounds.choose, "rounds.choose")
    loss = LOSSES.get(rounds.loss)
    if recipe.algorithm not in choice.algorithms:
        raise RecipeError(
            f"rounds.choose {rounds.choose} is for algorithm {' and '.join(choice.algorithms)}, not {recipe.algorithm}."
        )
    if choice.sample not in (None, rounds.sample):
        raise RecipeError(
            f"rounds.choose {rounds.choose} does not read samples of {rounds.sample}; set rounds.sample to"
            f" {choice.sample}."
        )
    if rounds.choose not in (sampler.choices or CHOICES):
        raise RecipeError(
            f"rounds.choose {rounds.choose} does not read samples of {rounds.sample}; set rounds.choose to"
            f" {' or '.join(sampler.choices or ())}."
        )
    if recipe.algorithm == "dpo" and loss is None:
        lookup(dict.fromkeys([*LOSSES, *compared_with("loss_type", "DPOTrainer")]), rounds.loss, "rounds.loss")
    if loss is not None and not choice.valued:
        raise RecipeError(
            f"rounds.loss {rounds.loss} weighs a pair by its values, and {rounds.choose} answers have none; use"
            " sigmoid."
        )
    if rounds.options and not options_in(rounds):
        having = [name for table in (SAMPLERS, CHOICES, LOSSES) for name, part in table.items() if part.options]
        raise RecipeError(f"rounds.options are of methods that have any: {', '.join(sorted(having))}.")
    check_option_names(recipe, options_in(rounds))
    for part in (sampler, loss):
        if part is not None and part.check is not None:
            part.check(recipe)
    _check_group(recipe, rounds)


def _check_group(recipe: Recipe, rounds: Rounds) -> None:
    """Refuses groups that give no pair, or of which every sample would be kept."""
    group = SAMPLERS[rounds.sample].completions(recipe)
    if group == 1 and recipe.algorithm not in CHOICES[rounds.choose].alone and not rounds.rationalise:
        why = (
            "and a pair takes two completions of a problem"
            if recipe.algorithm == "dpo"
            else f"so rounds.choose {rounds.choose} would keep every sample"
        )
        raise RecipeError(f"rounds.samples is 1, {why}; raise it.")
    if rounds.keep > group:
        raise RecipeError(f"rounds.keep is {rounds.keep}, more than the {group} samples of a problem; lower it.")


def options_in(rounds: Rounds) -> dict[str, Any]:
    """Returns the options of all parts of a method, with their defaults."""
    parts = (SAMPLERS[rounds.sample], CHOICES[rounds.choose], LOSSES.get(rounds.loss))
    return {name: value for part in parts if part is not None for name, value in part.options.items()}


def _check_data_options(recipe: Recipe, rounds: Rounds) -> None:
    """Refuses options of TRL's that mean nothing in rounds."""
    training = recipe.training
    for name in OF_DATA_SETS:
        if training.get(name) not in (None, False):
            raise RecipeError(f"training.{name} is for a data set of TRL's, and rounds build theirs; leave it out.")
    if training.get("dataloader_drop_last"):
        raise RecipeError(
            "training.dataloader_drop_last leaves out examples, all of them where a round has fewer than a batch; leave"
            " it out."
        )
    if rounds.loss in LOSSES and (named := [name for name in OF_LOSSES if training.get(name) not in (None, False)]):
        raise RecipeError(f"training.{named[0]} changes a loss of TRL's, and {rounds.loss} is another; leave it out.")


def trainer_config(recipe: Recipe, options: Mapping[str, Any], output_dir: str, seed: int = 0) -> Any:
    """Builds TRL's config of a round."""
    rounds = recipe.rounds
    assert rounds is not None
    options = {key: value for key, value in options.items() if key not in SAMPLING}
    options |= {"output_dir": output_dir, "seed": seed, "save_total_limit": None, "report_to": "none"}
    if options.get("save_strategy") == "no":  # but for the last step, which becomes the model
        options |= {"save_strategy": "steps", "save_steps": 2**30}
    if recipe.algorithm == "sft":
        return make_config(SFTConfig, **options, dataset_kwargs={"skip_prepare_dataset": True}, **_init(recipe))
    if rounds.loss not in LOSSES:
        options["loss_type"] = [rounds.loss]
    return make_config(DPOConfig, **options, remove_unused_columns=True, **_init(recipe))


def _init(recipe: Recipe) -> dict[str, Any]:
    return {"model_init_kwargs": load_kwargs(recipe)}


@progress.task("loading the model")
def build_trainer(
    recipe: Recipe,
    options: Mapping[str, Any],
    examples: Sequence[Example],
    tokenizer: Any,
    output_dir: str,
    seed: int,
    weights: tuple[str | None, str | None],
) -> Any:
    """Builds the trainer of a round, its model loaded.

    Args:
        options: from `check_training`.
        output_dir: where checkpoints go.
        weights: folders of the model that training begins with, and of the reference; None for the recipe's model.
    """
    rounds = recipe.rounds
    assert rounds is not None
    start, reference = (recipe if folder is None else at(recipe, folder) for folder in weights)
    check_whole(start)
    args = trainer_config(recipe, options, output_dir, seed)
    path, rows = model_path(start), datasets.Dataset.from_list(rows_of(recipe, examples))
    try:
        adapter = is_adapter(path)
        given: dict[str, Any] = {
            "model": load_adapter(start, path, trained_on=True) if adapter else path,
            "args": args,
            "train_dataset": rows,
            "processing_class": tokenizer,
            "peft_config": None if adapter else read_lora(recipe),
        }
        if adapter:
            args.model_init_kwargs = None
        if recipe.algorithm == "sft":
            trainer: Any = SFTTrainer(**given)
        else:
            trainer_class = LOSSES[rounds.loss].trainer() if rounds.loss in LOSSES else PairTrainer
            trainer = trainer_class(ref_model=_reference(recipe, weights, reference, path), **given)
            trainer.method_options = options_of(recipe, options_in(rounds))
    except PROBLEMS as error:
        if not raised_by_library(error):
            raise
        raise ModelError(f"cannot set up training of {recipe.model!r}: {first_line(error)}") from error
    check_finite(recipe.model, trainer.model.named_parameters())
    trainer.remove_callback(PrinterCallback)
    return trainer


def _reference(recipe: Recipe, weights: tuple[str | None, str | None], reference: Recipe, path: str) -> Any:
    """Loads the reference model; None where TRL has it: as a copy of the adapter, or with a new one switched off."""
    if weights[0] == weights[1] and (is_adapter(path) or recipe.lora is not None) and starts_unchanged(recipe):
        return None
    model = load_model(reference)
    # TRL reads log-probabilities off the model inside, adapters and all.
    return model.get_base_model() if is_adapter(model_path(reference)) else model


def at(recipe: Recipe, folder: str | Path) -> Recipe:
    """Returns the recipe with the model of a folder, written by an earlier round."""
    return recipe.model_copy(update={"model": str(folder), "revision": None})


def rows_of(recipe: Recipe, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Returns the rows of TRL's data set."""
    if recipe.algorithm == "sft":
        return [
            {"input_ids": e.prompt_ids + e.chosen_ids, "labels": [-100] * len(e.prompt_ids) + e.chosen_ids}
            for e in examples
        ]
    return [
        {
            "prompt_ids": e.prompt_ids,
            "chosen_ids": e.chosen_ids,
            "rejected_ids": e.rejected_ids,
            "chosen_value": (e.values or (0.0, 0.0))[0],
            "rejected_value": (e.values or (0.0, 0.0))[1],
        }
        for e in examples
    ]


class RoundMetrics(TrainerCallback):
    """Adds what was measured of a round's samples to each logged step, and gives TRL's metrics names of their own.

    It must come before the guard and the recorder.

    Args:
        facts: of the round.
    """

    NAMES = {
        "rewards/margins": "margin",
        "rewards/accuracies": "preference_accuracy",
        "logps/chosen": "chosen_logprob",
        "logps/rejected": "rejected_logprob",
        "entropy": "trained_entropy",  # of the tokens trained on; `entropy` is that of sampling, and the guard reads it
    }

    def __init__(self, facts: Mapping[str, Any]):
        self.facts = dict(facts)
        self.began = self.seconds = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds = time.perf_counter() - self.began

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            logs.pop("num_tokens", None)  # TRL counts from 0 again after a resume
            named = {self.NAMES.get(name, name): value for name, value in logs.items()}
            logs.clear()
            logs.update(named | self.facts | {"step_seconds": self.seconds})
