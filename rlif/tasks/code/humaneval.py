"""Loads HumanEval: complete a Python function from its signature and docstring. 164 problems (arXiv 2107.03374).

completion   the model continues the text, as a base model does; graded by the problem's own tests
chat         the prompt asks for the whole function; of several blocks, the last that defines it counts (`blocks`)
plus         as `completion`, graded by HumanEval+: outputs must equal the reference's on many more inputs; needs its
             rows, HumanEvalPlus.jsonl (arXiv 2305.01210)

The tests run in another process and call the model's function through a pipe. Tests of two problems draw random words,
which are seeded here.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from rlif.answers.extraction import whole_text
from rlif.files.tables import home, read_rows
from rlif.sandbox.runner import Limits, Program
from rlif.tasks.code.blocks import defining, program_of
from rlif.tasks.code.evalplus import load_plus, plus_trials
from rlif.tasks.code.programs import CodeTask, Trial
from rlif.tasks.task import Protocol
from rlif.types import Problem

LIMITS = Limits(seconds=10)
COMPLETION = Protocol(
    "code-body",
    chat=False,
    max_tokens=512,
    stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    extract=whole_text,
    source="arXiv 2107.03374; 10 seconds in place of 3",
)


class HumanEval(CodeTask):
    """Problems that ask for a function, given its docstring."""

    name = "humaneval"
    protocols = {
        "completion": COMPLETION,
        "chat": Protocol(
            "code-function", extract=program_of, version=2, source="ours; the problems are arXiv 2107.03374's"
        ),
        "plus": replace(COMPLETION, source="EvalPlus 0.2, HumanEval+"),
    }
    splits = ("test",)

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if self.protocol_name == "plus":
            source = source or home("humaneval/HumanEvalPlus.jsonl.gz", "evalplus/humanevalplus")
            return load_plus(source, split, limit)
        source = source or home("humaneval/HumanEval.jsonl", "openai/openai_humaneval")
        columns = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
        return [
            Problem(
                row["task_id"],
                row["prompt"],
                row["canonical_solution"],
                data={"name": row["entry_point"], "prompt": row["prompt"], "test": row["test"]},
                row=row,
            )
            for row in read_rows(source, split, columns)[:limit]
        ]

    def answer(self, problem: Problem, completion: str) -> str | None:
        if self.protocol_name == "chat":
            return defining(completion, re.escape(problem.data["name"]))
        return super().answer(problem, completion)

    def trials(self, problem: Problem, answer: str) -> bool | Sequence[Trial]:
        data, name = problem.data, problem.data["name"]
        source = completed(data["prompt"], name, answer)
        if self.protocol_name == "plus":
            return plus_trials(problem, source, extra=True)
        seeded = "import random\nrandom.seed(0)\n"
        tests = f"{data['prompt']}\n    pass\n\n{seeded}{name} = proxy({name!r})\n{data['test']}\n\ncheck({name})\n"
        return [Trial(Program(source, tests=tests, limits=LIMITS))]

    def gold_completion(self, problem: Problem) -> str | None:
        if self.protocol_name == "chat":
            return f"```python\n{problem.data['prompt']}{problem.gold}\n```"
        return problem.gold


def completed(prompt: str, name: str, answer: str) -> str:
    """Joins prompt and answer; an answer that is the whole function replaces the function in the prompt."""
    if re.search(rf"^def {re.escape(name)}\b", answer, re.MULTILINE):
        return f"{prompt[: max(prompt.rfind(f'def {name}('), 0)]}\n{answer}\n"
    return f"{prompt}{answer}\n"
