"""GSM8K and MATH, from the hub or from local files in the same layout.

gsm8k    {question, answer}, 7,473 train and 1,319 test; the gold is what follows "####"
math     {problem, solution, ...}, 7,500 train and 5,000 test; the gold is the solution's last box
math500  {problem, answer, ...}, the 500 test problems of MATH that most papers report
"""

from __future__ import annotations

from rlif.errors import RlifError
from rlif.grading import last_boxed
from rlif.tasks.rows import home, read_rows
from rlif.tasks.task import Task
from rlif.types import Problem


class Gsm8k(Task):
    """Grade-school word problems with whole-number answers (arXiv 2110.14168)."""

    name = "gsm8k"
    prompt = "boxed"

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        rows = read_rows(source or home("gsm8k", "openai/gsm8k:main"), split, ("question",))[:limit]
        problems = []
        for number, row in enumerate(rows):
            solution, _, gold = (row.get("answer") or "").rpartition("####")
            problems.append(
                Problem(f"gsm8k/{split}/{number}", row["question"], gold.strip().replace(",", "") or None, solution)
            )
        return problems


class Math(Task):
    """Competition mathematics (arXiv 2103.03874)."""

    name = "math"
    prompt = "boxed"
    max_tokens = 3072

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        rows = read_rows(source or home("math", "DigitalLearningGmbH/MATH-lighteval"), split, ("problem",))[:limit]
        return [
            Problem(
                row.get("unique_id") or f"{self.name}/{split}/{number}",
                row["problem"],
                row.get("answer") or last_boxed(row.get("solution") or "") or None,
                row.get("solution"),
            )
            for number, row in enumerate(rows)
        ]


class Math500(Math):
    """The 500 problems of MATH test chosen by arXiv 2305.20050."""

    name = "math500"

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if split != "test":
            raise RlifError(f"task math500 has the split test alone, not {split!r}; train on math.")
        source = source or home("math/math500.jsonl", "HuggingFaceH4/MATH-500")
        return super().load(split, source=source, limit=limit, seed=seed)
