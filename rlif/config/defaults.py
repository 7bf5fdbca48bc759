"""Defaults of training: the paper's values, what each algorithm means to TRL, and the options that rlif sets."""

import math
from typing import Any

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

# Options of training in rounds. Those of sampling have TRL's names for online training. The values are ours, to begin
# with; beta is DPO's own.
ROUNDS_TRAINING: dict[str, dict[str, Any]] = {
    name: {
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "max_length": None,  # `max_prompt_tokens` and max_completion_length limit a row
        "num_generations": 8,
        "max_completion_length": 3072,
        "temperature": 1.0,
        "logging_steps": 1,
        "save_steps": 10,
        "save_total_limit": 3,
        "report_to": "none",
        **more,
    }
    for name, rate, more in (("sft", 1e-5, {}), ("dpo", 5e-7, {"beta": 0.1}))
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
    "sft": {},  # TRL's SFTTrainer in rounds, on completions that were chosen; see `rlif.config.rounds`
    "dpo": {},  # TRL's DPOTrainer in rounds, on pairs; arXiv 2305.18290
    # REINFORCE++ with the group's mean as baseline, over all tokens of the batch; arXiv 2501.03262
    "reinforce_plus_plus": {"loss_type": "dapo"},
    "ppo": {},  # advantages by a critic, gamma 1; arXiv 1707.06347, 1506.02438. Only verl has it
}

ROUNDS = ("sft", "dpo")

LEAVE_ONE_OUT = ("rloo", "reinforce")

UNSCALED = ("dr_grpo", "ppo", *LEAVE_ONE_OUT)  # whose advantages are not divided by a deviation unless a recipe asks

# Algorithms that one engine lacks: the engine that has it, and why the other has not.
ONLY_ON: dict[str, tuple[str, str]] = {
    "ppo": ("verl", "needs a critic, which TRL's trainers do not have"),
    "bnpo": ("trl", "averages over a micro-batch, which verl does not; dapo is the nearest"),
    "reinforce": ("trl", "is a form that verl does not have; reinforce_plus_plus is the nearest"),
    "sft": ("trl", "trains in rounds, by TRL's SFTTrainer"),
    "dpo": ("trl", "trains in rounds, by TRL's DPOTrainer"),
}

# Token signals whose value is a mean over tokens, which PPO can give out token by token.
PER_TOKEN = ("self_certainty", "negative_entropy", "likelihood")

# Forms of the loss that are a weighted sum over tokens, whose weights `rlif.engines.trl.updating` knows.
BY_TOKEN = ("grpo", "bnpo", "dr_grpo", "dapo")

REUSE = ("gradient_accumulation_steps", "steps_per_generation", "num_iterations")

# Options that are any text to TRL's config. Its trainer refuses an unknown one in the first step.
CHOICES = ("loss_type", "importance_sampling_level", "vllm_importance_sampling_mode")

# The least and the largest value of options that neither TRL nor transformers checks before a step.
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("beta", "dataloader_num_workers", "delta", "epsilon", "epsilon_high"), (0, math.inf)),
    **dict.fromkeys(("learning_rate", "max_grad_norm", "num_train_epochs", "weight_decay"), (0, math.inf)),
    **dict.fromkeys(("dataloader_prefetch_factor", "pad_to_multiple_of", "ref_model_sync_steps"), (1, math.inf)),
    **dict.fromkeys(("ref_model_mixup_alpha", "top_entropy_quantile", "top_p"), (0, 1)),
}

# Set by rlif, and what to write instead; a second opinion in `training` would contradict its own keys.
OURS = {
    "output_dir": "use output and name instead",
    "generation_batch_size": "use problems_per_update instead",
    "seed": "use seed instead",
    "scale_rewards": "use normalisation instead",
    "reward_weights": "use reward instead",
    "multi_objective_aggregation": "use reward instead",
    "model_init_kwargs": "use model, revision and dtype instead",
    "trust_remote_code": "leave it out: remote code never runs",
    "remove_unused_columns": "leave it out: rlif builds the data set",
    "disable_tqdm": "leave it out: rlif shows its own progress",
    "resume_from_checkpoint": "use --resume instead",
    "save_only_model": "leave it out: a checkpoint is there to go on from",
    "ignore_data_skip": "leave it out: a resumed run goes on where it was in its data",
    "restore_callback_states_from_checkpoint": "leave it out: what the guard and the rewards remember comes back",
    # A recipe writes into its run folder and nowhere else; what it made is uploaded by whoever wants it uploaded.
    "push_to_hub": "use `rlif export RUN --hub OWNER/NAME` instead",
    "log_completions_hub_repo": "use `hf upload` with completions/ of the run",
    "trackio_space_id": "use `hf upload` with metrics.jsonl of the run",
    "trackio_static_space_id": "use `hf upload` with metrics.jsonl of the run",
    "trackio_bucket_id": "use `hf upload` with metrics.jsonl of the run",
    "hub_token": "set HF_TOKEN in the environment: recipes are kept with the run",
}


def set_by_rlif(option: str) -> str | None:
    """Says what to write in place of an option of TRL's that rlif sets; None for every other."""
    return f"training.{option} is set by rlif; {OURS[option]}" if option in OURS else None
