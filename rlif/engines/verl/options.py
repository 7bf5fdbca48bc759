"""Translates a recipe into options of verl's command line, and refuses what it says that verl cannot do.

Every option is printed by `--dry-run`. Options come from three places, later ones win:

    chosen     rlif's choice, where neither the recipe nor TRL's defaults say anything
    said       what the recipe says, TRL's defaults among it, so that a recipe means the same with both engines
    verl       the recipe's own key `verl`; it may change what is chosen, but not contradict what is said
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif.config.recipe import Recipe
from rlif.engines.verl.names import MODE
from rlif.engines.verl.settings import ESTIMATORS, FOLDER
from rlif.errors import RecipeError
from rlif.sampling.loading import is_adapter, model_path

ACTOR, ROLLOUT, REF = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout.", "actor_rollout_ref.ref."
MODEL = "actor_rollout_ref.model."
DATA = "train.parquet"
NO_CLIP = 1e9  # verl bounds the loss of negative advantages by this ratio; TRL does not, unless `delta` says so

NEVER = 10**9  # steps

LOSSES = {  # of TRL: how verl averages tokens
    "grpo": "seq-mean-token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
    "dapo": "token-mean",
}
SCHEDULES = {"cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
# Options of TRL's that verl has under another name, with TRL's default where a recipe says nothing.
NAMED: dict[str, tuple[str, Any]] = {
    "learning_rate": (ACTOR + "optim.lr", None),
    "weight_decay": (ACTOR + "optim.weight_decay", 0.0),
    "max_grad_norm": (ACTOR + "optim.clip_grad", 1.0),
    "temperature": (ROLLOUT + "temperature", None),
    "top_p": (ROLLOUT + "top_p", 1.0),
    "num_generations": (ROLLOUT + "n", None),
    "num_iterations": (ACTOR + "ppo_epochs", 1),
    "max_completion_length": ("data.max_response_length", None),
    "delta": (ACTOR + "clip_ratio_c", NO_CLIP),
    "gradient_checkpointing": (MODEL + "enable_gradient_checkpointing", True),
    "vllm_gpu_memory_utilization": (ROLLOUT + "gpu_memory_utilization", 0.3),
    "vllm_tensor_parallel_size": (ROLLOUT + "tensor_model_parallel_size", 1),
    "vllm_max_model_length": (ROLLOUT + "max_model_len", None),
    "vllm_enable_sleep_mode": (ROLLOUT + "free_cache_engine", True),
    "save_total_limit": ("trainer.max_actor_ckpt_to_keep", None),
    "chat_template_kwargs": ("+data.apply_chat_template_kwargs", None),
}
READ = {  # by the functions below
    *("lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size", "beta"),
    *("epsilon", "epsilon_high", "loss_type", "importance_sampling_level", "save_steps", "save_strategy", "report_to"),
    *("bf16", "top_k", "steps_per_generation", "gradient_accumulation_steps", "shuffle_dataset", "adam_beta1"),
    "adam_beta2",
}
# Options that may be null, which has a meaning of its own.
NULLABLE = ("delta", "epsilon_high", "top_k", "save_total_limit", "vllm_max_model_length", "chat_template_kwargs")
# Options that must have this value, since verl does nothing else.
FIXED: dict[str, tuple[Any, ...] | None] = {
    "use_vllm": (True,),
    "vllm_mode": ("colocate",),
    "logging_steps": (1,),
    "logging_strategy": ("steps",),
    "vllm_importance_sampling_correction": (False,),
    "mask_truncated_completions": (False,),
    "fp16": (False,),
    "log_level": None,  # any: it changes no number
}
KEYS: dict[str, tuple[Callable[[Recipe], bool], str]] = {  # of a recipe: whether verl can do it, and why not
    "revision": (lambda r: r.revision is None, "verl loads the default revision; download it and give the folder"),
    "dtype": (lambda r: r.dtype in ("float32", "bfloat16"), "verl takes float32 or bfloat16"),
    "allow_pickle": (lambda r: not r.allow_pickle, "verl decides itself how weights are read; convert them"),
    "chat": (lambda r: r.chat, "verl renders every prompt by the chat template; use a model that has one"),
    "merge_system": (lambda r: not r.merge_system, "verl renders prompts; put the sentence into the prompt"),
    "annotator": (lambda r: r.annotator in ("online", "offline"), "verl keeps no such copy; use online or offline"),
    "annotator_copy": (lambda r: not r.annotator_copy, "verl keeps its reference model instead; leave it out"),
    "vllm_capture": (lambda r: not r.vllm_capture, "verl runs the pass anyway that gives the statistics; leave it out"),
    "token_update": (lambda r: r.token_update is None, "verl has its own; use verl: {actor_rollout_ref: ...}"),
    "mask_answer": (lambda r: not r.mask_answer, "verl gives every token of a completion its advantage"),
    "evaluate.tasks": (
        lambda r: not r.evaluate.tasks,
        "its trainer does not evaluate; set evaluate={} and run `rlif eval`",
    ),
    "guard.policy": (lambda r: r.guard.policy != "rollback", "verl cannot return to a checkpoint; use log or stop"),
}
LORA = {"r": "lora_rank", "lora_alpha": "lora_alpha", "target_modules": "target_modules"}


@dataclass(frozen=True)
class Machines:
    """Where verl trains."""

    gpus: int = 1  # of each machine
    nodes: int = 1


def check_recipe_for_verl(recipe: Recipe, processes: int) -> dict[str, Any]:
    """Refuses what verl cannot do with a recipe, before any model is loaded; returns its options in TRL's words."""
    translate(recipe, Machines(processes), Path("RUN"))
    return recipe.resolved_training | {
        "gradient_accumulation_steps": recipe.accumulation(processes),
        "use_vllm": True,  # verl samples by it, whatever the recipe says
    }


def translate(recipe: Recipe, machines: Machines, run: Path) -> dict[str, Any]:
    """Returns verl's options for a recipe.

    Args:
        run: the run folder, which every machine must see.

    Raises:
        RecipeError: the recipe says something that verl cannot do, or two things that contradict each other.
    """
    for key, (fits, why) in KEYS.items():
        if not fits(recipe):
            raise RecipeError(f"{key} of the recipe does not work with engine verl: {why}.")
    _check_training(recipe)
    said = _named(recipe) | _loss(recipe) | _batches(recipe, machines) | _model(recipe) | _data(recipe, run)
    said |= _schedule(recipe, machines.gpus * machines.nodes) | _trainer(recipe, machines, run)
    chosen, own = _chosen(recipe), flat(recipe.verl)
    fixed = {key.lstrip("+"): value for key, value in (said | flat(said)).items()}
    for key, value in own.items():
        plain = key.lstrip("+~")
        if plain in fixed and fixed[plain] != value:
            raise RecipeError(
                f"verl.{key} is {value!r}, but the rest of the recipe says {fixed[plain]!r}; leave one out."
            )
    return {**chosen, **said, **own}


def command(options: Mapping[str, Any]) -> list[str]:
    """Writes options as verl's command line takes them, one word each."""
    return [f"{name}={_word(value)}" for name, value in options.items()]


def flat(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Joins the keys of nested options by dots."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) and value else {f"{before}{key}": value}
    return found


def _word(value: Any) -> str:
    """Writes a value in the grammar of hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_word(each)}" for key, each in value.items()) + "}"
    if isinstance(value, int | float):
        return repr(value)
    plain = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return plain if re.fullmatch(r"(?!(true|false|null|nan|inf)$)[a-z][\w-]*", plain, re.I | re.A) else f"'{plain}'"


def _check_training(recipe: Recipe) -> None:
    known = NAMED.keys() | READ | FIXED.keys()
    for key, value in recipe.training.items():
        if value is None and (key in NULLABLE or key in FIXED or key not in known):
            continue  # left to the engine, also where another recipe sets it
        if value is None:
            raise RecipeError(f"training.{key} is null, which engine verl does not read; give a value.")
        if key not in known:
            raise RecipeError(
                f"training.{key} is an option of TRL's that engine verl does not have; set it to null, or give verl's"
                " own option under the key verl."
            )
        wanted = FIXED.get(key)
        if wanted is not None and value not in wanted:
            raise RecipeError(f"training.{key} is {value!r}, but engine verl always has {wanted[0]!r}; set it to null.")


def _named(recipe: Recipe) -> dict[str, Any]:
    training = recipe.resolved_training
    given = {key: value for key, value in training.items() if value is not None}
    values = {name: given.get(ours, default) for ours, (name, default) in NAMED.items()}
    found = {name: value for name, value in values.items() if value is not None}
    found[ROLLOUT + "top_k"] = training.get("top_k") or -1
    return found


def _refuse(recipe: Recipe, options: Sequence[str], why: str) -> None:
    for name in options:
        if recipe.training.get(name) is not None:
            raise RecipeError(f"training.{name} has no effect with engine verl: {why}; leave it out.")


def _loss(recipe: Recipe) -> dict[str, Any]:
    """The estimator, the form of the loss, and KL."""
    training, algorithm, beta = recipe.resolved_training, recipe.algorithm, recipe.resolved_training["beta"]
    estimator = {name: estimator for estimator, name in ESTIMATORS.items()}.get(algorithm, "grpo")
    low = training["epsilon"]
    found: dict[str, Any] = {
        "algorithm.adv_estimator": estimator,
        "algorithm.norm_adv_by_std_in_grpo": False,  # rewards are scaled before
        ACTOR + "clip_ratio": low,
        ACTOR + "clip_ratio_low": low,
        ACTOR + "clip_ratio_high": training.get("epsilon_high") or low,
    }
    form = training.get("loss_type", "grpo")
    if form not in LOSSES:
        raise RecipeError(f"training.loss_type is {form!r}; engine verl has {', '.join(LOSSES)}.")
    if algorithm in ("rloo", "ppo"):
        _refuse(recipe, ("loss_type", "importance_sampling_level"), f"algorithm {algorithm} has a loss of its own")
    average = "seq-mean-token-sum" if algorithm == "rloo" else "token-mean" if algorithm == "ppo" else LOSSES[form]
    found[ACTOR + "loss_agg_mode"] = average
    if average == "seq-mean-token-sum-norm":
        found[ACTOR + "loss_scale_factor"] = training["max_completion_length"]
    if training.get("importance_sampling_level", "token") == "sequence":
        _refuse(recipe, ("delta",), "verl's loss with one ratio for a completion has no such bound")
        found[ACTOR + "policy_loss.loss_mode"] = "gspo"
    in_reward = algorithm in ("rloo", "ppo") and bool(beta)
    found[ACTOR + "use_kl_loss"], found["algorithm.use_kl_in_reward"] = bool(beta) and not in_reward, in_reward
    if in_reward:
        found |= {"algorithm.kl_penalty": "kl", "algorithm.kl_ctrl.kl_coef": beta}
    elif beta:
        found |= {ACTOR + "kl_loss_coef": beta, ACTOR + "kl_loss_type": "low_var_kl"}
    if recipe.annotator == "offline" and not beta:
        raise RecipeError("annotator offline reads verl's reference pass; give training.beta a value above 0.")
    return found


def _batches(recipe: Recipe, machines: Machines) -> dict[str, Any]:
    training, processes = recipe.resolved_training, machines.gpus * machines.nodes
    steps, share = recipe.accumulation(processes), training["per_device_train_batch_size"] * processes
    rollout = share * training.get("steps_per_generation", steps) // training["num_generations"]
    if rollout % recipe.problems_per_update:
        raise RecipeError(
            f"a rollout of {rollout} problems (training.steps_per_generation) does not divide into updates of"
            f" {recipe.problems_per_update}; with engine verl an update takes one rollout or a part of it."
        )
    micro = training["per_device_train_batch_size"]
    return {
        "data.train_batch_size": rollout,
        ACTOR + "ppo_mini_batch_size": recipe.problems_per_update,
        ACTOR + "ppo_micro_batch_size_per_gpu": micro,
        ROLLOUT + "log_prob_micro_batch_size_per_gpu": micro,
        REF + "log_prob_micro_batch_size_per_gpu": micro,
    } | ({"critic.ppo_micro_batch_size_per_gpu": micro} if recipe.algorithm == "ppo" else {})


def updates_per_rollout(recipe: Recipe, processes: int) -> int:
    """Counts the updates that share a rollout; a step of verl's is one rollout."""
    options = _batches(recipe, Machines(processes))
    return options["data.train_batch_size"] // recipe.problems_per_update * recipe.training.get("num_iterations", 1)


def _model(recipe: Recipe) -> dict[str, Any]:
    path, training = model_path(recipe), recipe.resolved_training
    compute = "bfloat16" if training.get("bf16", True) else "float32"
    weights = {"float32": "fp32", "bfloat16": "bf16"}[recipe.dtype]
    if is_adapter(path):
        raise RecipeError(f"{recipe.model} is an adapter, which engine verl does not train on; merge it into its base.")
    found: dict[str, Any] = {MODEL + "path": path, ROLLOUT + "dtype": compute}
    for part in (ACTOR, REF, "critic.") if recipe.algorithm == "ppo" else (ACTOR, REF):
        place = part + ("fsdp." if part == "critic." else "fsdp_config.")
        found[place + "model_dtype"] = weights
        if compute == "float32":  # verl's engine reads this key, and not `dtype`
            found[f"+{place}mixed_precision"] = dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32")
    if recipe.algorithm == "ppo":
        keep = {"trainer.max_critic_ckpt_to_keep": training["save_total_limit"]}
        found |= {"critic.model.path": path} | (keep if keep["trainer.max_critic_ckpt_to_keep"] else {})
    for key, value in (recipe.lora or {}).items():
        if key not in LORA:
            raise RecipeError(f"lora.{key} is an option of peft's that engine verl does not pass on; leave it out.")
        found[MODEL + LORA[key]] = value
    if recipe.lora is not None:
        if not recipe.lora.get("target_modules"):
            raise RecipeError(
                "lora.target_modules is missing, and verl adapts other modules by default than peft; name them, or give"
                " all-linear."
            )
        found.setdefault(MODEL + "lora_rank", 8)  # peft's defaults
        found.setdefault(MODEL + "lora_alpha", 8)
    return found


def _data(recipe: Recipe, run: Path) -> dict[str, Any]:
    file = str(run / FOLDER / DATA)
    shuffled = recipe.order == "shuffled" and recipe.training.get("shuffle_dataset", True)
    return {
        "data.train_files": file,
        "data.val_files": file,  # which verl wants, and does not read here
        "data.max_prompt_length": recipe.max_prompt_tokens,
        "data.shuffle": shuffled,
        "data.seed": recipe.seed,
        ACTOR + "data_loader_seed": recipe.seed,
        ROLLOUT + "seed": recipe.seed,
        "reward.custom_reward_function.path": str(Path(__file__).parent / "no_score.py"),
    }


def _schedule(recipe: Recipe, processes: int) -> dict[str, Any]:
    training = recipe.resolved_training
    kind, warm = training["lr_scheduler_type"], training.get("warmup_steps", 0)
    if kind not in SCHEDULES:
        raise RecipeError(f"training.lr_scheduler_type is {kind!r}; engine verl has {', '.join(SCHEDULES)}.")
    if kind == "constant":
        warm = 0  # as transformers does
    rollouts = math.ceil(warm / updates_per_rollout(recipe, processes))  # after which verl changes the rate
    warmth = {"lr_warmup_steps_ratio": warm} if warm < 1 else {"lr_warmup_steps": rollouts}
    betas = [training.get("adam_beta1", 0.9), training.get("adam_beta2", 0.999)]
    found = {"lr_scheduler_type": SCHEDULES[kind], "betas": betas, **warmth}
    return {ACTOR + "optim." + name: value for name, value in found.items()}


def _trainer(recipe: Recipe, machines: Machines, run: Path) -> dict[str, Any]:
    training = recipe.resolved_training
    shared = updates_per_rollout(recipe, machines.gpus * machines.nodes)
    epochs, most = training["num_train_epochs"], training.get("max_steps", -1)
    if epochs != math.ceil(epochs):
        raise RecipeError(f"training.num_train_epochs is {epochs}; engine verl takes whole epochs, or max_steps.")
    saves = training.get("save_strategy", "steps") == "steps"
    for key, value in {
        "max_steps": most if most > 0 else 0,
        "save_steps": training["save_steps"] if saves else 0,
    }.items():
        if value % shared:
            raise RecipeError(f"training.{key} is {value}; {shared} updates share a rollout, so it must be a multiple.")
    report = training.get("report_to", "none")
    trackers = [name for name in ([report] if isinstance(report, str) else report) if name != "none"]
    return {
        "+rlif.run": str(run),
        "trainer.v1.trainer_mode": MODE,
        "trainer.nnodes": machines.nodes,
        "trainer.n_gpus_per_node": machines.gpus,
        "trainer.total_epochs": int(epochs) if most <= 0 else 10**6,
        "trainer.total_training_steps": None if most <= 0 else most // shared,
        "trainer.save_freq": training["save_steps"] // shared if saves else NEVER,  # and after the last step
        "trainer.default_local_dir": str(run / FOLDER),
        "trainer.logger": ["console", *trackers],
        "trainer.project_name": "rlif",
        "trainer.experiment_name": run.name,
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
    }


def _chosen(recipe: Recipe) -> dict[str, Any]:
    """What the recipe leaves open, which its key `verl` may change."""
    found: dict[str, Any] = {
        ACTOR + "strategy": "fsdp2",
        # "hf_model" of adapters would be the names of peft's model, which transformers cannot read
        ACTOR + "checkpoint.save_contents": ["model", "optimizer", "extra", *([] if recipe.lora else ["hf_model"])],
        ROLLOUT + "name": "vllm",
        ROLLOUT + "calculate_log_probs": False,  # nothing reads vLLM's log-probabilities
        "trainer.resume_mode": "auto",
    }
    if recipe.algorithm == "ppo":  # verl's own defaults, written out
        found |= {
            "algorithm.gamma": 1.0,
            "algorithm.lam": 1.0,
            "critic.strategy": "fsdp2",
            "critic.optim.lr": 1e-5,
            "critic.cliprange_value": 0.5,
        }
    return found
