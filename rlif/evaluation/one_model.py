"""`rlif.evaluate`: the accuracy of one model on one task, from Python."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

from rlif.config.recipe import Recipe
from rlif.errors import RecipeError, nearest
from rlif.evaluation.evaluate import evaluate as evaluate_sampler
from rlif.evaluation.grid import candidates, evaluate_candidate, load_problems, options_of
from rlif.evaluation.scores import Scores
from rlif.sampling.limits import check_pair
from rlif.sampling.loading import load_tokenizer, trained_with
from rlif.sampling.protocol import decoding_of, setup_of
from rlif.sampling.sampler import TransformersSampler
from rlif.tasks import Task, find_task
from rlif.tasks.chat_template import Chat
from rlif.tasks.prompts import Prompt


class Changes(TypedDict, total=False):
    """What may be changed about an evaluation; what is left out is the task's protocol."""

    split: str  # part of the data; the last one, held out, if left out
    limit: int  # at most this many problems
    source: str  # where the task reads from, instead of its usual place
    columns: Mapping[str, str]  # columns of prompt and gold, as {prompt: frage, gold: antwort}
    n: int  # completions per problem; above 1 at temperature 1
    temperature: float  # 0 is greedy
    top_p: float
    max_tokens: int  # completion limit
    seed: int  # of sampling
    prompt: str | Mapping[str, str] | Prompt  # a template's name, or {system: ..., user: ...}
    chat: Chat | bool  # whether prompts go through the chat template
    batch_size: int  # completions at a time
    engine: str  # transformers or vllm
    dtype: str  # type of the weights, of a model given by name
    revision: str  # branch, tag or commit, of a model given by name
    overwrite: bool  # replace scores of other settings
    unsafe_local: bool  # run programs that the model writes without a sandbox


OF_NAMES = ("dtype", "revision", "overwrite", "engine")  # changes that need a model given by name


def evaluate(
    model: Any, task: str | Task, *, tokenizer: Any = None, output: str | Path | None = None, **changes: Unpack[Changes]
) -> Scores:
    """Samples, grades and scores completions of a task's problems, as `rlif eval` does.

    Args:
        model: a hub name, a folder, or a causal language model of transformers.
        task: a name of `rlif.TASKS`, or a task.
        tokenizer: that of a loaded model; a name brings its own.
        output: a folder for records and scores, where an evaluation that was killed goes on; they stay in memory if
            left out. For a model given by name.
        changes: see `Changes`.

    Returns:
        `Scores`: `accuracy` with n and its interval, and the records where they are not in files.

    Raises:
        RlifError: there is no such model, task or change, or they do not go together.

    Example:
        >>> rlif.evaluate("tiny-reasoner", "clock", limit=64).accuracy
        Interval(n=64, mean=0..., low=0..., high=0..., clusters=None)
    """
    if unknown := sorted(changes.keys() - Changes.__annotations__.keys()):
        raise RecipeError(f"evaluate takes no {unknown[0]!r}; {nearest(unknown[0], Changes.__annotations__)}")
    if not isinstance(task, str | Task):
        raise RecipeError(f"the task is a {type(task).__name__}; give a name of rlif.TASKS, or a task.")
    task = find_task(task) if isinstance(task, str) else task
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    columns, source = given.pop("columns", {}), given.pop("source", None)
    loading = {key: given.pop(key) for key in ("dtype", "revision") if key in given}
    options = options_of(sources={} if source is None else {task.name: source}, **given)
    by_name = isinstance(model, str | Path)
    if by_name and tokenizer is not None:
        raise RecipeError(f"{model} brings its own tokenizer; leave tokenizer out, or give a loaded model.")
    if by_name and (Path(model).expanduser() / "recipe.yaml").is_file():
        raise RecipeError(f"{model} is a run folder; name one model, {model}/model. `rlif eval` evaluates them all.")
    if not by_name:
        check_pair(model, tokenizer := _read(tokenizer))
        if needing := sorted({*OF_NAMES} & changes.keys()) or (["output"] if output else []):
            raise RecipeError(f"{needing[0]} is for a model given by name; a loaded model is evaluated in memory.")
    ((task, problems),) = load_problems([task], options, columns)
    if by_name:
        (candidate,) = candidates(str(model), None if output is None else Path(output), **loading)
        return evaluate_candidate(candidate, [(task, problems)], options)[task.name]
    how = {"prompt": options.prompt, "chat": options.chat, "trained_with": trained_with(model.config.name_or_path)}
    setup = setup_of(task, tokenizer, decoding=decoding_of(task, **options.decoding), **how)
    sampler = TransformersSampler(model, tokenizer, options.batch_size)
    return evaluate_sampler(sampler, task, problems, setup, unsafe_local=options.unsafe_local)


def _read(tokenizer: Any) -> Any:
    """Loads a tokenizer that is given by name; gives one without a pad token that of the end, in a copy."""
    if isinstance(tokenizer, str | Path):
        return load_tokenizer(Recipe(model=str(tokenizer), chat=False))
    if tokenizer is not None and getattr(tokenizer, "pad_token_id", 0) is None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
