"""The recipe: everything a run is, in one strict file. Class defaults are the paper's MATH setting.

A recipe that says only `reward: self_certainty` is Intuitor on MATH with Qwen2.5-3B (arXiv 2505.19590, Table 7; where
table and text disagree, KL weight 0.005, the text's). `training:` belongs to TRL: whatever `GRPOConfig` or `RLOOConfig`
knows goes there and is passed on as it stands; rlif sets only the values of `PAPER_TRAINING` that are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rlif.config.inheritance import lineage, merged
from rlif.config.schedule import Weight, read_weight
from rlif.errors import RlifError, nearest
from rlif.files.yaml import parse_yaml
from rlif.guard.limits import Guard

PAPER_TRAINING: dict[str, Any] = {
    "learning_rate": 3e-6,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,  # a share of all steps
    "num_train_epochs": 1,
    "num_generations": 7,
    "per_device_train_batch_size": 7,
    "max_completion_length": 3072,
    "temperature": 0.9,
    "beta": 0.005,
    "epsilon": 0.2,
    "loss_type": "grpo",  # 1/|o| within a completion, then the mean over completions
    "logging_steps": 1,
    "save_steps": 10,
    "save_total_limit": 3,
    "report_to": "none",
}
RLOO_HAS_NOT = ("loss_type",)

# The forms of the loss: what TRL's options become. In all of them the advantage is ours, see `rlif.rewards.mixing`.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {},  # the paper's, 1/|o| within a completion; training.loss_type may name another of TRL's
    "dr_grpo": {"loss_type": "dr_grpo"},  # over the limit of tokens, no deviation; arXiv 2503.20783
    "dapo": {"loss_type": "dapo"},  # over all tokens of the batch; arXiv 2503.14476
    "bnpo": {"loss_type": "bnpo"},  # over all tokens of a process's batch; the reference code's
    "gspo": {"importance_sampling_level": "sequence"},  # one ratio per completion; arXiv 2507.18071
    "rloo": {},  # TRL's RLOOTrainer: leave-one-out baseline, no deviation; arXiv 2402.14740
    "reinforce": {"normalize_advantages": True},  # the same, then all advantages of a batch to mean 0 and deviation 1
}
LEAVE_ONE_OUT = ("rloo", "reinforce")
UNSCALED = ("dr_grpo", *LEAVE_ONE_OUT)  # whose advantages are not divided by a deviation unless a recipe asks

REUSE = ("gradient_accumulation_steps", "steps_per_generation", "num_iterations")

# Set by rlif from its own keys; a second opinion in `training` would contradict them.
OURS = {
    "output_dir": "output and name",
    "generation_batch_size": "problems_per_update",
    "seed": "seed",
    "scale_rewards": "normalisation",
    "reward_weights": "reward",
    "multi_objective_aggregation": "reward",
    "model_init_kwargs": "model, revision and dtype",
    "trust_remote_code": "nothing: remote code never runs",
    "remove_unused_columns": "nothing: rlif builds the data set",
    "disable_tqdm": "nothing: rlif shows its own progress",
    "resume_from_checkpoint": "--resume",
    "save_only_model": "nothing: a checkpoint is there to go on from",
    "ignore_data_skip": "nothing: a resumed run goes on where it was in its data",
    "restore_callback_states_from_checkpoint": "nothing: what the guard and the rewards remember comes back by itself",
    # A recipe writes into its run folder and nowhere else; what it made is uploaded by whoever wants it uploaded.
    "push_to_hub": "`hf upload` with the model folder of the run",
    "log_completions_hub_repo": "`hf upload` with completions/ of the run",
    "trackio_space_id": "`hf upload` with metrics.jsonl of the run",
    "trackio_static_space_id": "`hf upload` with metrics.jsonl of the run",
    "trackio_bucket_id": "`hf upload` with metrics.jsonl of the run",
    "hub_token": "HF_TOKEN in the environment: recipes are kept with the run",
}


Algorithm = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "rloo", "reinforce"]
Normalisation = Literal["group_std", "group_std_floor", "batch_std", "none"]
Mixing = Literal["normalised", "sum"]
Annotator = Literal["online", "offline", "ema", "lagged"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Evaluation(Strict):
    """Held-out accuracy, looked at and never trained on: before, after, and now and then between."""

    tasks: list[str] = []
    """Names of tasks; empty for none."""
    sources: dict[str, str] = {}
    """Where a task is read from, by task name; its own home otherwise."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many problems of each."""
    every: int | None = Field(default=None, ge=1)
    """Also after every so many steps."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts per call of generate."""


class Meaning(Strict):
    """The model that tells whether two texts mean the same. Exactly one of the first two."""

    embedding: str | None = None
    """A sentence-transformers model, by hub name or folder: close embeddings mean the same."""
    entailment: str | None = None
    """A sequence classifier with a label `entailment`: texts that entail each other mean the same."""
    threshold: float = Field(default=0.9, gt=0, le=1)
    """Of the embeddings' cosine; ours, to be chosen for the model."""

    @model_validator(mode="after")
    def _one(self) -> Meaning:
        if (self.embedding is None) == (self.entailment is None):
            raise ValueError("meaning needs one model: {embedding: NAME} or {entailment: NAME}")
        return self


class Recipe(Strict):
    """One run."""

    description: str = ""
    """One line for `rlif recipes`."""
    model: str = "Qwen/Qwen2.5-3B"
    """A hub name, a local folder, or `tiny-reasoner`, the model that ships with rlif."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Of the weights. With training.bf16 float32 weights compute in bfloat16; bfloat16 weights lose most updates of
    3e-6 to rounding, so keep them for adapters."""
    allow_pickle: bool = False
    """Load pickled weights, which can run code, where a model has no safetensors."""
    lora: dict[str, Any] | None = None
    """Train adapters only; passed to peft's LoraConfig as it stands."""

    task: str = "math"
    """Where the problems come from: a name of `rlif.TASKS`; `prompts` reads any file of prompts."""
    source: str | None = None
    """A local file or folder, or a hub name, instead of the task's own home."""
    split: str = "train"
    """Which part of the source."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many problems."""
    prompt: str | dict[str, str] | None = None
    """A template of `rlif.tasks.prompts`, or {system: ..., user: ...} spelled out; the task's own if left out."""
    chat: bool = True
    """Render prompts by the tokenizer's chat template; false for models that have none."""
    max_prompt_tokens: int = Field(default=512, ge=1)
    """Problems with longer prompts are left out, and counted."""

    algorithm: Algorithm = "grpo"
    """The form of the loss, and with rloo and reinforce the engine's trainer; see `ALGORITHMS`."""
    reward: str | dict[str, Any] = "self_certainty"
    """A signal or a grader, see `rlif.rewards.terms`; or several with their weights, {self_certainty: 1.0, accuracy:
    0}. A weight is a number or a schedule, see `rlif.config.schedule`; 0 only watches."""
    reward_seconds: float = Field(default=600, gt=0)
    """What each of them may take for one batch before the run ends, at a checkpoint."""
    mixing: Mixing = "normalised"
    """How several rewards become one, see `rlif.rewards.mixing`: each scaled first, or the plain sum."""
    annotator: Annotator = "online"
    """Whose confidence: the policy's, as it is now; that of the frozen start; of an average that follows (ema); of a
    copy taken now and then (lagged)."""
    annotator_decay: float = Field(default=0.99, gt=0, lt=1)
    """ema: what is kept of the average at each step; ours."""
    annotator_every: int = Field(default=10, ge=1)
    """lagged: steps between copies; ours."""
    annotator_copy: bool = False
    """offline: may keep a copy of the start, where neither a reference model nor adapters hold it already."""
    confidence_window: int = Field(default=2048, ge=1)
    """Tokens in a window of group_confidence_tail, _lowest and _bottom (DeepConf's 2048); for completions that are no
    longer, all of these are group_confidence."""
    vllm_capture: bool = False
    """Read self-certainty inside vLLM, off the logits that tokens are sampled from, where it would cost a pass of its
    own: with training.use_vllm, colocated, and training.vllm_importance_sampling_correction off."""
    meaning: Meaning | None = None
    """What decides whether two texts mean the same; for the reward semantic_entropy."""
    rewarded_per_group: int | None = Field(default=None, ge=2)
    """Of each group only the first so many are rewarded, the rest just vote (TTRL: 64 votes, 32 rewarded)."""
    normalisation: Normalisation | None = None
    """How rewards are scaled within a group, see `rlif.rewards.mixing`; if left out, none for dr_grpo, rloo and
    reinforce, group_std for the others."""
    spread_floor: float = Field(default=0.4, gt=0)
    """group_std_floor: the least standard deviation, as a share of the spread at the start of the run."""
    problems_per_update: int = Field(default=128, ge=1)
    """Groups per optimiser step, over all processes; sets TRL's gradient_accumulation_steps."""

    seed: int = Field(default=0, ge=0)
    """Of data order, sampling and initialisation."""
    name: str | None = None
    """Of the run folder; the recipe's name, numbered if taken, when left out."""
    output: str = "runs"
    """Where run folders go."""
    evaluate: Evaluation = Evaluation()
    """What to look at along the way."""
    guard: Guard = Guard()
    """Label-free alarms and what they do: policy log, stop or rollback."""
    keep_completions: int = Field(default=64, ge=0)
    """Completions of each rollout that are written to the run folder."""
    training: dict[str, Any] = {}
    """TRL's own options."""

    @field_validator("training", "lora", "evaluate", "guard", mode="before")
    @classmethod
    def _empty(cls, value: Any, info: ValidationInfo) -> Any:
        return {} if value is None and info.field_name != "lora" else value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"{name!r} is no folder name: use letters, digits, '.', '_' and '-'")
        return name

    @field_validator("reward")
    @classmethod
    def _readable_weights(cls, reward: str | dict[str, Any]) -> str | dict[str, Any]:
        weights = {name: read_weight(name, value) for name, value in reward.items()} if isinstance(reward, dict) else {}
        if isinstance(reward, dict) and not any(weight.ever for weight in weights.values()):
            raise ValueError(
                f"no reward has a weight: {reward!r} would train on nothing; give one a weight other than 0"
            )
        return reward

    @model_validator(mode="after")
    def _one_opinion(self) -> Recipe:
        for key, ours in OURS.items():
            if key in self.training:
                raise ValueError(f"training.{key} is set by rlif; use {ours} instead")
        if (when := self.training.get("save_strategy", "steps")) not in ("steps", "no"):
            raise ValueError(
                f"training.save_strategy is {when!r}, but a checkpoint lies between two rollouts and is judged with its"
                " step; use steps, with training.save_steps, or no"
            )
        for key, value in ALGORITHMS[self.algorithm].items():
            if self.training.get(key, value) != value:
                raise ValueError(
                    f"training.{key} is {self.training[key]!r}, but algorithm {self.algorithm} means {value!r}; leave"
                    " one of the two out"
                )
        if self.annotator == "offline" and self.training.get("sync_ref_model"):
            raise ValueError(
                "annotator offline is the frozen start, but training.sync_ref_model moves it; leave one of the two out"
            )
        if self.guard.policy == "rollback" and not self.resolved_training["beta"]:
            raise ValueError(
                "guard.policy rollback goes on with a larger training.beta, which is 0; give it a value, or use stop"
            )
        return self

    @property
    def weights(self) -> dict[str, Weight]:
        """The rewards by name, each with its weight."""
        reward = {self.reward: 1.0} if isinstance(self.reward, str) else self.reward
        return {name: read_weight(name, value) for name, value in reward.items()}

    @property
    def resolved_normalisation(self) -> Normalisation:
        return self.normalisation or ("none" if self.algorithm in UNSCALED else "group_std")

    @property
    def chat_template(self) -> bool | dict[str, Any]:
        """Whether prompts go through the chat template, with the arguments that the recipe gives it."""
        return self.chat and (self.training.get("chat_template_kwargs") or True)

    @property
    def resolved_training(self) -> dict[str, Any]:
        """TRL's options with the paper's values, and those of the algorithm, where the recipe says nothing."""
        skip = RLOO_HAS_NOT if self.algorithm in LEAVE_ONE_OUT else ()
        paper = {key: value for key, value in PAPER_TRAINING.items() if key not in skip}
        return paper | ALGORITHMS[self.algorithm] | self.training

    def accumulation(self, processes: int) -> int:
        """TRL's gradient_accumulation_steps, so that one update sees `problems_per_update` whole groups.

        Raises:
            RlifError: a group of one, or a batch that does not divide.
        """
        training = self.resolved_training
        for name in ("num_generations", "per_device_train_batch_size", *REUSE):
            value = training.get(name, 1)
            if not isinstance(value, int) or value < 1:
                raise RlifError(f"training.{name} is {value!r}; it must be a whole number from 1.")
        group = training["num_generations"]
        if group < 2:
            raise RlifError(
                f"training.num_generations is {group}, but a completion is compared with the others of its group, so"
                " its advantage would always be zero; use 4 or more."
            )
        rows = self.problems_per_update * group
        share = training["per_device_train_batch_size"] * processes
        if rows % share:
            raise RlifError(
                f"problems_per_update ({self.problems_per_update}) x training.num_generations ({group}) ="
                f" {rows} completions do not divide into batches of {share}"
                f" (training.per_device_train_batch_size x {processes} processes); change one of the three."
            )
        steps = training.get("gradient_accumulation_steps", rows // share)
        if steps != rows // share:
            raise RlifError(
                f"training.gradient_accumulation_steps is {steps}, but problems_per_update asks for {rows // share};"
                " leave one of the two out."
            )
        if (share * training.get("steps_per_generation", steps)) % group:
            raise RlifError(
                f"a generation batch of {share * training['steps_per_generation']} completions does not divide into"
                f" groups of {group}; change training.steps_per_generation or training.num_generations."
            )
        return steps


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("rlif"))) / "recipes"
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"), key=lambda p: p.stem)}


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and checks it, with `key=value` overrides; dots reach inside: `training.learning_rate=1e-4`.

    Args:
        recipe: name of a recipe that ships, or a path to a YAML file.
        overrides: values are read as YAML.

    Raises:
        RlifError: no such recipe, unreadable YAML, an unknown key, a wrong type, keys that contradict each other.

    Example:
        >>> rlif.load_recipe("demo", ["seed=1"]).seed
        1
    """
    values = merged(lineage(find_recipe(recipe), shipped_recipes()))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key.split() != [key]:
            raise RlifError(f"cannot read {override!r}; overrides look like key=value.")
        target = values
        *parents, last = key.split(".")
        for parent in parents:
            if target.get(parent) is None:
                target[parent] = {}
            target = target[parent]
            if not isinstance(target, dict):
                raise RlifError(f"cannot set {key!r}: {parent!r} is a single value.")
        target[last] = parse_yaml(value, f"the value of {key}")
    return check_recipe(values)


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by the name of one that ships."""
    if Path(recipe).is_file():
        return Path(recipe)
    shipped = shipped_recipes()
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    raise RlifError(f"no recipe file and no shipped recipe {str(recipe)!r}; {nearest(str(recipe), shipped)}")


def folder_name(stem: str) -> str:
    """A name for a run folder, from that of a recipe file."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-") or "run"


def check_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, with errors of one sentence."""
    try:
        return Recipe.model_validate(values)
    except UnicodeEncodeError as error:
        found = error.object[error.start : error.end]
        raise RlifError(f"the recipe holds {found!r}, which is no text; write the characters themselves.") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            owner = {"evaluate": Evaluation, "guard": Guard, "meaning": Meaning}.get(str(first["loc"][0]), Recipe)
            hint = nearest(str(first["loc"][-1]), owner.model_fields)
            raise RlifError(f"unknown key {key!r} in the recipe; {hint}") from None
        if first["type"] == "value_error":
            raise RlifError(f"{first['msg'].removeprefix('Value error, ')}.") from None
        found = repr(first["input"])
        raise RlifError(f"{key} in the recipe: {first['msg'].lower()}, found {found[:80]}.") from None
