"""Loads GSM8K and MATH, from the hub or from local files in the same layout.

gsm8k    {question, answer}, 7,473 train and 1,319 test; the gold is what follows "####"
math     {problem, solution, ...}, 7,500 train and 5,000 test; the gold is the solution's last box
math500  {problem, answer, ...}, the 500 test problems of MATH that most papers report

Protocols: `boxed` requires a box, in training and in evaluation. `paper` is the setting of arXiv 2505.19590:
lighteval's prompt through the chat template, greedy. `lighteval` is that harness's own protocol (version 0.13; the
paper's was older and may differ); the 256 tokens of GSM8K truncate many chains of thought. `zeroeval` requires a JSON
object; the prompts are that harness's own, verbatim from its rows.
"""

import re
from dataclasses import replace
from typing import ClassVar

from rlif.answers.extraction import answer_line, json_answer, last_boxed, last_expression
from rlif.errors import RecipeError
from rlif.files.tables import home
from rlif.tasks.rows import read_entries
from rlif.tasks.task import Protocol, Task
from rlif.tasks.zeroeval import first_number_equal, load_zeroeval
from rlif.types import Problem

THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # other commas are between the parts of an answer
LIGHTEVAL = "lighteval 0.13; same structure, our words where it has sentences"
QUESTION = Protocol("question-answer", max_tokens=256, stop=("Question:",), extract=last_expression, source=LIGHTEVAL)
LINE = Protocol("answer-line", max_tokens=32768, extract=answer_line, source=LIGHTEVAL)
JSON = Protocol(max_tokens=4096, extract=json_answer, equal=first_number_equal, source="ZeroEval, its own prompts")
PAPER = "arXiv 2505.19590: lighteval through the chat template, greedy; the token limit is training's"


class Gsm8k(Task):
    """Grade-school word problems with whole-number answers (arXiv 2110.14168)."""

    name = "gsm8k"
    protocols = {
        "boxed": Protocol("boxed"),
        "paper": replace(QUESTION, chat=True, max_tokens=3072, stop=(), source=PAPER),
        "lighteval": QUESTION,
        "zeroeval": JSON,
    }
    usual: ClassVar = {"prompt": "question", "gold": "answer"}

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if self.protocol_name == "zeroeval":
            return load_zeroeval("gsm", split, source, limit)
        source = source or home("gsm8k", "openai/gsm8k:main")
        problems = []
        for number, entry in enumerate(read_entries(source, split, self.usual, self.columns)[:limit]):
            worked = [answer.rpartition("####") for answer in entry.golds]
            golds = [gold for *_, tail in worked if (gold := THOUSANDS.sub("", tail.strip()))]
            problems.append(entry.problem(f"gsm8k/{split}/{number}", golds, worked[0][0] if worked else ""))
        return problems


class Math(Task):
    """Competition mathematics (arXiv 2103.03874)."""

    name = "math"
    protocols = {
        "boxed": Protocol("boxed", max_tokens=3072),
        "paper": replace(LINE, chat=True, max_tokens=3072, source=PAPER),
        "lighteval": LINE,
        "zeroeval": JSON,
    }
    usual: ClassVar = {"prompt": "problem", "gold": "answer", "solution": "solution", "id": "unique_id"}

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if self.protocol_name == "zeroeval":
            return load_zeroeval("math-l5", split, source, limit)
        source = source or home("math", "DigitalLearningGmbH/MATH-lighteval")
        problems = []
        for number, entry in enumerate(read_entries(source, split, self.usual, self.columns)[:limit]):
            boxed = last_boxed(entry.solution or "")
            golds = entry.golds or ((boxed,) if boxed else ())
            problems.append(entry.problem(f"{type(self).name}/{split}/{number}", golds))
        return problems


class Math500(Math):
    """The 500 problems of MATH test chosen by arXiv 2305.20050."""

    name = "math500"
    protocols = {name: protocol for name, protocol in Math.protocols.items() if name != "zeroeval"}
    splits = ("test",)

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if split != "test":
            raise RecipeError(f"task math500 has the split test alone, not {split!r}; train on math.")
        source = source or home("math/math500.jsonl", "HuggingFaceH4/MATH-500")
        return super().load(split, source=source, limit=limit, seed=seed)
