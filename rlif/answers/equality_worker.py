"""Compares expressions in a process of its own: reads lines of [answer, gold], writes lines of true or false.

A few characters (`10^{10^{10}}`) can make sympy compute forever, or use up all memory. So it runs here, with a memory
limit and in a main thread, where math-verify's own time limits work; `rlif.answers.equality` kills the process when
they do not. Most different answers have different values at one point, which is checked first, without sympy's
simplification. Run as `python -m rlif.answers.equality_worker`; imports no torch.
"""

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

FAR = 1e-4  # relative; for math-verify, numbers that agree to six digits are equal

SPACING = re.compile(r"\\[,;:! ]|~|\\q?quad\b")
MEMBER = re.compile(r"^\s*[a-zA-Z]\s*\\in\b")
SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])")
IN_BASE = re.compile(r"^[0-9a-zA-Z., ]+_\{?\s*(\d+)\s*\}?$")
BRACKETED = re.compile(r"^(\\left\s*)?[(\[].*[)\]]$", re.DOTALL)


def prepare(expression: str) -> str:
    """Rewrites what math-verify misreads: 1e3 is a number, there is one empty set, `x in` precedes an interval."""
    bare = expression.strip().strip("$")
    expression = SPACING.sub(lambda match: "" if match.group() in ("\\!", "\\,") else " ", bare)
    expression = MEMBER.sub("", expression).replace("\\varnothing", "\\emptyset")
    return SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", expression).strip()


def base_of(expression: str) -> str | None:
    """Returns the base of a number such as 2516_8 or 2516_{8}."""
    return match.group(1) if (match := IN_BASE.match(expression)) else None


def same(answer: str, gold: str) -> bool:
    """Compares two expressions, given without box."""
    from math_verify import verify

    answer, gold = prepare(answer), prepare(gold)
    if base_of(answer) != base_of(gold):
        return False  # math-verify drops the base
    lists = "," in answer and "," in gold
    if lists and is_ordered(answer) != is_ordered(gold) and "\\{" not in answer + gold:
        return False  # (2, 5) is not a list of 2 and 5
    if answer != gold and differ(answer, gold):
        return False
    return bool(verify(parsed(gold), parsed(answer), timeout_seconds=SECONDS))


@lru_cache(maxsize=1024)
def parsed(expression: str) -> list[Any]:
    """Parses by math-verify: returns the expression and its text, or less if it cannot be parsed."""
    from math_verify import parse

    return parse(f"\\boxed{{{expression}}}", parsing_timeout=SECONDS)


def differ(answer: str, gold: str) -> bool:
    """Checks whether two expressions differ at one point, so that no simplification can make them equal."""
    a, b = value(answer), value(gold)
    return a is not None and b is not None and abs(a - b) > FAR * max(1.0, abs(a), abs(b))


@lru_cache(maxsize=1024)
def value(expression: str) -> complex | None:
    """Evaluates an expression with a different number for each variable; None if it is not plain or not finite."""
    from sympy import Expr, Symbol

    found = parsed(expression)
    if "%" in expression or len(found) != 2 or not isinstance(found[0], Expr) or isinstance(found[0], Symbol):
        return None  # 50% is 1/2 and 50
    try:
        point: dict[Any, Any] = {s: 1 + math.sqrt(3) / (2 + sum(map(ord, str(s))) % 97) for s in found[0].free_symbols}
        number = complex(found[0].evalf(15, subs=point))
    except Exception:  # sympy raises almost anything; the full comparison then decides
        return None
    return number if cmath.isfinite(number) else None


def is_ordered(expression: str) -> bool:
    """Checks whether an expression as a whole is a tuple or an interval."""
    return bool(BRACKETED.match(expression))


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        try:
            verdict = same(*json.loads(line))
        except Exception:  # math-verify and sympy raise almost anything; such an answer counts as wrong
            verdict = False
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
