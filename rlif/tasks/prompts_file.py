"""Loads unlabelled prompts from a file: one per line of a .txt, or the column `prompt` of another format."""

from rlif.errors import RecipeError
from rlif.files.tables import read_rows
from rlif.tasks.task import Task
from rlif.types import Problem


class PromptsFile(Task):
    """Your own prompts, without labels. Other columns of the file are not read."""

    name = "prompts"

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if source is None:
            raise RecipeError("task prompts needs a file; give one with source=PATH.")
        rows = read_rows(source, split, ("prompt",))[:limit]
        return [Problem(f"prompts/{number}", row["prompt"]) for number, row in enumerate(rows)]
