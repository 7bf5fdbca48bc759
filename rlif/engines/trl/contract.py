"""Lists what this engine uses of TRL and transformers beyond their documented interface, and checks it.

`USED` is the whole list; a test finds private names that it lacks. `check_trl` runs before a trainer is built.
"""

import ast
import inspect
import pkgutil
import traceback
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile
from typing import Any

import trl

from rlif.errors import MachineError, RecipeError

TESTED_TRL = "1.10 to 1.16"
TRAINERS = ("GRPOTrainer", "RLOOTrainer")
PAIRS = "DPOTrainer"  # of the rounds
LIBRARIES = ("trl", "vllm")  # whose constructors build a trainer


@dataclass(frozen=True)
class Used:
    """One name of a library's that this engine uses."""

    owner: str  # "trainer" for the trainers of `TRAINERS`, one of them or `PAIRS`, or a module or class by dotted path
    name: str  # of a method, a function or an attribute
    purpose: str  # what it is used for
    # the first parameters of a method or function; None for an attribute, which the code of a class must mention
    parameters: tuple[str, ...] | None = None


SCORING = ("self", "model", "input_ids", "attention_mask", "logits_to_keep")
REWARDING = ("self", "inputs", "prompts", "completions", "completion_ids_list")
SAMPLER, ENGINE = "trl.trainer.utils.RepeatSampler", "trl.generation.vllm_generation.VLLMGeneration"

USED = (
    # methods of TRL's that are overridden, super() first
    Used("trainer", "_generate", "remembers token ids, reads the decoding", ("self", "prompts")),
    Used("trainer", "_generate_and_score_completions", "returns the advantages", ("self", "inputs")),
    Used("trainer", "_get_train_sampler", "gives the order of problems", ("self",)),
    Used("trainer", "_get_per_token_logps_and_entropies", "its passes are read, or one is run", SCORING),
    Used("trainer", "_calculate_rewards", "scales and mixes the columns", REWARDING),
    Used("GRPOTrainer", "compute_loss", "changes the update of tokens", ("self", "model", "inputs")),
    # one that `rlif train` replaces, and the check before a run reads
    Used("trainer", "_tokenize_prompts", "prompts are rendered as everywhere in rlif", ("self", "prompts")),
    # one that is called
    Used("trainer", "_log_metric", "logs the terms by rlif's names", ("self", "name", "value")),
    # methods of transformers'
    Used("trainer", "_save_checkpoint", "adds the annotator; saves the last step", ("self", "model", "trial")),
    Used("trainer", "_load_optimizer_and_scheduler", "loads the annotator", ("self", "checkpoint")),
    Used("trainer", "_load_from_checkpoint", "loads a finished run", ("self", "resume_from_checkpoint")),
    # attributes that the trainers set
    Used("trainer", "callback_handler", "orders callbacks, logs the last scores"),
    Used("trainer", "ref_model", "the reference pass, and offline annotators"),
    Used("trainer", "temperature", "statistics are those of the sampling distribution"),
    Used("trainer", "_metrics", "the check before a run leaves no trace in the log"),
    Used("trainer", "_logs", "tables show rewards as measured"),
    Used("trainer", "reward_funcs", "which columns are measured"),
    Used("trainer", "reward_func_names", "names of columns"),
    Used("trainer", "reward_weights", "weights of columns, by step under a schedule"),
    Used("GRPOTrainer", "scale_rewards", "none where a normalisation scales"),
    Used("GRPOTrainer", "loss_type", "how much each token counts in the loss"),
    Used("GRPOTrainer", "max_completion_length", "the same"),
    Used("GRPOTrainer", "current_gradient_accumulation_steps", "the same"),
    Used("GRPOTrainer", "epsilon_low", "which tokens TRL clips"),
    Used("GRPOTrainer", "epsilon_high", "which tokens TRL clips"),
    Used("trainer", "num_iterations", "whether TRL scores the policy anyway"),
    Used("trainer", "num_generations", "the size of a group"),
    Used("trainer", "num_generations_eval", "the size of a group in evaluation"),
    Used("trainer", "use_vllm", "whether plain `generate` samples"),
    Used("trainer", "vllm_generation", "holds the vLLM engine"),
    Used("trainer", "generation_config", "where completions end; the check before a run decodes greedily"),
    Used("trainer", "generation_kwargs", "where completions end"),
    Used("GRPOTrainer", "use_transformers_continuous_batching", "whether plain `generate` samples"),
    Used("GRPOTrainer", "tools", "whether others write tokens of a completion"),
    Used("GRPOTrainer", "environment_factories", "whether others write tokens of a completion"),
    Used("GRPOTrainer", "rollout_func", "whether others sample"),
    # functions and classes of TRL's modules
    Used("trl.trainer.utils", "use_adapter", "the bare model under LoRA", ("model", "adapter_name")),
    Used("trl.trainer.utils", "nanstd", "the deviation of rewards as measured", ("tensor",)),
    Used(SAMPLER, "seed", "the order of each epoch"),
    Used(SAMPLER, "generator", "the order of each epoch"),
    Used(SAMPLER, "num_samples", "the order of each epoch"),
    Used(ENGINE, "llm", "the vLLM engine in this process"),
    Used(ENGINE, "generation_kwargs", "where completions end"),
    Used(ENGINE, "max_completion_length", "the check before a run samples a few tokens"),
    Used(ENGINE, "LLM", "built with our logits processor"),
    # the rounds' trainer of pairs
    Used(
        PAIRS, "_prepare_dataset", "its data set is token ids already", ("self", "dataset", "processing_class", "args")
    ),
    Used(PAIRS, "_set_signature_columns_if_needed", "keeps the values of a pair", ("self",)),
    Used(PAIRS, "_metrics", "logs the calibrated loss under TRL's names"),
    Used(PAIRS, "beta", "the scale of the calibrated loss"),
)


def check_trl(trainer: type) -> None:
    """Refuses a TRL or transformers without a name of `USED`."""
    theirs = next((base for base in trainer.__mro__ if base.__module__.partition(".")[0] == "trl"), None)
    if theirs is None:
        raise RecipeError(
            f"the class {trainer.__name__} has no trainer of TRL among its bases; add one after the mixin."
        )
    for used in USED:
        if not _concerns(used, theirs):
            continue
        owner = _resolved(used.owner) if "." in used.owner else theirs
        if not _is_there(owner, used):
            where = theirs.__name__ if owner is theirs else used.owner
            shape = f"({', '.join(p for p in used.parameters if p != 'self')}, ...)" if used.parameters else ""
            raise MachineError(
                f"TRL {trl.__version__} has no {where}.{used.name}{shape}, which rlif builds on; install TRL"
                f" {TESTED_TRL}."
            )


def _concerns(used: Used, theirs: type) -> bool:
    """Tells whether a name is used with this trainer of TRL's; names of modules concern `TRAINERS`."""
    if theirs.__name__ not in TRAINERS:
        return used.owner == theirs.__name__
    return used.owner in ("trainer", theirs.__name__) or "." in used.owner


def _resolved(path: str) -> object:
    """Returns a module or class by its dotted path; None where there is none."""
    try:
        return pkgutil.resolve_name(path)
    except (AttributeError, ModuleNotFoundError):
        return None


def _is_there(owner: object, used: Used) -> bool:
    if used.parameters is not None:
        function: Any = getattr(owner, used.name, None)
        first = islice(inspect.signature(function).parameters, len(used.parameters)) if callable(function) else ()
        return tuple(first) == used.parameters
    return isinstance(owner, type) and any(
        used.name in inspect.unwrap(function).__code__.co_names
        for base in owner.__mro__
        for function in vars(base).values()
        if inspect.isfunction(function)
    )


@lru_cache
def compared_with(option: str, trainer: str = "GRPOTrainer") -> list[str]:
    """Returns the texts that the code of one of the installed TRL's trainers compares an option with."""
    code = ast.parse(inspect.getsource(inspect.getmodule(getattr(trl, trainer))))  # type: ignore[arg-type]
    compares = [node for node in ast.walk(code) if isinstance(node, ast.Compare)]
    named = [(node, getattr(node.left, "attr", getattr(node.left, "id", None))) for node in compares]
    sides = [node.comparators for node, name in named if name == option]
    parts = [part for side in sides for comparator in side for part in ast.walk(comparator)]
    return sorted({part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)})


def raised_by_library(error: BaseException) -> bool:
    """Tells whether TRL or vLLM raised an error while it worked for this package, and not what we call ourselves."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    innermost_first = [module.partition(".")[0] for module in reversed(modules)]
    after_ours = list(takewhile(lambda package: package != "rlif", innermost_first))
    return bool(after_ours) and after_ours[-1] in LIBRARIES
