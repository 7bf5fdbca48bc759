"""The process that compares expressions: lines of [answer, gold] in, lines of true or false out.

Sympy can be sent computing for ever, or out of memory, by a few characters (`10^{10^{10}}`). So it works here, under a
limit of memory and in a main thread where math-verify's own time limits hold, and `rlif.grading` kills it when those
do not. Run as `python -m rlif.grading_worker`; imports no torch.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import sys

MEMORY = 4 * 2**30  # bytes of address space
SECONDS = 5  # for parsing, and again for comparing

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
    from math_verify import parse, verify

    answer, gold = prepare(answer), prepare(gold)
    if base_of(answer) != base_of(gold):
        return False  # math-verify drops the base
    lists = "," in answer and "," in gold
    if lists and is_ordered(answer) != is_ordered(gold) and "\\{" not in answer + gold:
        return False  # (2, 5) is no list of 2 and 5
    gold_parsed, parsed = (parse(f"\\boxed{{{text}}}", parsing_timeout=SECONDS) for text in (gold, answer))
    return bool(verify(gold_parsed, parsed, timeout_seconds=SECONDS))


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
