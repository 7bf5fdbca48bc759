"""Compares two answers: their structure first, numbers exactly, all other expressions by a function of the caller."""

import re
from functools import lru_cache
from itertools import product

from rlif.answers.numerals import read_number, same_number, units_conflict, without_units
from rlif.answers.structure import Leaves, Node, has_thousands, parse, same_structure

WORDS = re.compile(r"(?:\\text\{[^{}\\]*\}|[a-zA-Z]{4,}|[\s.,'()-])+")
LETTERS = re.compile(r"[a-zA-Z0-9\s.,'()-]+")
NO_LETTERS = re.compile(r"[^a-z0-9]+")
TEXT = re.compile(r"\\text\{([^{}\\]*)\}")
IN_BASE = re.compile(r"(-?\d[0-9a-zA-Z]*(?:\.[0-9a-zA-Z]+)?)_\{(\d+)\}")
TIME = re.compile(r"\d+(?::\d+)+(?:[ap]\.?m\.?)?")


def same(answer: str, gold: str, expressions: Leaves) -> bool:
    """Compares two answers; where commas may separate thousands or parts, one reading that fits is enough.

    Args:
        expressions: compares two expressions that are no plain numbers or words.
    """
    return any(
        same_structure(a, b, lambda x, y: same_leaf(x, y, expressions))
        for a, b in product(_readings(answer), _readings(gold))
    )


@lru_cache(maxsize=2**12)
def _readings(answer: str) -> tuple[Node, ...]:
    nodes = [parse(answer)]
    if has_thousands(answer):
        nodes.append(parse(answer, thousands=False))
    return tuple(nodes)


def same_leaf(answer: str, gold: str, expressions: Leaves) -> bool:
    """Compares two expressions as text, as numbers, as words, then by the caller's function."""
    if answer == gold:
        return bool(answer)
    if not answer or not gold:
        return False
    if units_conflict(answer, gold):
        return False
    answer, gold = _bare(answer), _bare(gold)
    a, b = read_number(answer), read_number(gold)
    if a and b:
        return same_number(a, b)
    if (bases := [_base(answer), _base(gold)]) != [None, None]:
        return bases[0] == bases[1]
    if WORDS.fullmatch(answer) or WORDS.fullmatch(gold):
        return (letters := _letters(answer)) is not None and letters == _letters(gold)
    if TIME.fullmatch(answer) or TIME.fullmatch(gold):
        return answer.replace(".", "") == gold.replace(".", "")
    return answer == gold or expressions(answer, gold)


def _bare(text: str) -> str:
    """Removes units, and the approximate value behind an exact one."""
    return without_units(text.partition(r"\approx")[0])


def _base(text: str) -> tuple[str, str] | None:
    """Returns the digits and the base of a number such as 2516_{8}."""
    match = IN_BASE.fullmatch(text.strip("()"))
    return (match.group(1).upper().lstrip("0"), match.group(2)) if match else None


def _letters(text: str) -> str | None:
    r"""Returns letters and digits of an answer in words, such as \text{Evelyn} or (C), in lower case; else None."""
    text = TEXT.sub(r"\1", text)
    return NO_LETTERS.sub("", text.lower()) if LETTERS.fullmatch(text) else None
