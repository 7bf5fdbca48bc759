"""ZeroEval's rows and its rules of equality (github.com/WildEval/ZeroEval), used by protocols named `zeroeval`.

Its prompts are taken to the letter from its own rows: {id, prompt, answer}, a file `<name>.questions.jsonl.gz` each.
Where the reference evaluates a model's fraction as Python, which runs whatever a model wrote, ours reads arithmetic.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from rlif.errors import RecipeError
from rlif.files.tables import home, read_rows
from rlif.types import Problem

NUMBER = re.compile(r"-?\d+(\.\d+)?")
OPERATIONS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def load_zeroeval(name: str, split: str, source: str | None, limit: int | None) -> list[Problem]:
    """The problems of one of ZeroEval's sets: gsm, math-l5 or crux.

    Raises:
        RecipeError: another split than test, or the rows cannot be read.
    """
    if split != "test":
        raise RecipeError(f"ZeroEval's {name} has the split test alone, not {split!r}.")
    source = source or home(f"zeroeval/{name}.questions.jsonl.gz", f"WildEval/ZeroEval:{name}")
    rows = read_rows(source, split, ("prompt", "answer"))[:limit]
    return [
        Problem(str(row.get("id", number)), row["prompt"], row["answer"].removeprefix("# "))
        for number, row in enumerate(rows)
    ]


def text_equal(answer: str, gold: str) -> bool:
    """Equality of CRUXEval answers: the same text, quotes around it aside, line breaks spelled out."""
    return answer.strip("'\"").replace("\n", "\\n") == gold.strip("'\"")


def first_number_equal(answer: str, gold: str) -> bool:
    """Equality of GSM8K and MATH answers: the same first number, dollars and thousands separators aside."""
    numbers = [NUMBER.search(plain_number(text)) for text in (answer, gold)]
    return all(numbers) and len({float(match.group()) for match in numbers if match}) == 1


def plain_number(text: str) -> str:
    """The text without dollars and commas; a fraction, or other arithmetic with a slash, as a decimal number."""
    text = text.replace("$", "").strip().replace(",", "")
    if "/" not in text:
        return text
    try:
        return str(float(_arithmetic(ast.parse(text, mode="eval").body)))
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return text


def _arithmetic(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return value
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATIONS:
            return OPERATIONS[type(op)](_arithmetic(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            return OPERATIONS[type(op)](_arithmetic(left), _arithmetic(right))
    raise ValueError(f"no arithmetic: {ast.dump(node)[:80]}")
