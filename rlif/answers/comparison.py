"""Compares two answers: their structure first, numbers exactly, all other expressions by a function of the caller."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

from rlif.answers.numerals import read_number, same_number, units_conflict, without_units
from rlif.answers.spelling import respell
from rlif.answers.structure import SET, Group, Labelled, Matrix, Node, has_thousands, is_point, merged, parse

Expressions = Callable[[str, str], bool]
UNORDERED = {",", "u", SET}

# Each word can match in one way alone: otherwise the time would be exponential in the number of words.
WORD = r"(?:[a-zA-Z]{4,}|[A-Z]{2,3}|[yY]es|[nN]o|[oO]dd)(?![a-zA-Z])"
WORDS = re.compile(rf"(?:\\text\{{[^{{}}\\]*\}}|{WORD}|[\s.,'()-])+")
LETTERS = re.compile(r"[a-zA-Z0-9\s.,'()-]+")
NO_LETTERS = re.compile(r"[^a-z0-9]+")
TEXT = re.compile(r"\\text\{([^{}\\]*)\}")
NUMBERED = re.compile(r"\(([a-zA-Z])_\{\w+\}(?:,\1_\{\w+\})+\)")
IN_BASE = re.compile(r"\(?(-?[0-9A-F][0-9a-zA-Z]*(?:\.[0-9a-zA-Z]+)?)\)?_\{(\d+)\}")
TIME = re.compile(r"(\d+(?::\d+)+)([ap]m)?")


def same(answer: str, gold: str, expressions: Expressions) -> bool:
    """Compares two answers; where commas may separate thousands or parts, one reading that fits is enough.

    Args:
        expressions: compares two expressions that are not plain numbers or words.
    """
    if _as_words(answer) == _as_words(gold) != "":
        return True
    return any(_Comparison(expressions).same(a, b) for a, b in product(_readings(answer), _readings(gold)))


def _as_words(answer: str) -> str:
    words = TEXT.sub(r"\1", respell(answer))
    return words.casefold() if r"\text" in answer and words.replace(",", "").isalpha() else words


@lru_cache(maxsize=2**12)
def _readings(answer: str) -> tuple[Node, ...]:
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
        if {kind, other} == {",", "u"} and all(map(is_point, parts)):
            return False  # points are not intervals
        if {kind, other} <= UNORDERED:
            return len(parts) == len(others) and self._same_in_any_order(parts, others)
        return kind == other and self._same_in_order(parts, others)

    def _same_labelled(self, a: Node, b: Node) -> bool:
        """Compares where at least one has a label: x = 3 is 3, but not y = 3; f(x) and y are one label."""
        equations = [_as_equation(node) for node in (a, b)]
        if any(isinstance(node, str) and "=" in node for node in (a, b)) and all(isinstance(e, str) for e in equations):
            return self.same(*equations)
        if isinstance(a, Labelled) and isinstance(b, Labelled) and not _same_label(a.label, b.label):
            return all(isinstance(e, str) for e in equations) and self.same(*equations)  # y = x and x = y
        return self.same(*(_as_list(x) if _is_list(y) else _without_label(x) for x, y in ((a, b), (b, a))))

    def _same_matrix(self, a: Matrix, b: Matrix) -> bool:
        rows = list(zip(a.rows, b.rows, strict=False))
        return a.kind == b.kind and len(a.rows) == len(b.rows) and all(self._same_in_order(*row) for row in rows)

    def _same_in_order(self, parts: Sequence[Node], others: Sequence[Node]) -> bool:
        return len(parts) == len(others) and all(self.same(x, y) for x, y in zip(parts, others, strict=True))

    def _all_in(self, parts: Sequence[Node], others: Sequence[Node]) -> bool:
        same = set(others)
        return all(part in same or any(self.same(part, other) for other in same) for part in set(parts))

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


def _is_list(node: Node) -> bool:
    return isinstance(node, Group) and node.kind in UNORDERED


def _as_list(node: Node) -> Node:
    """Takes x_1 = 1, x_2 = 2 for the list 1, 2."""
    if isinstance(node, Labelled) and isinstance(node.part, Group) and NUMBERED.fullmatch(node.label):
        return Group(",", node.part.parts)
    return _without_label(node)


def _without_label(node: Node) -> Node:
    return node.part if isinstance(node, Labelled) else node


def _same_label(a: str, b: str) -> bool:
    return a == b or ("y" in (a, b) and any("(" in label[1:] for label in (a, b)))


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
    if (times := [_time(answer), _time(gold)]) != [None, None]:
        return _same_time(*times)
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
    if answer.count("'") != gold.count("'") or any(text.count("{") != text.count("}") for text in (answer, gold)):
        return False
    return answer == gold or expressions(answer, gold)


def _same_time(a: tuple[str, str | None] | None, b: tuple[str, str | None] | None) -> bool:
    """Compares times; am or pm that only one of them has makes no difference, as a unit."""
    return a is not None and b is not None and a[0] == b[0] and (None in (a[1], b[1]) or a[1] == b[1])


@lru_cache(maxsize=2**12)
def _time(text: str) -> tuple[str, str | None] | None:
    """Returns a time or ratio such as 3:30, and what follows of am and pm."""
    match = TIME.fullmatch(re.sub(r"[\s.]", "", TEXT.sub(r"\1", text)).lower())
    return match and (match.group(1), match.group(2))


def _base(text: str) -> tuple[str, str] | None:
    """Returns the digits and the base of a number such as 2516_{8}."""
    match = IN_BASE.fullmatch(TEXT.sub(r"\1", text))
    return (match.group(1).upper().lstrip("0"), match.group(2)) if match else None


def _letters(text: str) -> str | None:
    r"""Returns letters and digits of an answer in words, such as \text{Evelyn} or (C), in lower case; else None."""
    text = TEXT.sub(r"\1", text)
    sign = "-" if text.startswith("-") else ""
    return sign + NO_LETTERS.sub("", text.lower()) if LETTERS.fullmatch(text) else None
