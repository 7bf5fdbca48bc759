"""Compares two answers: their structure first, numbers exactly, all other expressions by a function of the caller."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

from rlif.answers.numerals import read_number, same_number, units_conflict, without_units
from rlif.answers.spelling import respell
from rlif.answers.structure import Group, Labelled, Matrix, Node, has_thousands, merged, parse

Expressions = Callable[[str, str], bool]
SET = r"\{\}"
UNORDERED = {",", "u", SET}

WORDS = re.compile(r"(?:\\text\{[^{}\\]*\}|[a-zA-Z]{4,}|(?i:yes|no|odd)\b|[\s.,'()-])+")
LETTERS = re.compile(r"[a-zA-Z0-9\s.,'()-]+")
NO_LETTERS = re.compile(r"[^a-z0-9]+")
TEXT = re.compile(r"\\text\{([^{}\\]*)\}")
IN_BASE = re.compile(r"(-?\d[0-9a-zA-Z]*(?:\.[0-9a-zA-Z]+)?)_\{(\d+)\}")
LETTER = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])|\\(?:alpha|beta|theta|lambda|mu|phi)\b")
INTEGER = re.compile(r",? ?(?:\\text\{[^{}]*\})? ?\(?([kmn])\\in ?\\mathbb\{Z\}\)?$")
RELATION = re.compile(r"[<>]|\\[lg]e\b|\\ne\b")
FUNCTION = re.compile(r"\w.*\(.*")
TIME = re.compile(r"\d+(?::\d+)+(?:[ap]\.?m\.?)?", re.IGNORECASE)


def same(answer: str, gold: str, expressions: Expressions) -> bool:
    """Compares two answers; where commas may separate thousands or parts, one reading that fits is enough.

    Args:
        expressions: compares two expressions that are not plain numbers or words.
    """
    if (a := _compared(answer)) and (b := _compared(gold)) and not a & b:
        return False
    return any(_Comparison(expressions).same(a, b) for a, b in product(_readings(answer), _readings(gold)))


def _any_integer(text: str) -> str:
    r"""Names the variable n of which an answer says that it is any integer, as in 2\pi k, k \in \mathbb{Z}."""
    match = INTEGER.search(text)
    return re.sub(rf"(?<![a-zA-Z\\]){match.group(1)}(?![a-zA-Z])", "n", text[: match.start()]) if match else text


@lru_cache(maxsize=2**12)
def _compared(answer: str) -> set[str]:
    """Returns the variables of an inequality: x > 3 is an interval, but not y > 3."""
    text = respell(answer)
    return set(LETTER.findall(text)) if RELATION.search(text) else set()


@lru_cache(maxsize=2**12)
def _readings(answer: str) -> tuple[Node, ...]:
    answer = _any_integer(respell(answer))
    nodes = [parse(answer)]
    if has_thousands(answer):
        nodes.append(parse(answer, thousands=False))
    return tuple(nodes)


class _Comparison:
    """Compares parsed answers, part by part."""

    def __init__(self, expressions: Expressions) -> None:
        self.expressions = expressions

    def same(self, a: Node, b: Node) -> bool:
        """Compares two answers or parts of them."""
        if isinstance(a, Labelled) or isinstance(b, Labelled):
            return self._same_labelled(a, b)
        if isinstance(a, str) and isinstance(b, str):
            return same_leaf(a, b, self.expressions)
        if isinstance(a, Matrix) or isinstance(b, Matrix):
            a, b = _as_matrix(a), _as_matrix(b)
            return isinstance(a, Matrix) and isinstance(b, Matrix) and self._same_matrix(a, b)
        (kind, parts), (other, others) = _as_group(merged(a)), _as_group(merged(b))
        if SET in (kind, other) and {kind, other} <= UNORDERED:
            return self._all_in(parts, others) and self._all_in(others, parts)
        if {kind, other} <= UNORDERED:
            return len(parts) == len(others) and self._same_in_any_order(parts, others)
        return kind == other and self._same_in_order(parts, others)

    def _same_labelled(self, a: Node, b: Node) -> bool:
        """Compares where at least one has a label: x = 3 is 3, but not y = 3; f(x) and y are one label."""
        if any(isinstance(node, str) and "=" in node for node in (a, b)):
            return self.same(_as_equation(a), _as_equation(b))
        labels = [FUNCTION.sub("y", node.label) if isinstance(node, Labelled) else None for node in (a, b)]
        if None not in labels and labels[0] != labels[1]:
            equations = _as_equation(a), _as_equation(b)
            return all(isinstance(node, str) for node in equations) and self.same(*equations)
        return self.same(*(node.part if isinstance(node, Labelled) else node for node in (a, b)))

    def _same_matrix(self, a: Matrix, b: Matrix) -> bool:
        rows = list(zip(a.rows, b.rows, strict=False))
        return a.kind == b.kind and len(a.rows) == len(b.rows) and all(self._same_in_order(*row) for row in rows)

    def _same_in_order(self, parts: Sequence[Node], others: Sequence[Node]) -> bool:
        return len(parts) == len(others) and all(self.same(x, y) for x, y in zip(parts, others, strict=True))

    def _all_in(self, parts: Sequence[Node], others: Sequence[Node]) -> bool:
        return all(any(self.same(part, other) for other in others) for part in parts)

    def _same_in_any_order(self, parts: Sequence[Node], others: Sequence[Node]) -> bool:
        left = list(others)
        for part in sorted(parts, key=str):
            # The same spelling first, so that a part does not take the place of another that is near it.
            match = next((i for i, other in enumerate(left) if part == other), None)
            if match is None:
                match = next((i for i, other in enumerate(left) if self.same(part, other)), None)
            if match is None:
                return False
            del left[match]
        return True


def _as_group(node: Node) -> tuple[str, tuple[Node, ...]]:
    return (node.kind, node.parts) if isinstance(node, Group) else (",", (node,))


def _as_matrix(node: Node) -> Node:
    """Returns the matrix of a list of rows such as [[1, 2], [3, 4]], any other part unchanged."""
    if isinstance(node, Group) and node.kind == "[]":
        rows = [row.parts for row in node.parts if isinstance(row, Group) and row.kind == "[]"]
        if len(rows) == len(node.parts):
            return Matrix("", tuple(rows))
    return node


def _as_equation(node: Node) -> Node:
    return f"{node.label}={node.part}" if isinstance(node, Labelled) and isinstance(node.part, str) else node


def same_leaf(answer: str, gold: str, expressions: Expressions) -> bool:
    """Compares two expressions as text, as numbers, as words, then by the caller's function."""
    if answer == gold:
        return bool(answer)
    if not answer or not gold:
        return False
    if r"\approx" in answer and r"\approx" in gold:
        pairs = zip(answer.split(r"\approx"), gold.split(r"\approx"), strict=False)
        return answer.count(r"\approx") == gold.count(r"\approx") and all(
            same_leaf(*pair, expressions) for pair in pairs
        )
    answer, gold = answer.partition(r"\approx")[0], gold.partition(r"\approx")[0]  # the exact value
    if units_conflict(answer, gold):
        return False
    answer, gold = without_units(answer, gold), without_units(gold, answer)
    a, b = read_number(answer), read_number(gold)
    if a and b:
        return same_number(a, b)
    if (bases := [_base(answer), _base(gold)]) != [None, None]:
        return bases[0] == bases[1]
    if WORDS.fullmatch(answer) or WORDS.fullmatch(gold):
        return (letters := _letters(answer)) is not None and letters == _letters(gold)
    if TIME.fullmatch(answer) or TIME.fullmatch(gold):
        return _same_time(answer, gold)
    if answer.count("'") != gold.count("'") or any(map(_is_torn, (answer, gold))):
        return False
    return answer == gold or expressions(answer, gold)


def _is_torn(text: str) -> bool:
    return text.count("{") != text.count("}")


def _same_time(answer: str, gold: str) -> bool:
    """Compares 3:30 and 3:30 p.m.; where only one says which half of the day, that makes no difference."""
    texts = [text.replace(".", "").lower() for text in (answer, gold)]
    halves = [text[-2:] if text.endswith("m") else "" for text in texts]
    return texts[0] == texts[1] or ("" in halves and len({text.rstrip("apm") for text in texts}) == 1)


def _base(text: str) -> tuple[str, str] | None:
    """Returns the digits and the base of a number such as 2516_{8}."""
    match = IN_BASE.fullmatch(text.strip("()"))
    return (match.group(1).upper().lstrip("0"), match.group(2)) if match else None


def _letters(text: str) -> str | None:
    r"""Returns letters and digits of an answer in words, such as \text{Evelyn} or (C), in lower case; else None."""
    text = TEXT.sub(r"\1", text)
    return NO_LETTERS.sub("", text.lower()) if LETTERS.fullmatch(text) else None
