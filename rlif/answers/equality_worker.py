"""The process that compares expressions: lines of [answer, gold] in, lines of true or false out.

Sympy can be sent computing for ever, or out of memory, by a few characters (`10^{10^{10}}`). So it works here, under a
limit of memory and in a main thread where math-verify's own time limits hold, and `rlif.answers.equality` kills it
when those do not. Most answers that differ differ by their numbers already, which a value at one point shows without
sympy's simplifying. Run as `python -m rlif.answers.equality_worker`; imports no torch.
"""

from __future__ import annotations

import cmath
import json
import logging
import math
import re
import resource
import sys
from functools import lru_cache
from typing import Any

MEMORY = 4 * 2**30  # bytes of address space
SECONDS = 5  # for parsing, and again for comparing

FAR = 1e-4  # relative; math-verify takes for equal what agrees to six digits

SPACING = re.compile(r"\\[,;:! ]|~|\\q?quad\b")
MEMBER = re.compile(r"^\s*[a-zA-Z]\s*\\in\b")
SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])")
IN_BASE = re.compile(r"^[0-9a-zA-Z., ]+_\{?\s*(\d+)\s*\}?$")
BRACKETED = re.compile(r"^(\\left\s*)?[(\[].*[)\]]$", re.DOTALL)


def prepare(expression: str) -> str:
    """What math-verify would misread, respelled: 1e3 is a number, there is one empty set, `x in` names an interval."""
    expression = SPACING.sub(
        lambda match: "" if match.group() in ("\\!", "\\,") else " ", expression.strip().strip("$")
    )
    expression = MEMBER.sub("", expression).replace("\\varnothing", "\\emptyset")
    return SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", expression).strip()


def base_of(expression: str) -> str | None:
    """The base of a number written with one, as 2516_8 or 2516_{8}."""
    match = IN_BASE.match(expression)
    return match.group(1) if match else None


def same(answer: str, gold: str) -> bool:
    """Mathematical equality of two expressions given without box."""
    from math_verify import verify

    answer, gold = prepare(answer), prepare(gold)
    if base_of(answer) != base_of(gold):
        return False  # math-verify drops the base
    lists = "," in answer and "," in gold
    if lists and is_ordered(answer) != is_ordered(gold) and "\\{" not in answer + gold:
        return False  # (2, 5) is no list of 2 and 5
    if answer != gold and differ(answer, gold):
        return False
    return bool(verify(parsed(gold), parsed(answer), timeout_seconds=SECONDS))


@lru_cache(maxsize=1024)
def parsed(expression: str) -> list[Any]:
    """What math-verify reads: the expression and its text, or less where it does not understand."""
    from math_verify import parse

    return parse(f"\\boxed{{{expression}}}", parsing_timeout=SECONDS)


def differ(answer: str, gold: str) -> bool:
    """Whether two expressions are far apart at one point, so that no simplifying can make them equal."""
    a, b = value(answer), value(gold)
    return a is not None and b is not None and abs(a - b) > FAR * max(1.0, abs(a), abs(b))


@lru_cache(maxsize=1024)
def value(expression: str) -> complex | None:
    """The value where each variable has a number of its own; None for what is no plain expression, or has none."""
    from sympy import Expr, Symbol

    found = parsed(expression)
    if "%" in expression or len(found) != 2 or not isinstance(found[0], Expr) or isinstance(found[0], Symbol):
        return None  # 50% is 1/2 and 50
    try:
        point: dict[Any, Any] = {s: 1 + math.sqrt(3) / (2 + sum(map(ord, str(s))) % 97) for s in found[0].free_symbols}
        number = complex(found[0].evalf(15, subs=point))
    except Exception:
        return None
    return number if cmath.isfinite(number) else None


def is_ordered(expression: str) -> bool:
    """Whether an expression is a tuple or an interval as a whole."""
    return bool(BRACKETED.match(expression))


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        try:
            verdict = same(*json.loads(line))
        except (Exception, RecursionError):
            verdict = False
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
