"""Applies a task's protocol to a model: prompt, chat template, decoding, completions as marked records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlif.errors import ModelError
from rlif.sampling.sampler import Completion, Decoding
from rlif.tasks import Mark, Task
from rlif.tasks.chat_template import OPEN, Chat, chat_of
from rlif.tasks.prompts import Prompt, find_prompt
from rlif.tasks.rendering import ends_of, render_all
from rlif.types import Problem

Record = dict[str, Any]


def decoding_of(task: Task, **changes: Any) -> Decoding:
    """Returns the decoding of a task's protocol; `changes` that are None are ignored."""
    protocol = task.protocol
    decoding = {key: getattr(protocol, key) for key in ("max_tokens", "temperature", "top_p", "stop", "n")}
    return Decoding(**decoding | {key: value for key, value in changes.items() if value is not None})


def mark(
    task: Task,
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    n: int,
    unsafe_local: bool = False,
    graded: bool = True,
) -> list[Record]:
    """Marks completions and returns their records, n in a row per problem; `problems` has one for each completion.

    Args:
        graded: gives a verdict; else `right` is None, and nothing that a model wrote is run.
    """
    texts = [completion.text for completion in completions]
    if graded:
        marks = task.mark(problems, texts, unsafe_local=unsafe_local)
    else:
        marks = [Mark(task.answer(problem, text), None) for problem, text in zip(problems, texts, strict=True)]
    return [
        {
            "id": problem.id,
            "sample": i % n,
            "completion": completion.text,
            "answer": found.answer,
            "right": found.right,
            "self_certainty": completion.self_certainty,
            "tokens": len(completion.completion_ids),
            "truncated": completion.truncated,
        }
        for i, (problem, completion, found) in enumerate(zip(problems, completions, marks, strict=True))
    ]


@dataclass(frozen=True)
class Setup:
    """Says how problems are put to a model."""

    prompt: Prompt  # the template
    chat: Chat  # whether it goes through the chat template, and how
    decoding: Decoding  # how completions are sampled


def setup_of(
    task: Task,
    tokenizer: Any,
    *,
    prompt: Prompt | None = None,
    chat: Chat | bool | None = None,
    decoding: Decoding | None = None,
    trained_with: Chat = OPEN,
) -> Setup:
    """Returns the setup of a task's protocol, with what is given instead.

    Args:
        chat: what it leaves open is the protocol's, then that of `trained_with`. Where these are silent too, the
            chat template is used if the tokenizer has one.
        decoding: its `ends` are replaced by those of the chat template.
        trained_with: how prompts were rendered in the run that trained the model.
    """
    chat = chat_of(chat).over(Chat(task.protocol.chat)).over(trained_with)
    if chat and not tokenizer.chat_template:
        raise ModelError("this protocol needs a chat template and the tokenizer has none; give chat=False, --no-chat.")
    chat = chat.over(Chat(bool(tokenizer.chat_template)))
    decoding = replace(decoding or decoding_of(task), ends=ends_of(tokenizer, chat))
    return Setup(prompt or find_prompt(task.protocol.prompt), chat, decoding)


def render_problems(
    tokenizer: Any, prompt: Prompt | None, problems: Sequence[Problem], chat: Chat | bool, task: Task
) -> list[list[int]]:
    """Renders problems after their shots as token ids, by the protocol's template if `prompt` is None.

    The last shots are dropped until a prompt fits.
    """
    prompt = prompt or find_prompt(task.protocol.prompt)
    limit, shots = task.protocol.max_prompt_tokens, [list(problem.shots) for problem in problems]
    rendered: dict[int, list[int]] = {}
    left = list(range(len(problems)))
    while left:
        shown = [_shown(problems[i], shots[i]) for i in left]
        rendered |= zip(left, render_all(tokenizer, prompt, shown, chat), strict=True)
        left = [i for i in left if shots[i] and limit is not None and len(rendered[i]) > limit]
        for i in left:
            shots[i].pop()
    return [rendered[i] for i in range(len(problems))]


def _shown(problem: Problem, shots: Sequence[str]) -> Any:
    return problem.prompt if problem.history else "".join([problem.preamble, *shots, problem.text])
