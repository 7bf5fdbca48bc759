"""Gives the sums in words of `easy/story` as plain text, where a model can go on to a next problem after its answer."""

from dataclasses import replace

from rlif.tasks.easy import Easy, examples, find_family
from rlif.types import Problem

STORY = find_family("easy/story").protocols["default"]


class PlainStory(Easy):
    """Problems of easy/story after one solved problem, without a chat template; completions may have 64 tokens.

    The answer is the last number, so a next problem after the first changes it.
    """

    name = alias = "plain-story"
    family = "story"
    protocols = {"default": replace(STORY, prompt="question-answer", max_tokens=64)}

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        question, answer = (message["content"] for message in examples(self.family)[:2])
        before = f"{question}\nAnswer: {answer}\n\nQuestion: "
        problems = super().load(split, source=source, limit=limit, seed=seed)
        return [replace(each, text=before + each.text, history=()) for each in problems]
