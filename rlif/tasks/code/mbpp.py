"""Loads MBPP: short Python functions from one sentence and three tests. 974 problems (arXiv 2108.07732).

original   three examples, then the problem with its three tests; graded by these. test has 500 problems, train 374
base       EvalPlus' 399 problems, the text and one test as a docstring; outputs must equal the reference's on the
           original inputs (arXiv 2305.01210)
plus       the same, also on the inputs that EvalPlus added
base-ordered, plus-ordered   the same, but the order of elements counts, as in the verdicts published with MBPP+ 0.1.0
           (see `evalplus_oracle`)

In a test `f(x) == y` the model's program computes the left side. Another process computes the right side and compares.
"""

import ast
import builtins
from collections.abc import Sequence

from rlif.answers.extraction import code_or_text
from rlif.errors import DataError, RecipeError, first_line
from rlif.files.tables import Row, home, read_rows
from rlif.sandbox.runner import Limits, Program
from rlif.tasks.code.evalplus import load_plus, plus_trials
from rlif.tasks.code.programs import CodeTask, Trial
from rlif.tasks.task import Protocol
from rlif.types import Problem

LIMITS = Limits(seconds=10)
SPLITS = {"prompt": range(1, 11), "test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
SHOWN = (2, 3, 4)  # of the split named prompt
COLUMNS = {"columns": ("text", "code"), "optional": ("test_setup_code",), "present": ("task_id",)}
COLUMNS |= {"lists": ("test_list",)}
PLUS = Protocol(
    "code-body",
    chat=False,
    max_tokens=768,
    stop=('\n"""', "\nassert", "\nif __name__", "\ndef main(", "\nprint(", "\n```"),
    extract=code_or_text,
    source="EvalPlus 0.2, MBPP+ 0.1.0",
)


class Mbpp(CodeTask):
    """Problems that ask for a function, given one sentence."""

    name = "mbpp"
    protocols = {
        "original": Protocol(
            "code-body",
            chat=False,
            max_tokens=512,
            stop=("[DONE]",),
            extract=code_or_text,
            source="arXiv 2108.07732: three examples, [BEGIN] and [DONE]; our words, greedy",
        ),
        "base": PLUS,
        "plus": PLUS,
        "base-ordered": PLUS,
        "plus-ordered": PLUS,
    }
    splits = ("train", "validation", "test")

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if self.protocol_name != "original":
            return load_plus(source or home("mbpp/MbppPlus-v0.1.0.jsonl.gz", "evalplus/mbppplus"), split, limit)
        if split not in SPLITS:
            raise RecipeError(f"task mbpp has the splits {', '.join(SPLITS)}, not {split!r}.")
        source = source or home("mbpp/mbpp.jsonl", "google-research-datasets/mbpp:full")
        examples = [row for row in read_rows(source, "prompt", **COLUMNS) if row["task_id"] in SHOWN]
        shots = tuple(f"{_shown(row)}{row['code']}\n[DONE]\n\n" for row in examples)
        rows = [row for row in read_rows(source, split, **COLUMNS) if row["task_id"] in SPLITS[split]]
        return [_problem(row, shots, source) for row in rows[:limit]]

    def trials(self, problem: Problem, answer: str) -> bool | Sequence[Trial]:
        if self.protocol_name != "original":
            inputs, _, stored = self.protocol_name.partition("-")
            return plus_trials(problem, answer, extra=inputs == "plus", stored=bool(stored))
        source, tests = [answer, problem.data["setup"]], []
        for number, test in enumerate(problem.data["tests"]):
            computed, expected = split_assertion(test)
            source.append(f"def checked_{number}():\n    return {computed}\n")
            tests.append(f"assert call('checked_{number}') == {expected}")
        return [Trial(Program("\n\n".join(source), tests="\n".join(tests), limits=LIMITS))]

    def gold_completion(self, problem: Problem) -> str | None:
        return f"```python\n{problem.gold}\n```"


def _problem(row: Row, shots: tuple[str, ...], source: str) -> Problem:
    data = {"tests": list(row["test_list"]), "setup": row.get("test_setup_code") or ""}
    try:
        for test in data["tests"]:
            split_assertion(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(
            f"a test of problem {row['task_id']} of {source} is not one assertion ({first_line(error)})."
        ) from error
    return Problem(f"mbpp/{row['task_id']}", _shown(row), row["code"], data=data, shots=shots, row=row)


def split_assertion(test: str) -> tuple[str, str]:
    """Splits an assertion into an expression for the program and its expected value, which uses builtins only.

    Raises:
        SyntaxError, ValueError: it is not one assertion.

    Example:
        >>> split_assertion("assert f(1) == 2")
        ('f(1)', '2')
    """
    statements = ast.parse(test.strip()).body
    if len(statements) != 1 or not isinstance(statement := statements[0], ast.Assert):
        raise ValueError("expected assert")
    match statement.test:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            names = {node.id for node in ast.walk(right) if isinstance(node, ast.Name)}
            if all(hasattr(builtins, name) for name in names):
                return ast.unparse(left), ast.unparse(right)
    return f"bool({ast.unparse(statement.test)})", "True"


def _shown(row: Row) -> str:
    tests = "\n".join(row["test_list"])
    return f"{row['text']} In Python; these tests must pass:\n\n{tests}\n[BEGIN]\n"
