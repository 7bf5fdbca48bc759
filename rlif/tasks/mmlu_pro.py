"""MMLU-Pro: 12,032 multiple-choice questions of 14 subjects with up to ten options (arXiv 2406.01574).

official    five worked questions of the same subject, from the validation split, before each question; greedy, 2,048
            tokens. Worked questions are left out, the last first, until the prompt has less than 2,048 tokens
guess       the same; if no letter is found a letter is drawn, as in the published script. That script seeds its
            generator again for every question, so the draw depends only on the number of options
lighteval   no examples

An answer without a letter counts as unanswered and wrong. With `guess` it counts as unanswered, but as right if the
drawn letter is right. Published scores use the draw; it adds about a tenth of the unanswered share.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from rlif.answers.extraction import choice_letter
from rlif.errors import DataError, RlifError
from rlif.files.tables import home, read_rows
from rlif.tasks.task import Mark, Protocol, Task
from rlif.types import Problem

LETTERS = "ABCDEFGHIJ"
SEED = 12345  # as in the published script
THINK = "Let's think step by step."


def same_letter(answer: str, gold: str) -> bool:
    """Compares two letters."""
    return answer == gold


OFFICIAL = Protocol(
    "mmlu-pro",
    chat=False,
    max_tokens=2048,
    max_prompt_tokens=2047,
    stop=("Question:",),
    extract=choice_letter,
    equal=same_letter,
    source="TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py; a letter that is missing is wrong, not drawn; our words",
)


class MmluPro(Task):
    """Questions of knowledge and reasoning with up to ten options."""

    name = "mmlu_pro"
    protocols = {
        "official": OFFICIAL,
        "guess": replace(OFFICIAL, source="TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py; our words"),
        "lighteval": replace(
            OFFICIAL, prompt="multiple-choice", chat=None, max_prompt_tokens=None, stop=(), source="lighteval 0.13"
        ),
    }
    splits = ("validation", "test")

    def under(self, protocol: str) -> Self:
        task = super().under(protocol)
        task.reads_data = protocol == "guess"  # the draw depends on the number of options
        return task

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        source = source or home("mmlu_pro", "TIGER-Lab/MMLU-Pro")
        rows = read_rows(
            source, split, ("question", "category", "answer"), present=("question_id",), lists=("options",)
        )[:limit]
        if self.protocol_name == "lighteval":
            return [_problem(row, f"{row['question']}\n\n{_list_options(row, ') ')}") for row in rows]
        shots = {} if split == "validation" else _worked(source)
        return [
            replace(
                _problem(row, f"{_question(row)}Answer: {THINK}"),
                preamble=f"The questions are about {row['category']}.\n\n",
                shots=tuple(shots.get(row["category"], ())),
            )
            for row in rows
        ]

    def mark(
        self, problems: Sequence[Problem], completions: Sequence[str], *, unsafe_local: bool = False
    ) -> list[Mark]:
        marks = super().mark(problems, completions)
        if self.protocol_name != "guess":
            return marks
        return [
            Mark(None, draw(len(problem.data["options"])) == problem.gold) if mark.answer is None else mark
            for mark, problem in zip(marks, problems, strict=True)
        ]

    def gold_completion(self, problem: Problem) -> str | None:
        return f"The answer is ({problem.gold})."


def draw(options: int) -> str:
    """Draws the letter that the published script draws for this number of options."""
    return LETTERS[random.Random(SEED).randint(0, options - 1)]


def _worked(source: str) -> Mapping[str, list[str]]:
    """Loads the worked questions of each subject, in the order of the validation split."""
    path = Path(source).expanduser()
    folder = str(path.parent) if path.is_file() else source
    try:
        rows = read_rows(folder, "validation", ("question", "category", "cot_content"), lists=("options",))
    except RlifError as error:
        raise DataError(
            f"the official form of MMLU-Pro needs the worked questions of its validation split, expected as"
            f" mmlu_pro/validation.jsonl beside the test questions ({str(error).rstrip('.')});"
            " mmlu_pro.lighteval does without."
        ) from error
    shots: dict[str, list[str]] = {}
    for row in rows:
        steps = row["cot_content"].removeprefix("A:").strip()
        shots.setdefault(row["category"], []).append(f"{_question(row)}Answer: {steps}\n\n")
    return shots


def _problem(row: Mapping[str, Any], text: str) -> Problem:
    data = {"options": _options(row), "category": row["category"]}
    return Problem(f"mmlu_pro/{row['question_id']}", text, row["answer"], row.get("cot_content") or None, data, row=row)


def _options(row: Mapping[str, Any]) -> list[str]:
    """Returns the options, without the fillers."""
    return [option for option in row["options"] if option != "N/A"]


def _list_options(row: Mapping[str, Any], mark: str) -> str:
    return "\n".join(f"{letter}{mark}{option}" for letter, option in zip(LETTERS, _options(row), strict=False))


def _question(row: Mapping[str, Any]) -> str:
    return f"Question:\n{row['question']}\nOptions:\n{_list_options(row, '. ')}\n"
