"""Compares our trainers, with a signal at weight 0, with TRL's own under one setting of TRL's options after the other.

Both get the same reward function. Weights, the optimiser's state, random states and whatever TRL logs must be equal to
the last bit, so that a signal changes nothing but the reward.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from peft import PeftModel
from rich.console import Console
from support import trainers
from support.models import byte_tokenizer, tiny_model
from support.small_runs import SMALL
from support.trainers import PROMPTS
from transformers import set_seed
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import rlif
from rlif.config.defaults import LEAVE_ONE_OUT
from rlif.engines.trl import setup
from rlif.engines.trl.stopping import Stop
from rlif.engines.trl.trainer import InternalGRPOTrainer, InternalRLOOTrainer
from rlif.errors import RecipeError
from rlif.runs.folder import Run
from rlif.signals import SIGNALS
from rlif.training.prepare import prepare
from rlif.training.session import build, open_session

BASE: dict[str, Any] = {
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "max_completion_length": 8,
    "max_steps": 3,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "beta": 0.0,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "log_level": "error",
}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_alpha": 64}
REUSED = {"steps_per_generation": 4}  # of an update of two batches: TRL scores the policy after each rollout
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 4}
LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")

# Options of TRL's; a key of `rlif.Recipe` besides, and `saved`: the step of a checkpoint to resume from.
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "beta": {"beta": 0.1},
    "lora": {"lora": LORA},
    "lora, beta": {"lora": LORA, "beta": 0.1},
    "lora with dropout": {"lora": LORA | {"lora_dropout": 0.3}, **REUSED},
    "gradient checkpointing": {"gradient_checkpointing": True, "beta": 0.1},
    "reentrant checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
        **REUSED,
    },
    "bf16": {"bf16": True, "beta": 0.1},
    "bf16, reused": {"bf16": True, **REUSED},
    "weights in bfloat16": {"dtype": "bfloat16", "lora": LORA},
    "two iterations": {"num_iterations": 2},
    "two iterations, beta": {"num_iterations": 2, "beta": 0.1},
    "reused": REUSED,
    "one step per generation": {"steps_per_generation": 1},
    **{f"loss {name}": {"loss_type": name, **REUSED} for name in LOSSES},
    "loss sapo, temperatures": {"loss_type": "sapo", "sapo_temperature_neg": 2.0, "sapo_temperature_pos": 0.5},
    "loss vespo, constants": {"loss_type": "vespo", "vespo_k_pos": 1.0, "vespo_lambda_neg": 1.0, **REUSED},
    "algorithm dr_grpo": {"algorithm": "dr_grpo"},
    "algorithm gspo": {"algorithm": "gspo", **REUSED},
    "algorithm rloo": {"algorithm": "rloo"},
    "algorithm rloo, beta": {"algorithm": "rloo", "beta": 0.1, "num_iterations": 2},
    "algorithm rloo, clipped": {"algorithm": "rloo", "reward_clip_range": [0.2, 0.6]},
    "algorithm rloo, lora": {"algorithm": "rloo", "lora": LORA, "beta": 0.1, "mask_truncated_completions": True},
    "algorithm reinforce": {"algorithm": "reinforce"},
    "sequence ratios": {"importance_sampling_level": "sequence", **REUSED},
    "clipping": {"epsilon": 0.01, "epsilon_high": 0.02, **REUSED},
    "delta": {"delta": 1.01, "epsilon_high": 0.3, **REUSED},
    "entropy mask": {"top_entropy_quantile": 0.5},
    "entropy mask, reused": {"top_entropy_quantile": 0.2, **REUSED},
    "entropy bonus": {"entropy_coef": 0.05},
    "adaptive entropy": {"use_adaptive_entropy": True, "entropy_coef": 0.05, "entropy_target": 3.0},
    "corrected divergence": {"beta": 0.1, "use_bias_correction_kl": True, **REUSED},
    "off-policy mask": {"off_policy_mask_threshold": 0.01, **REUSED},
    "temperature": {"temperature": 0.5},
    "high temperature, reused": {"temperature": 1.7, **REUSED},
    "top_p": {"top_p": 0.8},
    "top_k": {"top_k": 10},
    "min_p": {"min_p": 0.1},
    "repetition penalty": {"repetition_penalty": 1.3},
    "generation_kwargs": {"generation_kwargs": {"typical_p": 0.9, "min_new_tokens": 3}},
    "beams": {"generation_kwargs": {"num_beams": 2}},
    "static cache": {"cache_implementation": "static"},
    "masked": {"mask_truncated_completions": True, "generation_kwargs": {"min_p": 0.0}, "temperature": 2.0},
    "masked, reused": {"mask_truncated_completions": True, "max_completion_length": 24, **REUSED},
    "synchronised reference": {
        "beta": 0.1,
        "sync_ref_model": True,
        "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 0.5,
    },
    "workers": {"dataloader_num_workers": 2},
    "evaluation": EVALUATED,
    "evaluation, reused": {**EVALUATED, **REUSED, "num_generations_eval": 2, "eval_on_start": True},
    "evaluation of rloo": {**EVALUATED, "algorithm": "rloo"},
    "odd length": {"max_completion_length": 13},
    "one token": {"max_completion_length": 1},
    "padded lengths": {"pad_to_multiple_of": 8, **REUSED},
    "unshuffled": {"shuffle_dataset": False},
    "printed completions": {"log_completions": True, "num_completions_to_print": 1, "log_unique_prompts": True},
    "logged every second step": {"logging_steps": 2},
    "float32 head": {"cast_lm_head_to_fp32": True, "dtype": "bfloat16"},
    "disabled dropout": {"disable_dropout": True},
    "plain text": {"chat": False},
    "other optimiser": {"optim": "sgd", "max_grad_norm": 0.1, "weight_decay": 0.1, "lr_scheduler_type": "linear"},
    "noisy embeddings": {"neftune_noise_alpha": 5.0},
    "seed": {"seed": 7, "data_seed": 3},
    "two epochs": {"max_steps": 10},
    "unscorable rows": {"function": "some_sums"},
    "unscorable rows, rloo": {"function": "some_sums", "algorithm": "rloo"},
    "resumed": {"saved": 2},
    "resumed, reused": {"saved": 2, "max_steps": 4, **REUSED},
    "resumed, beta": {"saved": 1, "beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
    "resumed, lora": {"saved": 2, "lora": LORA, "beta": 0.1},
    "resumed, rloo": {"saved": 2, "algorithm": "rloo"},
}
EVERY_DAY = {
    "two iterations, beta": ["self_certainty"],
    "masked": ["self_certainty"],
    "entropy mask, reused": list(SIGNALS),
    "resumed, lora": ["self_certainty"],
    "algorithm rloo": list(SIGNALS),
}
ANNOTATORS = ("online", "offline", "ema", "lagged")
KEYS = tuple(rlif.Recipe.model_fields)
TIMED = re.compile(r"runtime|per_second|step_time|total_flos")


def tried(name: str, signals: list[str], annotator: str = "online") -> Any:
    return pytest.param(name, signals, annotator, id=f"{name}-{len(signals)}-{annotator}")


def in_turn() -> Iterator[Any]:
    """Yields each setting once: with one signal, read off a pass that runs anyway, or with all, by each annotator."""
    annotators = cycle(ANNOTATORS)
    for number, name in enumerate(SETTINGS):
        kind = next(annotators) if number % 2 == 0 else None
        if kind is None or (kind == "offline" and "sync_ref_model" in SETTINGS[name]):  # refused by `Recipe`
            yield tried(name, ["self_certainty"])
        else:
            yield tried(name, list(SIGNALS), kind)


def recipe_of(name: str, signals: list[str], annotator: str, model: Path, folder: Path) -> rlif.Recipe:
    options = dict(SETTINGS[name])
    function = f"support.trainers:{options.pop('function', 'sums')}"
    options.pop("saved", None)
    keys = {key: options.pop(key) for key in KEYS if key in options}
    return rlif.Recipe(
        model=str(model),
        output=str(folder),
        annotator=annotator,
        annotator_copy=annotator == "offline",
        normalisation="none",
        problems_per_update=2,
        reward={**dict.fromkeys(signals, 0), function: 1},
        training=BASE | options,
        **keys,
    )


def only_known(name: str) -> None:
    """Skips a setting with an option that the installed TRL does not have."""
    options = SETTINGS[name].keys() - set(KEYS) - {"function", "saved"}
    config = setup.trainer_of(SETTINGS[name].get("algorithm", "grpo"))[1]
    if missing := options - inspect.signature(config).parameters.keys():
        pytest.skip(f"TRL without {', '.join(missing)}; install a newer one")


class Ended:
    """What is left when training has ended."""

    def __init__(self, trainer: Any):
        policy = trainer.accelerator.unwrap_model(trainer.model)
        self.weights = {name: value.clone() for name, value in policy.state_dict().items()}
        if isinstance(policy, PeftModel):
            assert any("lora_B" in name and value.any() for name, value in self.weights.items())
        if trainer.ref_model is not None:
            self.weights |= {f"reference {name}": value for name, value in trainer.ref_model.state_dict().items()}
        for number, state in enumerate(trainer.optimizer.state_dict()["state"].values()):
            self.weights |= {f"optimiser {number} {key}": torch.as_tensor(value) for key, value in state.items()}
        self.log = [
            {key: value for key, value in row.items() if not TIMED.search(key)} for row in trainer.state.log_history
        ]
        logs = trainer._logs
        self.texts = {key: list(logs[key]) for key in ("prompt", "completion", "advantages")}
        self.texts["rewards"] = {name: list(column) for name, column in logs["rewards"].items()}
        self.random = random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()


def trained(recipe: rlif.Recipe, folder: Path, saved: int | None) -> Any:
    """Trains as `rlif train` does; with `saved` a second trainer goes on from the checkpoint of that step."""
    if saved is not None:
        recipe = recipe.model_copy(
            update={"training": recipe.training | {"save_strategy": "steps", "save_steps": saved}}
        )
    prompts = [[{"role": "user", "content": prompt}] if recipe.chat else prompt for prompt in PROMPTS * 4]
    for start in [None] if saved is None else [None, str(folder / f"checkpoint-{saved}")]:
        set_seed(recipe.seed + 1)
        options = setup.check_training(recipe, 1)
        trainer: Any = setup.build_trainer(recipe, options, prompts, byte_tokenizer(), str(folder))
        trainer.train(resume_from_checkpoint=start)
    return trainer


def build_with(trainer_class: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]) -> None:
    """Makes `build_trainer` build this class; `change` changes the arguments of the class."""

    def build(**arguments: Any) -> Any:
        change(arguments)
        if trainer_class not in (GRPOTrainer, RLOOTrainer):
            return trainer_class(**arguments)
        del arguments["vllm_capture"]
        trainer = trainer_class(**arguments)
        trainer.verify_signal = lambda *_: None  # there is none
        return trainer

    config = RLOOConfig if issubclass(trainer_class, RLOOTrainer) else GRPOConfig
    monkeypatch.setattr(setup, "RLOO" if config is RLOOConfig else "GRPO", (build, config))


def plain(function: str) -> Callable[..., Any]:
    """The function under the name that TRL logs for it in our trainer; TRL's own mixing is that of one reward."""

    def reward(**columns: Any) -> Any:
        return getattr(trainers, function)(**columns)

    reward.__name__ = f"support.trainers:{function}"
    return reward


def both(
    name: str, signals: list[str], annotator: str, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Ended, Ended]:
    """Trains with our trainer and with TRL's, both built by `build_trainer`."""
    recipe, saved = recipe_of(name, signals, annotator, model, folder), SETTINGS[name].get("saved")
    leave_one_out = recipe.algorithm in LEAVE_ONE_OUT
    ours = InternalRLOOTrainer if leave_one_out else InternalGRPOTrainer
    theirs = RLOOTrainer if leave_one_out else GRPOTrainer

    def with_data(arguments: dict[str, Any]) -> None:
        if "eval_strategy" in SETTINGS[name]:
            arguments["eval_dataset"] = arguments["train_dataset"].select(range(3))

    def with_function(arguments: dict[str, Any]) -> None:
        with_data(arguments)
        arguments["reward_funcs"] = plain(SETTINGS[name].get("function", "sums"))

    build_with(ours, monkeypatch, with_data)
    ended = Ended(trained(recipe, folder / "ours", saved))
    build_with(theirs, monkeypatch, with_function)
    return ended, Ended(trained(recipe, folder / "theirs", saved))


def assert_equal(ours: Ended, theirs: Ended, signals: list[str]) -> None:
    assert ours.weights.keys() == theirs.weights.keys()
    different = [name for name, value in theirs.weights.items() if not torch.equal(value, ours.weights[name])]
    assert not different and any(theirs.texts["advantages"])
    names = "|".join(signals)
    extra = re.compile(
        rf"(eval_)?(({names}|support\.trainers:.*|unscorable|reward_spread|extra_passes)(_.*)?|rewards/({names})/.*)"
    )
    for row, theirs_row in zip(ours.log, theirs.log, strict=True):
        assert {key for key in row if not extra.fullmatch(key)} == theirs_row.keys()
        assert {key: repr(row[key]) for key in theirs_row} == {key: repr(value) for key, value in theirs_row.items()}
    rewards = {name: ours.texts["rewards"][name] for name in theirs.texts["rewards"]}
    assert repr(ours.texts | {"rewards": rewards}) == repr(theirs.texts)
    assert ours.random == theirs.random


@pytest.fixture(scope="module")
def ending_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose completions often end before the limit."""
    folder, model = tmp_path_factory.mktemp("model"), tiny_model()
    with torch.no_grad():
        model.lm_head.weight[byte_tokenizer().eos_token_id] *= 4
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("name", "signals", "annotator"), [tried(name, of) for name, of in EVERY_DAY.items()])
def test_signal_at_weight_zero_changes_no_bit(name, signals, annotator, ending_model, tmp_path, monkeypatch):
    only_known(name)
    assert_equal(*both(name, signals, annotator, ending_model, tmp_path, monkeypatch), signals)


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "signals", "annotator"), [*in_turn()])
def test_signal_at_weight_zero_changes_no_bit_in_any_setting(
    name, signals, annotator, ending_model, tmp_path, monkeypatch
):
    only_known(name)
    assert_equal(*both(name, signals, annotator, ending_model, tmp_path, monkeypatch), signals)


@pytest.mark.sweep
def test_a_whole_run_with_its_callbacks_changes_no_bit(ending_model, tmp_path, monkeypatch):
    """The guard, checkpoints, the record and evaluation on the way draw nothing and change nothing."""
    byte_tokenizer().save_pretrained(ending_model)
    overrides = [*SMALL, f"model={ending_model}", f"output={tmp_path}", "normalisation=none", "training.use_cpu=true"]
    recipe = rlif.load_recipe("demo", [*overrides, "reward={self_certainty: 0, 'support.trainers:sums': 1}"])
    ours = Run.create(recipe, "ours")
    set_seed(5)
    session = open_session(prepare(recipe), ours, Console(quiet=True), Stop(Console(quiet=True), 1), fresh=False)
    session.evaluate_at(0)
    session.train(None)
    build_with(GRPOTrainer, monkeypatch, lambda arguments: arguments.update(reward_funcs=plain("sums")))
    set_seed(5)
    theirs = build(prepare(recipe), Run.create(recipe, "theirs"), fresh=False)
    theirs.train()
    assert len(ours.metrics()) == 4
    assert_equal(Ended(session.trainer), Ended(theirs), ["self_certainty"])


@pytest.mark.parametrize("function", ["sums", "some_sums"])
@pytest.mark.parametrize(("normalisation", "scale"), [("group_std", "group"), ("batch_std", "batch")])
def test_our_scaling_of_rewards_is_trls(normalisation, scale, function, ending_model, tmp_path, monkeypatch):
    """It happens in float64, where TRL scales in float32; TRL's own is off in our trainers."""
    recipe = recipe_of("defaults", ["self_certainty"], "online", ending_model, tmp_path)
    update = {"normalisation": normalisation, "reward": {"self_certainty": 0, f"support.trainers:{function}": 1}}
    recipe = recipe.model_copy(update=update | {"training": recipe.training | {"max_steps": 1}})
    ours = Ended(trained(recipe, tmp_path / "ours", None))

    def scaled(arguments: dict[str, Any]) -> None:
        arguments["args"].scale_rewards, arguments["reward_funcs"] = scale, plain(function)

    build_with(GRPOTrainer, monkeypatch, scaled)
    theirs = Ended(trained(recipe, tmp_path / "theirs", None))
    assert len(theirs.texts["advantages"]) == 8 and any(theirs.texts["advantages"])
    assert ours.texts["completion"] == theirs.texts["completion"]
    assert ours.texts["advantages"] == pytest.approx(theirs.texts["advantages"], abs=1e-5)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"scale_rewards": "batch"}, "both scale_rewards='batch' and normalisation='group_std'"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "both multi_objective_aggregation='normalize_then_sum'",
        ),
    ],
)
def test_a_second_scaling_is_refused(option, why, ending_model):
    """A recipe cannot have these options at all, see `rlif.config.defaults.OURS`."""
    with pytest.raises(RecipeError, match=why):
        trainers.make_trainer(ending_model, **option)
