r"""Checks before step 1 that completions end where they should: the most common failure of confidence as a reward.

A token ends a completion; the chat template ends a turn. Where they differ, usually in a base model with a chat
template, completions run on into a second problem. That is easy and certain, so training teaches more of it. A few
prompts are completed as training would complete them:

    stop token    does the token that closes the assistant's turn in the chat template end a completion? Completions
                  end there too, unless it would stay in their text or the engine cannot be told
    truncated     how many completions end at the token limit instead
    goes on       how many go on after their answer or open a new problem, see `rlif.guard.health`
    unanswered    how many have no answer that the task finds

Each makes at most one warning, with the remedy. The random state is put back.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlif import progress
from rlif.guard.health import goes_on
from rlif.sampling.sampler import Decoding, TransformersSampler
from rlif.tasks import Task
from rlif.tasks.chat_template import Chat
from rlif.tasks.prompts import Prompt
from rlif.tasks.rendering import ends_of, render_all, turn_end
from rlif.types import Problem

MANY = 0.25  # share of completions from which on a habit is worth a warning


@progress.task("checking prompts")
def check_prompts(
    model: Any,
    tokenizer: Any,
    task: Task,
    problems: Sequence[Problem],
    *,
    prompt: Prompt,
    chat: Chat | bool,
    decoding: Decoding,
) -> list[str]:
    """Returns warnings about prompts, stop token and token limit; none where all is well.

    Args:
        decoding: as in training, with all tokens that end a completion there; as outside of it without any.

    Example:
        >>> from rlif.tasks.prompts import PROMPTS
        >>> task = rlif.TASKS["clock"]
        >>> options = {"prompt": PROMPTS["plain"], "chat": True, "decoding": Decoding(2, temperature=1.0)}
        >>> check_prompts(model, tokenizer, task, task.load("test", limit=4), **options)
        ['...4 of 4 completions do not end within 2 tokens...']
    """
    ends = decoding.ends or tuple(stops(model, tokenizer, chat))
    warnings = [stop_warning(tokenizer, ends, chat)] if chat else []
    sampler = TransformersSampler(model, tokenizer, batch_size=len(problems))
    ids = render_all(tokenizer, prompt, [problem.prompt for problem in problems], chat)
    found = sampler.sample(ids, replace(decoding, ends=ends))
    n, truncated = len(found), sum(completion.truncated for completion in found)
    running = sum(goes_on(completion.text) for completion in found)
    answers = [task.answer(problem, completion.text) for problem, completion in zip(problems, found, strict=True)]
    if truncated >= MANY * n:
        warnings.append(
            f"{truncated} of {n} completions do not end within {decoding.max_tokens} tokens; if they are still at work"
            " raise training.max_completion_length, if they are done check the stop token."
        )
    if running >= MANY * n:
        warnings.append(
            f"{running} of {n} completions go on after their answer or open a new problem, which training will teach;"
            " use a prompt that says to stop after the answer, or a model that ends its turns."
        )
    if answers.count(None) >= (1 - MANY) * n:
        warnings.append(
            f"{answers.count(None)} of {n} completions have no answer that task {task.name} finds; use a prompt that"
            " asks for its form. (A task without answers always says this; it can be ignored there.)"
        )
    return [warning for warning in warnings if warning]


def stops(model: Any, tokenizer: Any, chat: Chat | bool) -> list[int]:
    """Returns all tokens that end a completion outside training."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *configured, *ends_of(tokenizer, chat)} - {None})


def stop_warning(tokenizer: Any, ends: Sequence[int], chat: Chat | bool = True) -> str | None:
    """Says what to do where the chat template ends a turn with a token that does not end a completion; else None."""
    end = turn_end(tokenizer, chat)
    if end is None or end in ends:
        return None
    names = " or ".join(repr(tokenizer.convert_ids_to_tokens(stop)) for stop in sorted(ends))
    name = tokenizer.convert_ids_to_tokens(end)
    return (
        f"the chat template ends a turn with {name!r}, but completions end at {names} only, so they may run on; save"
        f" the model with tokenizer.eos_token = {name!r}, or with {end} among generation_config.eos_token_id."
    )
