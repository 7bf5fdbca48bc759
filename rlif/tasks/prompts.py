"""Defines prompt templates, which turn a problem into a prompt. A new prompt is one entry of `PROMPTS`.

The `intuitor-*` templates express in our words what Appendix B.1 of the paper has for models of that size. To use its
text verbatim, put it into a recipe: `prompt: {system: ..., user: "{problem}"}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlif.errors import DataError, RecipeError, lookup
from rlif.files import own
from rlif.files.yaml import read_yaml
from rlif.types import Message

YAML = (".yaml", ".yml")

BOXED = "Think step by step, then give the final answer in \\boxed{}."
STEPS = (
    "You are a helpful assistant. First think the problem through step by step, then give the user the final answer"
    " inside \\boxed{}."
)
ASSERTION = "Below are a Python function and an assertion about what it returns for one input."


@dataclass(frozen=True)
class Prompt:
    """A template: `user` contains `{problem}`; `system` may be empty; `end` follows if no chat template is used."""

    user: str = "{problem}"
    system: str = ""
    end: str = "\n"

    def messages(self, problem: str | Sequence[Message]) -> list[Message]:
        """Renders the prompt as the start of a conversation.

        A problem that is a conversation keeps its own system message; the template's `user` takes its last message.
        """
        history, last = ([], problem) if isinstance(problem, str) else (list(problem[:-1]), problem[-1]["content"])
        own = any(message["role"] == "system" for message in history)
        system = [{"role": "system", "content": self.system}] if self.system and not own else []
        return [*system, *history, {"role": "user", "content": self.user.replace("{problem}", last)}]

    def text(self, problem: str | Sequence[Message]) -> str:
        """Renders the prompt as text, without a chat template; refuses several turns."""
        messages = self.messages(problem)
        if any(message["role"] != "system" for message in messages[:-1]):
            raise DataError(
                f"a prompt is a conversation of {len(messages)} messages, which takes a chat template; leave chat=false"
                " (--no-chat) out, or use prompts of one message."
            )
        return "\n\n".join(message["content"] for message in messages) + self.end


PROMPTS: dict[str, Prompt] = {
    "plain": Prompt(),
    "brief": Prompt(system="Answer briefly.", user="{problem}"),
    "boxed": Prompt(user="{problem}\n" + BOXED),
    "intuitor-1.5b": Prompt(system=STEPS),
    "intuitor-3b": Prompt(system=f"{STEPS} Stop as soon as the box is closed."),
    "intuitor-7b": Prompt(system="You are a helpful assistant. Solve the user's problem step by step."),
    "intuitor-other": Prompt(system=BOXED),  # the reference code's prompt for all other models
    "question-answer": Prompt(user="Question: {problem}\nAnswer:", end=""),
    "answer-tags": Prompt(
        user="{problem}\n\nThink step by step, then give the final answer alone, in the form that is asked for, between"
        " <answer> and </answer>."
    ),
    "answer-line": Prompt(
        user="Solve this problem. Think step by step, and let the last line be your answer in the form"
        ' "ANSWER: $ANSWER", without the quotes.\n\n{problem}'
    ),
    "cruxeval-direct": Prompt(
        user=ASSERTION + " Complete the assertion with that value, written as a literal, even where the function looks"
        " wrong. Write the whole assertion between [ANSWER] and [/ANSWER] as in the examples, and nothing else."
        "\n\n{problem}",
        end="",
    ),
    "cruxeval-cot": Prompt(
        user=ASSERTION + " Run the function step by step in your thoughts, then complete the assertion with that value,"
        " written as a literal, even where the function looks wrong. Write the whole assertion between [ANSWER] and"
        " [/ANSWER] as in the example.\n\n{problem}",
        end="",
    ),
    "mmlu-pro": Prompt(
        user="These are multiple-choice questions and their answers. Think step by step, and finish your answer with"
        ' "the answer is (X)", where X is the letter of the right option.\n\n{problem}',
        end="",
    ),
    "multiple-choice": Prompt(
        user="Answer this multiple-choice question. Think step by step, and let the last line of your answer be"
        ' "Answer: X", without the quotes, where X is the letter of the right option.\n\n{problem}'
    ),
    "code-body": Prompt(user="{problem}", end=""),
    "code-function": Prompt(
        user="Write the Python function below in full and put it into one block of code between lines of three"
        " backquotes.\n\n{problem}"
    ),
    "code-program": Prompt(
        system="You are an expert Python programmer. You are given a problem and write a correct Python program that"
        " solves it and passes all tests. You answer with the program and nothing else.",
        user="{problem}",
        end="",
    ),
}


def find_prompt(name: str | Mapping[str, Any] | Prompt) -> Prompt:
    """Returns a template by name, or from a mapping {system: ..., user: ...}, which may stand in a YAML file.

    The name may stand for a `Prompt` or a mapping of one's own: `my_module:SHORT`, `prompts.py:SHORT`.
    """
    found: Any = name
    if isinstance(name, str):
        if own.is_own(name):
            found = own.load(name, "prompt")
        else:
            found = read_yaml(Path(name)) if name.endswith(YAML) else lookup(PROMPTS, name, "prompt")
    if isinstance(found, Mapping):
        unknown = set(found) - {"system", "user", "end"}
        if unknown or not all(isinstance(part, str) for part in found.values()):
            raise RecipeError(
                "a prompt spelled out has the texts system, user and end, each optional, and nothing else."
            )
        found = Prompt(**found)
    if not isinstance(found, Prompt):
        what = f"the prompt {name}" if isinstance(name, str) else "the prompt"
        raise RecipeError(
            f"{what} is a {type(found).__name__}; expected a template's name, a Prompt, or {{system: ..., user: ...}}."
        )
    if "{problem}" not in found.user:
        raise RecipeError("the user part of a prompt needs {problem} where the problem goes.")
    return found


def spelled_out(name: str | Mapping[str, Any]) -> str | dict[str, str]:
    """Returns a prompt of one's own as a mapping, which needs no file of the user's; others as they are."""
    if not isinstance(name, str) or not (own.is_own(name) or name.endswith(YAML)):
        return dict(name) if isinstance(name, Mapping) else name
    return {key: value for key, value in asdict(find_prompt(name)).items() if value != getattr(Prompt, key)}
