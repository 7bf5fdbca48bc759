"""Describes a run in one strict set of keys, the recipe. Class defaults are the paper's MATH setting.

A recipe that says only `reward: self_certainty` is Intuitor on MATH with Qwen2.5-3B (arXiv 2505.19590, Table 7; where
table and text disagree, KL weight 0.005, the text's). `training:` belongs to TRL: whatever `GRPOConfig` or `RLOOConfig`
knows goes there and is passed on as it stands. rlif sets only those of `rlif.config.defaults` that are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rlif.config.defaults import (
    ALGORITHMS,
    LEAVE_ONE_OUT,
    ONLY_ON,
    PAPER_TRAINING,
    PER_TOKEN,
    REUSE,
    RLOO_HAS_NOT,
    ROUNDS_TRAINING,
    UNSCALED,
    set_by_rlif,
)
from rlif.config.inheritance import with_new_names
from rlif.config.rounds import Online, Rounds, accumulation_in_rounds, check_rounds, in_rounds, training_of
from rlif.config.schedule import ALWAYS, Rows, Weight, read_rows, read_weight
from rlif.config.token_update import TokenUpdate, check_by_token
from rlif.errors import RecipeError
from rlif.files.atomic import is_count
from rlif.files.strict import Strict
from rlif.guard.limits import Guard
from rlif.tasks.chat_template import Chat

Algorithm = Literal[
    "grpo", "dr_grpo", "dapo", "bnpo", "gspo", "rloo", "reinforce", "reinforce_plus_plus", "ppo", "sft", "dpo"
]
Engine = Literal["trl", "verl"]
OF_BATCH = "batch_deviation"
Normalisation = Literal["group_std", "group_std_floor", "batch_std", "batch_deviation", "group_rank", "none"]
Mixing = Literal["normalised", "sum"]
Order = Literal["shuffled", "labelled_first", "unlabelled_first"]
Annotator = Literal["online", "offline", "ema", "lagged"]


class Evaluation(Strict):
    """Measures held-out accuracy before, after and, where asked, during training."""

    tasks: list[str] = []
    """Names of tasks; empty for none."""
    sources: dict[str, str] = {}
    """Where a task is read from, by task name; by default its own source."""
    columns: dict[str, dict[str, str]] = {}
    """Which column of that holds what, by task name, as the recipe's `columns`."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many problems of each."""
    every: int | None = Field(default=None, ge=1)
    """Also after every so many steps."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts per call of generate."""


class Equivalence(Strict):
    """The model that tells whether two texts mean the same. Exactly one of the first two."""

    embedding: str | None = None
    """A sentence-transformers model, by hub name or folder: close embeddings mean the same."""
    entailment: str | None = None
    """A sequence classifier with a label `entailment`: texts that entail each other mean the same."""
    threshold: float = Field(default=0.9, gt=0, le=1)
    """Of the embeddings' cosine; ours, to be chosen for the model."""

    @model_validator(mode="after")
    def _one(self) -> Equivalence:
        if (self.embedding is None) == (self.entailment is None):
            raise ValueError("equivalence needs one model: {embedding: NAME} or {entailment: NAME}")
        return self


class Recipe(Strict):
    """One run."""

    description: str = ""
    """One line for `rlif recipes`."""
    model: str = "Qwen/Qwen2.5-3B"
    """A hub name, a local folder, `tiny-reasoner` or another model that ships, or `smollm2-135m`, see
    `rlif.sampling.sources`."""
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
    """A local file or folder, or a hub name, instead of the task's own source."""
    columns: dict[str, str] = {}
    """Which column of the source holds prompt, gold, solution and id, where it is not the task's own, see
    `rlif.tasks.rows`: {prompt: frage, gold: antwort}."""
    split: str = "train"
    """The part of the source that is read."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many problems."""
    prompt: str | dict[str, str] | None = None
    """A template of `rlif.tasks.prompts`, or {system: ..., user: ...} spelled out; the task's own if left out."""
    chat: bool = True
    """Render prompts by the tokenizer's chat template; false for models that have none."""
    merge_system: bool = False
    """Put the system message at the head of the user's, for chat templates that take none (Gemma)."""
    max_prompt_tokens: int = Field(default=512, ge=1)
    """Problems with longer prompts are left out, and counted."""

    engine: Engine = "trl"
    """What trains: TRL on one machine or several, or verl on Ray (docs/verl.md), in an environment of its own."""
    algorithm: Algorithm = "grpo"
    """The form of the loss, and with rloo and reinforce the engine's trainer; see `ALGORITHMS`. sft and dpo train in
    rounds."""
    rounds: Rounds | None = None
    """How sft and dpo sample and choose in each round."""
    online: Online | None = None
    """Online training after rounds, in the same run."""
    reward: str | dict[str, Any] = "self_certainty"
    """A signal or a grader, see `rlif.rewards.terms`; or several with their weights, {self_certainty: 1.0, accuracy:
    0}. A weight is a number or a schedule, see `rlif.config.schedule`; 0 only logs. {weight: 1.0, rows: labelled} is
    for the problems with a gold answer alone, `unlabelled` for the others."""
    labels: int | None = Field(default=None, ge=1)
    """At most this many problems count as labelled, chosen by the seed; rewards never see the other gold answers."""
    order: Order = "shuffled"
    """How problems follow each other in an epoch: shuffled, or in two stages, each shuffled once."""
    token_reward: Literal["terminal", "spread"] = "terminal"
    """ppo: where the reward is given. terminal gives all of it at the last token. spread gives each of the |o| tokens
    u_t / |o|, with u_t the signal at that token; the sum is the same."""
    reward_seconds: float = Field(default=600, gt=0)
    """Seconds that each reward may take for one batch; beyond it the run stops at a checkpoint."""
    mixing: Mixing = "normalised"
    """How several rewards become one, see `rlif.rewards.mixing`: each scaled first, or the plain sum."""
    annotator: Annotator = "online"
    """Which model's confidence: the current policy (online), the frozen start (offline), a moving average (ema), or a
    copy renewed every few steps (lagged)."""
    annotator_decay: float = Field(default=0.99, gt=0, lt=1)
    """ema: the share of the average that stays at each step; our choice."""
    annotator_every: int = Field(default=10, ge=1)
    """lagged: steps between copies; our choice."""
    annotator_copy: bool = False
    """offline: allows a copy of the start, where neither a reference model nor adapters hold it."""
    confidence_window: int = Field(default=2048, ge=1)
    """Tokens in a window of tail_confidence, lowest_window_confidence and bottom_window_confidence (DeepConf's 2048);
    for shorter completions each of these equals mean_token_confidence."""
    vllm_capture: bool = False
    """Read self-certainty inside vLLM, off the logits that tokens are sampled from, where it would cost a pass of its
    own: with training.use_vllm, colocated, and training.vllm_importance_sampling_correction off."""
    equivalence: Equivalence | None = None
    """The model that decides whether two texts mean the same; for the reward semantic_entropy."""
    rewarded_per_group: int | None = Field(default=None, ge=2)
    """Completions of each group that are rewarded; the others only vote (TTRL: 64 votes, 32 rewarded)."""
    normalisation: Normalisation | None = None
    """How rewards are scaled within a group, see `rlif.rewards.mixing`; if left out, none for dr_grpo, ppo, rloo and
    reinforce, batch_deviation for reinforce_plus_plus, group_std for the others."""
    spread_floor: float = Field(default=0.4, gt=0)
    """group_std_floor: the least standard deviation, as a share of the spread at the start of the run."""
    token_update: TokenUpdate | None = None
    """Weakens the update of a few tokens: kl_cov, clip_cov, or {kind: kl_cov, share: 0.002}."""
    mask_answer: bool = False
    """No policy gradient for the tokens of the answer, as in arXiv 2608.03119; the KL term stays."""
    problems_per_update: int = Field(default=128, ge=1)
    """Groups per optimiser step, over all processes; sets TRL's gradient_accumulation_steps. In rounds: completions or
    pairs that are trained on."""

    seed: int = Field(default=0, ge=0)
    """Seeds data order, sampling and initialisation."""
    name: str | None = None
    """The run folder's name; by default the recipe's, with a number if taken."""
    output: str = "runs"
    """Where run folders go."""
    evaluate: Evaluation = Evaluation()
    """What is evaluated along the way."""
    guard: Guard = Guard()
    """Label-free alarms, and what follows from one: log, stop or rollback."""
    check_memory: bool = True
    """Refuse a run that cannot fit on this machine, before its model is loaded; see `rlif.launching.fit`."""
    keep_completions: int = Field(default=64, ge=0)
    """Completions of each rollout that are written to the run folder."""
    training: dict[str, Any] = {}
    """TRL's own options. With engine verl they are translated, see `rlif.engines.verl.options`."""
    verl: dict[str, Any] = {}
    """verl's own options, by their full names: {critic.optim.lr: 1e-5}; with engine verl."""

    @model_validator(mode="before")
    @classmethod
    def _new_names(cls, values: Any) -> Any:
        return with_new_names(values) if isinstance(values, Mapping) else values

    @field_validator("token_reward", mode="before")
    @classmethod
    def _not_for_length(cls, value: Any) -> Any:
        if value == "sum":
            raise ValueError(
                "token_reward sum would pay for length: each token adds its own reward; use spread, which divides them"
                " by the number of tokens, or terminal"
            )
        return value

    @field_validator("training", "lora", "evaluate", "guard", "verl", mode="before")
    @classmethod
    def _empty(cls, value: Any, info: ValidationInfo) -> Any:
        return {} if value is None and info.field_name != "lora" else value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"{name!r} is not a folder name: use letters, digits, '.', '_' and '-'")
        return name

    @field_validator("reward")
    @classmethod
    def _readable_weights(cls, reward: str | dict[str, Any]) -> str | dict[str, Any]:
        weights = [ALWAYS]
        if isinstance(reward, dict):
            for name, value in reward.items():
                read_rows(name, value)
            weights = [read_weight(name, value) for name, value in reward.items()]
        if not any(weight.ever for weight in weights):
            raise ValueError(
                f"no reward has a weight: {reward!r} would train on nothing; give one a weight other than 0"
            )
        return reward

    @model_validator(mode="after")
    def _one_opinion(self) -> Recipe:
        for key in self.training:
            if said := set_by_rlif(key):
                raise ValueError(said)
        check_rounds(self)
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
        if self.resolved_normalisation == "group_rank" and self.mixing == "sum":
            raise ValueError("group_rank ranks each reward by itself, and mixing sum adds them first; use normalised")
        if self.token_update or self.mask_answer:
            check_by_token(self)
        if self.order != "shuffled" and self.training.get("shuffle_dataset"):
            raise ValueError(
                f"order {self.order} is one of two stages, but training.shuffle_dataset mixes them; leave one out"
            )
        if self.annotator == "offline" and self.training.get("sync_ref_model"):
            raise ValueError(
                "annotator offline is the frozen start, but training.sync_ref_model moves it; leave one of the two out"
            )
        rank = (self.lora or {}).get("r", 8)
        if not is_count(rank) or rank < 1:
            raise ValueError(f"lora.r is {rank!r}; it must be a whole number from 1")
        targets = (self.lora or {}).get("target_modules") or []
        if not isinstance(targets, str) and not (
            isinstance(targets, list) and all(isinstance(name, str) for name in targets)
        ):
            raise ValueError(f"lora.target_modules is {targets!r}; it must be a list of names, or a pattern")
        if self.training.get("sync_ref_model") and not self.resolved_training.get("beta"):
            raise ValueError(
                "training.sync_ref_model moves the reference model, and with training.beta 0 there is none; give beta a"
                " value, or leave it out"
            )
        if self.guard.policy == "rollback" and not self.resolved_training["beta"]:
            raise ValueError(
                "guard.policy rollback goes on with a larger training.beta, which is 0; give it a value, or use stop"
            )
        return self

    @model_validator(mode="after")
    def _one_engine(self) -> Recipe:
        engine, why = ONLY_ON.get(self.algorithm, (self.engine, ""))
        if engine != self.engine:
            raise ValueError(f"algorithm {self.algorithm} {why}; set engine {engine}, or another algorithm")
        if self.verl and self.engine != "verl":
            raise ValueError(
                "verl gives options of the engine verl, and engine is trl; set engine verl, or leave it out"
            )
        if (self.algorithm, self.engine) == ("reinforce_plus_plus", "trl") and self.resolved_normalisation != OF_BATCH:
            raise ValueError(f"algorithm reinforce_plus_plus has normalisation {OF_BATCH}, not {self.normalisation}")
        if self.token_reward == "spread":
            if self.algorithm != "ppo":
                raise ValueError(
                    f"token_reward spread is for ppo; {self.algorithm} gives all tokens of a completion one advantage;"
                    " leave it out"
                )
            if len(self.weights) != 1 or not {*self.weights} <= {*PER_TOKEN}:
                raise ValueError(
                    f"token_reward spread takes one reward that is a mean over tokens, {', '.join(PER_TOKEN)}; found"
                    f" {', '.join(self.weights)}"
                )
            if self.resolved_normalisation != "none":
                raise ValueError(
                    "token_reward spread gives out the signal as it is, and normalisation"
                    f" {self.resolved_normalisation} scales it; set normalisation none"
                )
        return self

    # What follows from the keys is derived once for each recipe.

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Recipe:
        """Copies the recipe; what follows from the keys is derived anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("weights", "rows", "resolved_normalisation", "resolved_training", "chat_template"):
            vars(copied).pop(name, None)
        return copied

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """The rewards by name, each with its weight."""
        reward = {self.reward: 1.0} if isinstance(self.reward, str) else self.reward
        return {name: read_weight(name, value) for name, value in reward.items()}

    @cached_property
    def rows(self) -> dict[str, Rows]:
        """The rows that each reward is for, by its name."""
        reward = {self.reward: 1.0} if isinstance(self.reward, str) else self.reward
        return {name: read_rows(name, value) for name, value in reward.items()}

    @cached_property
    def resolved_normalisation(self) -> Normalisation:
        """The normalisation, also where the recipe leaves it to the algorithm."""
        if self.algorithm == "reinforce_plus_plus":
            return self.normalisation or OF_BATCH
        return self.normalisation or ("none" if self.algorithm in UNSCALED else "group_std")

    @cached_property
    def chat_template(self) -> Chat:
        """Whether prompts go through the chat template, and how."""
        return Chat(self.chat, self.training.get("chat_template_kwargs"), self.merge_system)

    @cached_property
    def resolved_training(self) -> dict[str, Any]:
        """TRL's options with the paper's values, and those of the algorithm, where the recipe says nothing."""
        if in_rounds(self):
            return training_of(self, ROUNDS_TRAINING[self.algorithm])
        skip = RLOO_HAS_NOT if self.algorithm in LEAVE_ONE_OUT else ()
        paper = {key: value for key, value in PAPER_TRAINING.items() if key not in skip}
        if self.order != "shuffled":
            paper["shuffle_dataset"] = False
        return paper | ALGORITHMS[self.algorithm] | self.training

    def written_out(self) -> dict[str, Any]:
        """Lists all keys with nothing left to defaults."""
        return self.model_dump() | {"normalisation": self.resolved_normalisation, "training": self.resolved_training}

    def accumulation(self, processes: int) -> int:
        """TRL's gradient_accumulation_steps, so that one update sees `problems_per_update` whole groups."""
        training = self.resolved_training
        for name in ("num_generations", "per_device_train_batch_size", "max_completion_length", *REUSE):
            value = training.get(name, 1)
            if not is_count(value) or value < 1:
                raise RecipeError(f"training.{name} is {value!r}; it must be a whole number from 1.")
        if in_rounds(self):
            return accumulation_in_rounds(self, training, processes)
        group = training["num_generations"]
        if group < 2 and self.algorithm != "ppo":
            raise RecipeError(
                f"training.num_generations is {group}, but a completion is compared with the others of its group, so"
                " its advantage would always be zero; use 4 or more."
            )
        rows = self.problems_per_update * group
        share = training["per_device_train_batch_size"] * processes
        if rows % share:
            smaller = range(1, min(share // processes, 1024))  # a batch per process, and no search without end
            fits = [n for n in smaller if rows % (n * processes) == 0]
            raise RecipeError(
                f"problems_per_update ({self.problems_per_update}) x training.num_generations ({group}) ="
                f" {rows} completions do not divide into batches of {share}"
                f" (training.per_device_train_batch_size x {processes} processes); change one of the three"
                + (f", for example training.per_device_train_batch_size={fits[-1]}." if fits else ".")
            )
        steps = training.get("gradient_accumulation_steps", rows // share)
        if steps != rows // share:
            raise RecipeError(
                f"training.gradient_accumulation_steps is {steps}, but problems_per_update asks for {rows // share};"
                " leave one of the two out."
            )
        if (share * training.get("steps_per_generation", steps)) % group:
            raise RecipeError(
                f"a generation batch of {share * training['steps_per_generation']} completions does not divide into"
                f" groups of {group}; change training.steps_per_generation or training.num_generations."
            )
        return steps
