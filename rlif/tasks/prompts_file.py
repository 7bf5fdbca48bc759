"""Loads unlabelled prompts from a file: one per line of a .txt, or text or conversations of another format."""

from typing import ClassVar

from rlif.errors import RecipeError
from rlif.tasks.rows import read_entries
from rlif.tasks.task import Task
from rlif.types import Problem


class PromptsFile(Task):
    """Your own prompts, from the column `prompt`, else `messages` or `conversations`.

    They have no labels, unless the key `columns` names the column of the golds.
    """

    name = "prompts"
    usual: ClassVar = {"prompt": "prompt"}

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if source is None:
            raise RecipeError("task prompts needs a file; give one with source=PATH.")
        entries = read_entries(source, split, self.usual, self.columns)[:limit]
        return [entry.problem(f"prompts/{number}", entry.golds) for number, entry in enumerate(entries)]
