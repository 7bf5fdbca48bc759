"""The keys `rounds` and `online` of a recipe: training in rounds, and online training after them.

A round samples completions, measures them, chooses some and trains on these with TRL's SFTTrainer or DPOTrainer:

    algorithm: dpo
    reward: self_certainty
    rounds: {number: 3, samples: 8, choose: surest, against: worst, reference: last}

Every other key of a recipe means the same as for an online run. `rlif.engines.rounds` has the tables of names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rlif.config.defaults import ROUNDS
from rlif.errors import RecipeError, nearest
from rlif.files.strict import Strict

if TYPE_CHECKING:
    from rlif.config.recipe import Recipe

SAMPLING = ("num_generations", "max_completion_length", "temperature", "top_p")  # TRL's names, here options of ours
# Options of `training` that online training after rounds takes over, unless `online.training` has its own.
SHARED = (
    *SAMPLING, "bf16", "fp16", "tf32", "use_cpu", "gradient_checkpointing", "gradient_checkpointing_kwargs", "optim",
    "log_level", "chat_template_kwargs", "save_steps", "save_strategy", "save_total_limit", "logging_steps",
)  # fmt: skip
# Keys of a recipe that only online training reads, and their values where they are left out.
ONLINE_KEYS = {
    "order": "shuffled", "annotator": "online", "annotator_copy": False, "vllm_capture": False,
    "rewarded_per_group": None, "token_update": None, "mask_answer": False,
}  # fmt: skip

# Keys that the guard's remedies name and rounds do not read.
UNREAD = {"dpo": ("annotator", "normalisation"), "sft": ("annotator", "normalisation", "training.beta")}
READ_GOLD = ("gold", "given")  # choices that read gold answers or given solutions
# What chooses samples, where it is not the recipe's reward as with surest.
CHOSEN_BY = {
    "borda": "Borda vote by self-certainty",
    "plurality": "plurality vote",
    "gold": "gold answers",
    "judge": "its own judgements",
    "given": "given answers",
    "soft": "foresight",
    "verified": "outputs of programs",
}


class Rounds(Strict):
    """Says how a round samples, chooses and trains."""

    number: int = Field(default=1, ge=1)
    """Rounds."""
    problems: int | None = Field(default=None, ge=1)
    """Problems of each round, the next ones of a shuffled pass; all if left out."""
    samples: int | None = Field(default=None, ge=1)
    """Completions of each problem; the same as training.num_generations."""
    sample: str = "whole"
    """How they are drawn, a name of `SAMPLERS`: whole completions, foresight (Genius), deduction (Absolute Zero)."""
    choose: str = "surest"
    """What is kept or preferred, a name of `CHOICES`: surest, borda, plurality, gold, judge, given, soft, verified."""
    against: Literal["worst", "random"] = "worst"
    """dpo: what the chosen completion is preferred to, the worst of its group or a random other."""
    keep: int = Field(default=1, ge=1)
    """sft: at most this many different completions of a problem."""
    restart: Literal["base", "last"] = "last"
    """The weights that training begins with in each round: those of the start, or of the round before."""
    reference: Literal["base", "last"] | None = None
    """dpo: the reference model, that of the start, or of the round before."""
    loss: str = "sigmoid"
    """dpo: a loss_type of TRL's, or calibrated (Genius)."""
    rationalise: bool = False
    """Where no sample is right, sample again with the gold answer in the prompt, and train without it (STaR)."""
    mix: bool = False
    """Add the data of the round before (SPIN)."""
    batch_size: int = Field(default=64, ge=1)
    """Completions that are sampled or scored at once."""
    options: dict[str, Any] = {}
    """Numbers of the method's own."""


class Online(Strict):
    """Says how the run goes on online, on the same problems, after rounds."""

    after: Literal["last", "each"] = "last"
    """After the last round, or after each of them."""
    algorithm: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "rloo", "reinforce"] = "grpo"
    """As the recipe's."""
    reward: str | dict[str, Any] | None = None
    """As the recipe's, which is taken if this is left out."""
    normalisation: str | None = None
    """As the recipe's."""
    problems_per_update: int = Field(default=128, ge=1)
    """As the recipe's."""
    training: dict[str, Any] = {}
    """TRL's options; those of sampling and of the machine are the recipe's where they are left out."""


def in_rounds(recipe: Recipe) -> bool:
    """Tells whether a recipe trains in rounds."""
    return recipe.algorithm in ROUNDS


def rounds_read_gold(recipe: Recipe) -> bool:
    """Tells whether rounds choose by gold answers, or by given solutions."""
    return recipe.rounds is not None and recipe.rounds.choose in READ_GOLD


def feedback_of(recipe: Recipe) -> list[str]:
    """Names what a run learns from: in rounds what chooses samples, and the rewards of online training."""
    found: list[str] = []
    for each in recipes_of(recipe):
        rewards = [name for name, weight in each.weights.items() if weight.ever]
        chosen = chosen_by({"rounds": each.rounds and {"choose": each.rounds.choose}})
        found += rewards if chosen is None else [chosen]
    return list(dict.fromkeys(found))


def chosen_by(written: Mapping[str, Any]) -> str | None:
    """Names what chooses samples, of a recipe as a run folder keeps it; None where its reward does."""
    choose = (written.get("rounds") or {}).get("choose", "surest")
    return None if choose == "surest" else CHOSEN_BY.get(choose, choose)


def recipes_of(recipe: Recipe) -> list[Recipe]:
    """Returns the recipe, and that of online training after rounds: all whose rewards a run computes."""
    online = online_recipe(recipe)
    return [recipe] if online is None else [recipe, online]


def check_rounds(recipe: Recipe) -> None:
    """Refuses keys that contradict each other, or that mean nothing for the algorithm.

    Raises:
        ValueError: pydantic makes a `RecipeError` of it.
    """
    rounds, training = recipe.rounds, recipe.training
    if not in_rounds(recipe):
        if named := [name for name in ("rounds", "online") if getattr(recipe, name) is not None]:
            raise ValueError(f"{named[0]} is for algorithm {' or '.join(ROUNDS)}, not {recipe.algorithm}; leave it out")
        return
    if rounds is None:
        raise ValueError(
            f"algorithm {recipe.algorithm} trains in rounds; say how they choose, as in rounds: {{choose: surest}}"
        )
    for key, off in ONLINE_KEYS.items():
        if getattr(recipe, key) != off:
            raise ValueError(f"{key} is for online training, not for algorithm {recipe.algorithm}; leave it out")
    if recipe.guard.policy == "rollback":
        raise ValueError("guard.policy rollback is for online training; use stop or log with rounds")
    if rounds.samples is not None and training.get("num_generations", rounds.samples) != rounds.samples:
        raise ValueError(
            f"rounds.samples is {rounds.samples} and training.num_generations {training['num_generations']}, which mean"
            " the same; leave one of the two out"
        )
    if any(weight.scheduled for weight in recipe.weights.values()):
        raise ValueError("a reward has a schedule, which counts steps of online training; with rounds give a number")
    if "loss_type" in training and recipe.algorithm == "dpo":
        raise ValueError("training.loss_type is set by rounds.loss; use that")
    if training.get("report_to") not in (None, "none", []):
        raise ValueError("training.report_to is for online training; metrics.jsonl of the run has all numbers")
    if training.get("use_vllm"):
        raise ValueError("training.use_vllm is for online training; rounds sample by transformers; leave it out")
    for key, wanted in (("reference", "dpo"), ("loss", "dpo"), ("against", "dpo"), ("keep", "sft")):
        if recipe.algorithm != wanted and getattr(rounds, key) != Rounds.model_fields[key].default:
            raise ValueError(f"rounds.{key} is for algorithm {wanted}, not {recipe.algorithm}; leave it out")
    if rounds.choose == "given" and rounds.against != "worst":
        raise ValueError("rounds.against means nothing for choose: given, which takes every sample; leave it out")
    if rounds.rationalise and rounds.choose != "gold":
        raise ValueError(
            f"rounds.rationalise adds right answers for choose: gold, not for choose: {rounds.choose}; leave it out"
        )
    if recipe.algorithm == "dpo" and rounds.reference is None:
        raise ValueError(
            "algorithm dpo compares the policy with a reference model; set rounds.reference to base, the model of the"
            " start, or last, that of the round before"
        )


def training_of(recipe: Recipe, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of training in rounds, with defaults where the recipe says nothing; sampling included."""
    samples = recipe.rounds.samples if recipe.rounds is not None else None
    return {**defaults, **({} if samples is None else {"num_generations": samples}), **recipe.training}


def accumulation_in_rounds(recipe: Recipe, training: Mapping[str, Any], processes: int) -> int:
    """Returns TRL's gradient_accumulation_steps, so that one update sees `problems_per_update` rows."""
    if processes > 1:
        raise RecipeError(f"algorithm {recipe.algorithm} trains in rounds, which run in one process, not {processes}.")
    share = training["per_device_train_batch_size"]
    steps, rest = divmod(recipe.problems_per_update, share)
    if rest:
        raise RecipeError(
            f"problems_per_update ({recipe.problems_per_update}) does not divide into batches of"
            f" training.per_device_train_batch_size ({share}); change one of the two."
        )
    if training.get("gradient_accumulation_steps", steps) != steps:
        raise RecipeError(
            f"training.gradient_accumulation_steps is {training['gradient_accumulation_steps']}, but"
            f" problems_per_update asks for {steps}; leave one of the two out."
        )
    return steps


def online_recipe(recipe: Recipe) -> Recipe | None:
    """Returns the recipe of online training after rounds; None where there is none."""
    online = recipe.online
    if online is None:
        return None
    shared = {key: recipe.resolved_training[key] for key in SHARED if key in recipe.resolved_training}
    changes = {
        "algorithm": online.algorithm,
        "reward": recipe.reward if online.reward is None else online.reward,
        "normalisation": online.normalisation,
        "problems_per_update": online.problems_per_update,
        "training": shared | online.training,
        "rounds": None,
        "online": None,
    }
    return type(recipe).model_validate(recipe.model_dump() | changes)


def check_option_names(recipe: Recipe, defaults: Mapping[str, Any]) -> None:
    """Refuses names in `rounds.options` that no part of the method has.

    Args:
        defaults: the options of all its parts.
    """
    for name in recipe.rounds.options if recipe.rounds is not None else {}:
        if name not in defaults:
            raise RecipeError(f"unknown key 'rounds.options.{name}'; {nearest(name, defaults)}")


def options_of(recipe: Recipe, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of one part of a method, `rounds.options` over their defaults; an int may stand for a float.

    Raises:
        RecipeError: a value of another type than the default's.
    """
    given = {} if recipe.rounds is None else {k: v for k, v in recipe.rounds.options.items() if k in defaults}
    for name, value in given.items():
        wanted = type(defaults[name])
        fits = isinstance(value, int) if wanted is float else isinstance(value, wanted)
        if not (fits or isinstance(value, wanted)) or (isinstance(value, bool) and wanted is not bool):
            raise RecipeError(f"rounds.options.{name} is {value!r}; expected {wanted.__name__}.")
    return {**defaults, **{name: type(defaults[name])(value) for name, value in given.items()}}
