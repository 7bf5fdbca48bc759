"""Loads ZeroEval's rows and applies its rules of equality (github.com/WildEval/ZeroEval), for protocols `zeroeval`.

Rows of {id, prompt, answer} hold its prompts verbatim, in one file `<name>.questions.jsonl.gz` per set. The reference
evaluates a model's fraction as Python, which runs whatever a model wrote; ours only computes arithmetic.
"""

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
    """Loads one of ZeroEval's sets: gsm, math-l5 or crux."""
    if split != "test":
        raise RecipeError(f"ZeroEval's {name} has the split test alone, not {split!r}.")
    source = source or home(f"zeroeval/{name}.questions.jsonl.gz", f"WildEval/ZeroEval:{name}")
    rows = read_rows(source, split, ("prompt", "answer"))[:limit]
    return [
        Problem(str(row.get("id", number)), row["prompt"], row["answer"].removeprefix("# "), row=row)
        for number, row in enumerate(rows)
    ]


def text_equal(answer: str, gold: str) -> bool:
    """Compares CRUXEval answers as text, without quotes around them, with line breaks as escapes."""
    return answer.strip("'\"").replace("\n", "\\n") == gold.strip("'\"")


def first_number_equal(answer: str, gold: str) -> bool:
    """Compares the first numbers of GSM8K and MATH answers, without dollars and thousands separators."""
    numbers = [NUMBER.search(plain_number(text)) for text in (answer, gold)]
    return all(numbers) and len({float(match.group()) for match in numbers if match}) == 1


def plain_number(text: str) -> str:
    """Removes dollars and commas; computes a fraction, or other arithmetic with a slash, as a decimal number."""
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
    raise ValueError(f"not arithmetic: {ast.dump(node)[:80]}")
