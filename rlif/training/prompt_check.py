r"""Checks before step 1 that completions end where they should: the most common failure of confidence as a reward.

A token ends a completion; the chat template ends a turn. Where they differ, usually in a base model with a chat
template, completions run on into a second problem. That is easy and certain, so training teaches more of it. A few
prompts are completed as training would complete them:

    stop token    does the token that closes the assistant's turn in the chat template end a completion?
    truncated     how many completions end at the token limit instead
    goes on       how many go on after their answer or open a new problem, see `rlif.guard.health`
    unanswered    how many have no answer that the task finds

Each makes at most one warning, with the remedy. The random state is put back.
"""

from collections.abc import Sequence
from typing import Any

from rlif.guard.health import goes_on
from rlif.sampling.sampler import Decoding, TransformersSampler
from rlif.tasks import Task
from rlif.tasks.prompts import Prompt
from rlif.tasks.rendering import Chat, conversation_text, render
from rlif.types import Problem

MANY = 0.25  # share of completions from which on a habit is worth a warning
MARK = "rlif-marks-the-end-of-this-turn"


def check_prompts(
    model: Any,
    tokenizer: Any,
    task: Task,
    problems: Sequence[Problem],
    *,
    prompt: Prompt,
    chat: Chat,
    max_tokens: int,
    temperature: float,
) -> list[str]:
    """Returns warnings about prompts, stop token and token limit; none where all is well.

    Example:
        >>> from rlif.tasks.prompts import PROMPTS
        >>> task = rlif.TASKS["clock"]
        >>> options = {"prompt": PROMPTS["plain"], "chat": True, "max_tokens": 2, "temperature": 1.0}
        >>> check_prompts(model, tokenizer, task, task.load("test", limit=4), **options)
        ['...4 of 4 completions do not end within 2 tokens...']
    """
    warnings = [stop_warning(model, tokenizer, chat)] if chat else []
    sampler = TransformersSampler(model, tokenizer, batch_size=len(problems))
    ids = [render(tokenizer, prompt, problem.text, chat) for problem in problems]
    found = sampler.sample(ids, Decoding(max_tokens, temperature=temperature))
    n, truncated = len(found), sum(completion.truncated for completion in found)
    running = sum(goes_on(completion.text) for completion in found)
    answers = [task.answer(problem, completion.text) for problem, completion in zip(problems, found, strict=True)]
    if truncated >= MANY * n:
        warnings.append(
            f"{truncated} of {n} completions do not end within {max_tokens} tokens; if they are still at work raise"
            " training.max_completion_length, if they are done check the stop token."
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


def stop_warning(model: Any, tokenizer: Any, chat: Chat = True) -> str | None:
    """Says what to do where the chat template ends a turn with a token that does not end a completion; else None."""
    end, configured = turn_end(tokenizer, chat), model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    if end is None or end in stops:
        return None
    names = " or ".join(repr(tokenizer.convert_ids_to_tokens(stop)) for stop in sorted(stops))
    name = tokenizer.convert_ids_to_tokens(end)
    return (
        f"the chat template ends a turn with {name!r}, but completions end at {names} only, so they may run on; save"
        f" the model with tokenizer.eos_token = {name!r}, or with {end} among generation_config.eos_token_id."
    )


def turn_end(tokenizer: Any, chat: Chat = True) -> int | None:
    """Finds the token of its own that closes the assistant's turn in the chat template; None where there is none."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
    text = conversation_text(tokenizer, turns, chat)
    after = text.rpartition(MARK)[2].strip()
    ids = tokenizer(text=after, add_special_tokens=False)["input_ids"] if after else []
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    return next((token for token in ids if token in special), None)
