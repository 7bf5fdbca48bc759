r"""Is an answer right? The last box of a completion, compared mathematically.

    extract   the content of the last \boxed{...}; no box, no answer
    equal     math-verify (sympy underneath) on both sides, the gold wrapped in a box of its own

math-verify reads bare LaTeX as prose (108 of the 500 golds of MATH-500 come out wrong), hence the wrapping; and it
merges several boxes into a set, hence the last box only. Its time limits use signals, which work in the main thread
alone; grading from another thread raises.
"""

from __future__ import annotations

import logging
import re

BOX = re.compile(r"\\boxed\s*\{")


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...} of a text, braces balanced; None if there is none."""
    for match in reversed(list(BOX.finditer(text))):
        depth = 1
        for end in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[match.end() : end].strip()
    return None


def equal(answer: str, gold: str) -> bool:
    """Whether two mathematical expressions, given without box or dollars, are equal."""
    if answer.strip() == gold.strip():
        return True
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}")))
