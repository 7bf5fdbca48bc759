"""Loads rewards from outside the package: a reward function written for TRL, or a reward model.

    package.module:function    called as TRL calls it: prompts, completions, completion_ids, trainer_state, log_metric,
    package.module.function    log_extra, and the columns of the data by name, as lists with one value per completion.
                               `**kwargs` gets all columns. Parameters named `gold` (the answer; a list where several
                               are right) or `solution` (the worked solution, else the answer in a box) get gold, also
                               where no column has that name. It may be async
    a folder or a hub name     a sequence classifier with one output (RLHF); it reads prompt and completion, by its own
                               chat template where the prompts are conversations

`rlif.files.own` finds the function; a file works as well, `rewards.py:function`. Importing it runs its code, so name
only code that you trust. Models load without remote code, in eval mode. A wrong count, NaN, or an exception stops the
run at a checkpoint. None marks a completion that cannot be scored.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from rlif.errors import ModelError, RecipeError, RewardError, first_line
from rlif.files import own
from rlif.graders.batch import Batch
from rlif.scoring.head import longest_sequence
from rlif.tasks.chat_template import WITH_TEMPLATE, Chat, reads, try_ahead
from rlif.tasks.rendering import MARK, conversation_text
from rlif.types import Problem

GOLD = ("gold", "solution")
ENGINE = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra", "environments")
KEPT = {"prompt", "completion", "completion_ids"}  # columns that TRL does not pass on
BATCH = 16


def import_function(name: str) -> Callable[..., Any]:
    """Imports the function that a dotted path or a file names."""
    found = own.load(name, "reward")
    if not callable(found):
        raise RecipeError(f"the reward {name} is a {type(found).__name__}, not a function.")
    try:
        inspect.signature(found)
    except ValueError as error:  # of some functions written in C
        raise RecipeError(f"the reward {name} does not tell its parameters; call it in a function of yours.") from error
    return found


def own_grader(name: str) -> Callable[[Batch], list[float | None]]:
    """Returns a grader of one's own, a function over a `Batch`."""
    return own.with_checks(f"grader {name}", import_function(name), lambda batch: len(batch.texts))


def needs_gold(function: Callable[..., Any]) -> bool:
    """Tells whether a reward function has a parameter of `GOLD`."""
    return any(name in GOLD for name in inspect.signature(function).parameters)


def reads_rows(function: Callable[..., Any]) -> bool:
    """Tells whether a reward function takes columns of the data, or gold."""
    return any(name not in ENGINE for name in inspect.signature(function).parameters)


def columns_of(problems: Iterable[Problem]) -> list[str]:
    """Lists the columns that any of the problems has and that reach a reward function."""
    return [name for name in dict.fromkeys(chain.from_iterable(p.row for p in problems)) if name not in KEPT]


def missing_column(function: Callable[..., Any], problems: Sequence[Problem]) -> str | None:
    """Names a parameter that a reward function cannot do without and that no column gives; None if there is none."""
    known = {*ENGINE, *GOLD, *columns_of(problems)}
    for parameter in inspect.signature(function).parameters.values():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if not variadic and parameter.default is parameter.empty and parameter.name not in known:
            return parameter.name
    return None


def _row_columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """Returns the columns of the rows, and what stands for gold and solution where the rows give any."""
    columns = {name: [problem.row.get(name) for problem in problems] for name in columns_of(problems)}
    golds = [problem.row.get("gold") if problem.gold is None else problem.gold for problem in problems]
    golds = [list(p.golds) if p.other_golds else gold for p, gold in zip(problems, golds, strict=True)]
    boxed = [None if problem.gold is None else f"\\boxed{{{problem.gold}}}" for problem in problems]
    solutions = [p.solution or p.row.get("solution") or box for p, box in zip(problems, boxed, strict=True)]
    found = {"gold": golds, "solution": solutions}
    return columns | {name: values for name, values in found.items() if any(value is not None for value in values)}


def reward_function(name: str, function: Callable[..., Any]) -> Callable[[Batch], list[float | None]]:
    """Makes a grader that calls a TRL reward function and checks what it returns."""
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def grade(batch: Batch) -> list[float | None]:
        rows = batch.problems if batch.problems is not None and reads_rows(function) else ()
        columns: dict[str, Any] = {
            **({name: [None] * len(rows) for name in GOLD} if rows else {}),
            **_row_columns(rows),
            "prompts": list(batch.prompts),
            "completions": list(batch.completions),
            "completion_ids": [list(ids) for ids in batch.completion_ids],
            **batch.engine,
        }
        named = {*columns_of(rows)}.union(columns.keys() - GOLD)
        given = {key: value for key, value in columns.items() if key in parameters or (takes_all and key in named)}
        with own.calling(f"reward function {name}"):
            values = function(**given)
            if inspect.isawaitable(values):
                values = asyncio.run(_awaited(values))
        return own.checked(f"reward function {name}", values, len(batch.texts))

    return grade


async def _awaited(values: Awaitable[Any]) -> Any:
    return await values


def model_device() -> str:
    """Returns the accelerator that models of rewards run on, or the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return str(accelerator or "cpu")


def load_classifier(kind: str, name: str, device: str) -> tuple[Any, Any]:
    """Loads the tokenizer and the model of a sequence classifier, in eval mode; to "meta" without its weights.

    Raises:
        ModelError: it cannot be loaded; the message says which `kind` of model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        options: dict[str, Any] = {"trust_remote_code": False, "output_loading_info": True}
        options |= {"device_map": device} if device == "meta" else {}
        model, report = AutoModelForSequenceClassification.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the {kind} model {name!r}: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"the {kind} model {name!r} lacks {missing[0]}, which would be random; it is another kind.")
    tokenizer.padding_side = "right"  # on the left it would shift learned positions
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.eval().to(device)


def batches(tokenizer: Any, model: Any, *texts: Sequence[str], **options: Any) -> Iterator[Any]:
    """Yields the inputs of a classifier for texts, or for pairs of texts, a batch at a time.

    Without a padding token each row is read alone. With EOS as padding, a classifier that reads the last token would
    read the one before an EOS that belongs to the text.
    """
    size = 1 if tokenizer.pad_token_id is None else BATCH
    for start in range(0, len(texts[0]), size):
        part = [column[start : start + size] for column in texts]
        yield tokenizer(*part, padding=size > 1, return_tensors="pt", **options).to(model.device)


def reward_model(
    name: str, chat: Chat = WITH_TEMPLATE, prompt: Any = None, device: str | None = None
) -> Callable[[Batch], list[float | None]]:
    """Makes a grader from a sequence classifier.

    Args:
        chat: how conversations go through its chat template, which is given those arguments that it reads.
        prompt: one of those to come; it is rendered at once, to be refused now if at all.
    """
    tokenizer, model = load_classifier("reward", name, device or model_device())
    limit = longest_sequence(model.config)
    if model.config.num_labels != 1:
        raise ModelError(f"the reward model {name!r} has {model.config.num_labels} outputs; a reward model has one.")

    arguments = {key: value for key, value in (chat.arguments or {}).items() if reads(tokenizer, key)}
    chat = Chat(True, arguments, chat.merge_system)

    def join(prompt: Any, completion: Any) -> str:
        if isinstance(prompt, str):
            return prompt + completion
        if tokenizer.chat_template is None:
            raise RewardError(
                f"the reward model {name!r} has no chat template; train with chat=false, or choose another"
            )
        try:
            return conversation_text(tokenizer, [*prompt, *completion], chat)
        except ModelError as error:
            raise RewardError(f"the reward model {name!r}: {error}") from error

    if prompt is not None:
        try:
            text = join(prompt, MARK if isinstance(prompt, str) else [{"role": "assistant", "content": MARK}])
        except RewardError as error:
            raise ModelError(f"{str(error).rstrip('.')}.") from error
        if MARK not in text:
            raise ModelError(f"the chat template of the reward model {name!r} leaves out the assistant's turn.")

    @torch.no_grad()
    def grade(batch: Batch) -> list[float | None]:
        pairs = [*zip(batch.prompts, batch.completions, strict=True)]
        try_ahead(tokenizer, [[*p, *c] for p, c in pairs if not isinstance(p, str)], chat, opens=False)
        texts = [join(*pair) for pair in pairs]
        values: list[float] = []
        for inputs in batches(tokenizer, model, texts, add_special_tokens=False):
            if limit is not None and inputs["input_ids"].shape[1] > limit:
                raise RewardError(
                    f"the reward model {name!r} reads {limit} tokens, but a prompt with its completion has"
                    f" {inputs['input_ids'].shape[1]}; lower training.max_completion_length, or choose another"
                )
            values += model(**inputs).logits[:, 0].float().tolist()
        return own.checked(f"reward model {name!r}", values, len(texts))

    return grade
