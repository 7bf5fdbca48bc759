"""MMLU-Pro: 12,032 multiple-choice questions of 14 subjects with up to ten options (arXiv 2406.01574).

official    five worked questions of the same subject, from the validation split, before each question; greedy, 2,048
            tokens. Worked questions are left out, the last first, until the prompt has less than 2,048 tokens
guess       the same, and where no letter is found a letter is drawn, as the published script does: its generator is
            seeded anew for every question, so what is drawn depends on the number of options alone
lighteval   no examples

An answer that gives no letter counts as unanswered and wrong, except under `guess`, where it is unanswered still but
right if the draw is. The published figures are made with the draw; it adds about a tenth of the unanswered share.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlif.answers.extraction import choice_letter
from rlif.errors import DataError, RlifError
from rlif.files.tables import home, read_rows
from rlif.tasks.task import Mark, Protocol, Task
from rlif.types import Problem

LETTERS = "ABCDEFGHIJ"
SEED = 12345  # of the published draw
THINK = "Let's think step by step."


def same_letter(answer: str, gold: str) -> bool:
    """Whether two letters are the same."""
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
    """Knowledge and reasoning with ten options."""

    name = "mmlu_pro"
    protocols = {
        "official": OFFICIAL,
        "guess": replace(OFFICIAL, source="TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py; our words"),
        "lighteval": replace(
            OFFICIAL, prompt="multiple-choice", chat=None, max_prompt_tokens=None, stop=(), source="lighteval 0.13"
        ),
    }
    splits = ("validation", "test")

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        source = source or home("mmlu_pro", "TIGER-Lab/MMLU-Pro")
        rows = read_rows(
            source, split, ("question", "category", "answer"), present=("question_id",), lists=("options",)
        )[:limit]
        if self.protocol_name == "lighteval":
            return [_problem(row, f"{row['question']}\n\n{_options(row, ') ')}") for row in rows]
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
    """The letter that the published script draws for a question with so many options where it finds none."""
    return LETTERS[random.Random(SEED).randint(0, options - 1)]


def _worked(source: str) -> Mapping[str, list[str]]:
    """The worked questions of each subject, in the order of the validation split."""
    place = Path(source).expanduser()
    if place.is_file():
        source = str(place.parent)
    try:
        rows = read_rows(source, "validation", ("question", "category", "cot_content"), lists=("options",))
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
    data = {"options": _kept(row), "category": row["category"]}
    return Problem(f"mmlu_pro/{row['question_id']}", text, row["answer"], row.get("cot_content") or None, data)


def _kept(row: Mapping[str, Any]) -> list[str]:
    """The options, without the fillers."""
    return [option for option in row["options"] if option != "N/A"]


def _options(row: Mapping[str, Any], mark: str) -> str:
    return "\n".join(f"{letter}{mark}{option}" for letter, option in zip(LETTERS, _kept(row), strict=False))


def _question(row: Mapping[str, Any]) -> str:
    return f"Question:\n{row['question']}\nOptions:\n{_options(row, '. ')}\n"
