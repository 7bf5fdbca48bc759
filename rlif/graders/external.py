"""Loads rewards from outside the package: a reward function written for TRL, or a reward model.

    package.module:function    called as TRL calls it: prompts, completions, completion_ids, trainer_state, log_metric,
    package.module.function    log_extra. Parameters named `gold` (the answer) or `solution` (the worked solution, else
                               the answer in a box) get gold; without them it gets none. It may be async
    a folder or a hub name     a sequence classifier with one output (RLHF); it reads prompt and completion, by its own
                               chat template where the prompts are conversations

Python's path and the current folder are searched for the module. Importing it runs its code, so name only code that you
trust. Models load without remote code, in eval mode. A wrong count, NaN, or an exception stops the run at a checkpoint.
None marks a completion that cannot be scored.
"""

import asyncio
import importlib
import inspect
import math
import numbers
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rlif.errors import ModelError, RecipeError, RewardError, first_line
from rlif.graders.batch import Batch
from rlif.moved import MOVED, where_moved
from rlif.tasks.rendering import conversation_text

GOLD = ("gold", "solution")
BATCH = 16
MISSING = object()


def import_function(name: str) -> Callable[..., Any]:
    """Imports the function that a dotted path names.

    Raises:
        RecipeError: there is no such module or function, or it is not callable.
    """
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    here, known = str(Path.cwd()), list(sys.path)
    sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute, MISSING)
    except ImportError as error:
        if moved := where_moved(error.name):
            raise RecipeError(f"cannot import the reward {name}: {moved}.") from error
        advice = "go to the folder that its module lies in, or add that to PYTHONPATH"
        raise RecipeError(f"cannot import the reward {name}: {first_line(error)}; {advice}.") from error
    except (Exception, SystemExit) as error:  # importing runs the user's code, which can raise anything
        raise RecipeError(f"importing the reward {name} raises {type(error).__name__}: {first_line(error)}.") from error
    finally:
        sys.path[:] = known
    if found is MISSING:
        if module in MOVED:
            raise RecipeError(f"cannot import the reward {name}: {where_moved(module)}.")
        raise RecipeError(f"the module {module} has no {attribute!r}, which the reward {name} names.")
    if not callable(found):
        raise RecipeError(f"the reward {name} is a {type(found).__name__}, not a function.")
    return found


def needs_gold(function: Callable[..., Any]) -> bool:
    """Tells whether a reward function has a parameter of `GOLD`."""
    return any(name in GOLD for name in inspect.signature(function).parameters)


def reward_function(name: str, function: Callable[..., Any]) -> Callable[[Batch], list[float | None]]:
    """Makes a grader that calls a TRL reward function and checks what it returns."""
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def grade(batch: Batch) -> list[float | None]:
        columns: dict[str, Any] = {
            "prompts": list(batch.prompts),
            "completions": list(batch.completions),
            "completion_ids": [list(ids) for ids in batch.completion_ids],
            **batch.engine,
        }
        if batch.problems is not None and needs_gold(function):
            columns["gold"] = [problem.gold for problem in batch.problems]
            boxed = [None if gold is None else f"\\boxed{{{gold}}}" for gold in columns["gold"]]
            columns["solution"] = [p.solution or box for p, box in zip(batch.problems, boxed, strict=True)]
        given = {key: value for key, value in columns.items() if key in parameters or (takes_all and key not in GOLD)}
        try:
            values = function(**given)
            if inspect.isawaitable(values):
                values = asyncio.run(_awaited(values))
        except (Exception, SystemExit) as error:  # the user's code can raise anything
            raise RewardError(
                f"the reward function {name} raised {type(error).__name__}: {first_line(error)}"
            ) from error
        return checked(name, values, len(batch.texts))

    return grade


async def _awaited(values: Awaitable[Any]) -> Any:
    return await values


def checked(name: str, values: Any, count: int) -> list[float | None]:
    """Checks what a reward function returned, and converts it to numbers or None.

    Raises:
        RewardError: a wrong count, NaN or infinity, or a value that is not a number.
    """
    if hasattr(values, "tolist"):  # a tensor, an array
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RewardError(
            f"the reward function {name} returned a {type(values).__name__}; it must return a list of numbers"
        )
    if len(values) != count:
        raise RewardError(
            f"the reward function {name} returned {len(values)} rewards for {count} completions; it must return one"
            " each"
        )
    values = [value.item() if hasattr(value, "item") else value for value in values]
    for value in values:
        if value is not None and not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise RewardError(
                f"the reward function {name} returned {value!r}; rewards are finite numbers, or None for a completion"
                " that cannot be scored"
            )
    return [None if value is None else float(value) for value in values]


def model_device() -> torch.device:
    """Returns the accelerator that models of rewards run on, or the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def load_classifier(kind: str, name: str) -> tuple[Any, Any]:
    """Loads the tokenizer and the model of a sequence classifier, in eval mode, with a padding token.

    Raises:
        ModelError: it cannot be loaded; the message says which `kind` of model.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model: Any = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load the {kind} model {name!r}: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.eval().to(model_device())


def reward_model(name: str) -> Callable[[Batch], list[float | None]]:
    """Makes a grader from a sequence classifier.

    Raises:
        ModelError: it cannot be loaded, or has more than one output.
    """
    tokenizer, model = load_classifier("reward", name)
    if model.config.num_labels != 1:
        raise ModelError(f"the reward model {name!r} has {model.config.num_labels} outputs; a reward model has one.")

    def join(prompt: Any, completion: Any) -> str:
        if isinstance(prompt, str):
            return prompt + completion
        if tokenizer.chat_template is None:
            raise RewardError(
                f"the reward model {name!r} has no chat template; train with chat=false, or choose another"
            )
        try:
            return conversation_text(tokenizer, [*prompt, *completion])
        except ModelError as error:
            raise RewardError(f"the reward model {name!r}: {error}") from error

    @torch.no_grad()
    def grade(batch: Batch) -> list[float | None]:
        texts = [join(*pair) for pair in zip(batch.prompts, batch.completions, strict=True)]
        values: list[float] = []
        for start in range(0, len(texts), BATCH):
            inputs = tokenizer(
                texts[start : start + BATCH], padding=True, return_tensors="pt", add_special_tokens=False
            ).to(model.device)
            values += model(**inputs).logits[:, 0].float().tolist()
        return checked(name, values, len(texts))

    return grade
