r"""Parses an answer into its parts: lists, tuples, sets, intervals, unions, matrices, and expressions as leaves.

math-verify reads all of these by one grammar and confuses some of them (docs/grading.md). Here the brackets decide, and
only leaves are given to it. An inequality in one variable becomes its interval.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeGuard

from rlif.answers.numerals import read_number
from rlif.answers.spelling import respell

Leaf = str
OPEN = {"(": "(", "[": "[", r"\{": r"\{", r"\langle": "(", "{": "", r"\lfloor": "", r"\lceil": ""}
CLOSE = {")": ")", "]": "]", r"\}": r"\}", r"\rangle": ")", "}": "", r"\rfloor": "", r"\rceil": ""}
TOKEN = re.compile(
    r"\\\\|\\begin\{[^{}]*\}(?:\{[^{}]*\})?|\\end\{[^{}]*\}|\\text\{[^{}]*\}|\\[a-zA-Z]+ ?|\\.|[a-zA-Z]+|\d[\d.]*|.",
    re.DOTALL,
)
AND = re.compile(r"\\text\{,?\s*and\s*,?\}|and|\\land|\\wedge")
OR = re.compile(r"\\text\{,?\s*or\s*,?\}|or|\\lor|\\vee")
THOUSANDS = re.compile(r"(?<![\d.,])(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3})(?!,?\d)")

PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
VARIABLE = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{\w+\})?'*")
TUPLE = re.compile(rf"\({VARIABLE.pattern}(?:,{VARIABLE.pattern})+\)")
LABEL = re.compile(rf"(?:{VARIABLE.pattern}|{TUPLE.pattern}|[a-zA-Z](?:\^\{{-1\}})?\([\w,]*\))")
BUILDER = re.compile(rf"{VARIABLE.pattern}(?:\\in ?\\mathbb\{{R\}})? ?(?:[|:]|\\mid|\\colon) ?")
MATRIX = re.compile(r"\\begin\{(\w*matrix|array|cases)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
RELATIONS = {r"\le": ("\\le", "]"), "<": ("<", ")"), r"\ge": ("\\ge", "]"), ">": (">", ")")}
INFINITE = (r"-\infty", r"\infty")
REALS = re.compile(r"\\mathbb\{R\}|\\Reals|(?:\\text\{)?[Aa]ll real(?: numbers?|s)\}?")
CONDITION = re.compile(r"^(?:\\text\{ ?(?:if|for|when) ?\}|if|for|when) ?")
BRACKETS = {"pmatrix": "", "bmatrix": "", "matrix": "", "smallmatrix": "", "array": "", "Bmatrix": ""}


@dataclass(frozen=True)
class Group:
    """Parts with brackets around them; `kind` is the brackets, "," for a bare list, "u" for a union."""

    kind: str
    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of parts; `kind` is empty for a matrix, else the environment that means something else."""

    kind: str
    rows: tuple[tuple["Node", ...], ...]


@dataclass(frozen=True)
class Labelled:
    """A part behind `x =`."""

    label: str
    part: "Node"


Node = Leaf | Group | Matrix | Labelled


def parse(answer: str, *, thousands: bool = True) -> Node:
    r"""Parses an answer, given with or without box, dollars or Markdown.

    Args:
        thousands: `1,234` is a number; else two. Within brackets it is always two.

    Example:
        >>> parse("2 < x \\le 5")
        Group(kind='(]', parts=('2', '5'))
    """
    return _parse(respell(answer), thousands)


def has_thousands(answer: str) -> bool:
    """Checks whether an answer has commas that may separate thousands or parts."""
    return bool(THOUSANDS.search(respell(answer)))


def _parse(text: str, thousands: bool) -> Node:
    if (node := _labelled(text, thousands)) is not None:
        return node
    if len(parts := _split(text, OR)) > 1:
        nodes = [_parse(part, thousands) for part in parts]
        return Group("u" if all(map(_is_set, nodes)) else ",", _flat(_without_labels(nodes), ","))
    if len(parts := _split(text, r"\cup")) > 1:
        return Group("u", _flat([_parse(part, thousands) for part in parts], "u"))
    if len(parts := _split(text, r"\setminus", r"\backslash")) == 2 and (found := _without(*parts)) is not None:
        return found
    if (found := _inequality(text)) is not None:
        return found
    if len(parts := _split(text, AND, ",", ";", thousands=thousands)) > 1:
        nodes = [_parse(part, thousands) for part in parts]
        return _system(nodes) or Group(",", _flat(_without_labels(nodes), ","))
    return _bracketed(text) or _matrix(text) or _leaf(text)


def _labelled(text: str, thousands: bool) -> Node | None:
    r"""Parses what stands behind `x =` or `x \in`, if there is one such sign."""
    for sign in ("=", r"\in", r"\approx"):
        parts = _split(text, sign)
        if sign == "=" and len(parts) == 2 and VARIABLE.fullmatch(parts[1]) and not LABEL.fullmatch(parts[0]):
            parts.reverse()
        if len(parts) > 1 and all(LABEL.fullmatch(part) for part in parts[:-1]) and parts[-1]:
            node = _parse(parts[-1], thousands)
            return node if sign == r"\in" else Labelled(parts[0], node)
    return None


def _without_labels(nodes: Sequence[Node]) -> list[Node]:
    """Removes labels that are all the same: x = 1 or x = 2."""
    labels = {node.label for node in nodes if isinstance(node, Labelled)}
    if len(labels) == 1 and not isinstance(nodes[0], str | Group | Matrix):
        return [node.part if isinstance(node, Labelled) else node for node in nodes]
    return list(nodes)


def _split(text: str, *separators: "str | re.Pattern[str]", thousands: bool = False) -> list[str]:
    """Splits at separators outside of all brackets and environments."""
    kept = {at for match in THOUSANDS.finditer(text) for at in range(*match.span())} if thousands else ()
    parts, depth, start = [], 0, 0
    for match in TOKEN.finditer(text):
        token = match.group().rstrip()
        if token in OPEN or token.startswith(r"\begin"):
            depth += 1
        elif token in CLOSE or token.startswith(r"\end"):
            depth -= 1
        elif depth == 0 and match.start() not in kept and any(_is(token, separator) for separator in separators):
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts = [*parts, text[start:].strip()]
    return [part for part in parts if part] if "," in separators else parts


def _is(token: str, separator: "str | re.Pattern[str]") -> bool:
    return token == separator if isinstance(separator, str) else bool(separator.fullmatch(token))


def _flat(nodes: Sequence[Node], kind: str) -> tuple[Node, ...]:
    return tuple(
        part for node in nodes for part in (node.parts if isinstance(node, Group) and node.kind == kind else [node])
    )


def _bracketed(text: str) -> Node | None:
    tokens = [(match.group().rstrip(), match.span()) for match in TOKEN.finditer(text)]
    if len(tokens) < 2 or not OPEN.get(tokens[0][0]) or not CLOSE.get(tokens[-1][0]):
        return None
    depth = 0
    for token, span in tokens:
        depth += (token in OPEN or token.startswith(r"\begin")) - (token in CLOSE or token.startswith(r"\end"))
        if depth == 0 and span != tokens[-1][1]:
            return None
    if depth:
        return None
    kind = OPEN[tokens[0][0]] + CLOSE[tokens[-1][0]]
    inside = text[tokens[0][1][1] : tokens[-1][1][0]].strip()
    if kind == r"\{\}" and (match := BUILDER.match(inside)) and (found := _inequality(inside[match.end() :])):
        return found
    parts = _split(inside, ",", ";")
    if not parts:
        return r"\emptyset" if kind == r"\{\}" else None
    if len(parts) == 1 and kind != r"\{\}":
        inner = _parse(inside, thousands=False)
        return inner if isinstance(inner, Group | Matrix) or kind == "()" else None
    nodes = [_parse(part, thousands=False) for part in parts]
    signed = [(i, node.parts) for i, node in enumerate(nodes) if isinstance(node, Group) and node.kind == ","]  # \pm 2
    if kind == "()" and len(signed) == 1:
        at, values = signed[0]
        return Group(",", tuple(Group(kind, (*nodes[:at], value, *nodes[at + 1 :])) for value in values))
    return Group(kind, _flat(nodes, ",") if kind == r"\{\}" else tuple(nodes))


def _matrix(text: str) -> Node | None:
    factor, begin, rest = text.partition(r"\begin")
    match = MATRIX.fullmatch(begin + rest)
    if not match or factor.count("{") != factor.count("}") or "(" in factor:
        return None
    kind, inside = match.groups()
    if kind == "cases" and (system := _system([_parse(row, True) for row in _split(inside, r"\\") if row])):
        return system
    rows = [row for row in _split(inside.replace(r"\hline", ""), r"\\") if row]
    cells = [[_cell(cell, factor) for cell in _split(row, "&")] for row in rows]
    return Matrix(BRACKETS.get(kind, kind), tuple(tuple(_parse(cell, True) for cell in row) for row in cells))


def _cell(text: str, factor: str) -> str:
    """Returns a cell of a matrix, times what stands before the matrix, and without `if` and comma of a case."""
    text = CONDITION.sub("", text).rstrip(",")
    return f"{factor}\\cdot ({text})" if factor else text


def _leaf(text: str) -> Node:
    if PLUS_MINUS.search(text):
        upper, lower = {r"\pm": "+", r"\mp": "-"}, {r"\pm": "-", r"\mp": "+"}
        both = [PLUS_MINUS.sub(lambda match, signs=signs: signs[match.group()], text) for signs in (upper, lower)]
        return Group(",", tuple(map(respell, both)))
    if REALS.fullmatch(text):
        return Group("()", INFINITE)
    return text


def _without(text: str, points: str) -> Node | None:
    """Parses an interval without one point as the union of what is left of it."""
    whole, taken = _parse(text, False), _parse(points, False)
    if not _is_interval(whole) or not isinstance(taken, Group) or taken.kind != r"\{\}" or len(taken.parts) != 1:
        return None
    (low, high), point = whole.parts, taken.parts[0]
    return Group("u", (Group(whole.kind[0] + ")", (low, point)), Group("(" + whole.kind[1], (point, high))))


def _inequality(text: str) -> Node | None:
    r"""Parses `a < x \le b`, `x > a` and `x \ne a` as the set of all such x."""
    tokens = [
        token for match in TOKEN.finditer(text) if (token := match.group().rstrip()) in RELATIONS or token == r"\ne"
    ]
    if not 1 <= len(tokens) <= 2:
        return None
    sides = _split(text, *RELATIONS, r"\ne")
    if len(sides) != len(tokens) + 1 or not all(sides):
        return None
    if len(tokens) == 2 and VARIABLE.fullmatch(sides[1]) and r"\ne" not in tokens:
        return _interval(sides[0], tokens[0], sides[2], tokens[1])
    if len(tokens) == 1:
        relation = tokens[0]
        if VARIABLE.fullmatch(sides[1]) and not VARIABLE.fullmatch(sides[0]):
            sides, relation = [sides[1], sides[0]], _turned(relation)
        if VARIABLE.fullmatch(sides[0]) and not VARIABLE.fullmatch(sides[1]):
            end = _leaf(sides[1])
            if relation == r"\ne":
                return Group("u", (Group("()", (INFINITE[0], end)), Group("()", (end, INFINITE[1]))))
            if relation in ("<", r"\le"):
                return Group("(" + RELATIONS[relation][1], (INFINITE[0], end))
            return Group(("[" if relation == r"\ge" else "(") + ")", (end, INFINITE[1]))
    return None


def _turned(relation: str) -> str:
    return {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(relation, relation)


def _interval(low: str, first: str, high: str, second: str) -> Node | None:
    if first in (">", r"\ge"):
        low, first, high, second = high, _turned(second), low, _turned(first)
    if first not in ("<", r"\le") or second not in ("<", r"\le"):
        return None
    return Group(("[" if first == r"\le" else "(") + RELATIONS[second][1], (_leaf(low), _leaf(high)))


def _is_set(node: Node) -> bool:
    return isinstance(node, Group) and (node.kind in ("u", r"\{\}") or _is_interval(node))


def _is_interval(node: Node) -> TypeGuard[Group]:
    return isinstance(node, Group) and node.kind in ("()", "(]", "[)", "[]") and len(node.parts) == 2


def _system(nodes: Sequence[Node]) -> Node | None:
    """Joins `x > a and x < b` to one interval, and `x = 1, y = 2` to a tuple in the order of the names."""
    rays = [node for node in nodes if isinstance(node, Group) and _is_interval(node)]
    if len(nodes) == len(rays) == 2:
        up = [node for node in rays if node.parts[1] == INFINITE[1]]
        down = [node for node in rays if node.parts[0] == INFINITE[0]]
        if len(up) == len(down) == 1:
            return Group(up[0].kind[0] + down[0].kind[1], (up[0].parts[0], down[0].parts[1]))
    labelled = sorted((node.label, str(node.part), node.part) for node in nodes if isinstance(node, Labelled))
    if len(labelled) == len({label for label, *_ in labelled}) == len(nodes):
        return Group("()", tuple(part for *_, part in labelled))
    return None


def merged(node: Node) -> Node:
    """Joins intervals of a union that touch or overlap, if all their ends are numbers."""
    if not isinstance(node, Group) or node.kind != "u":
        return node
    known: list[tuple[Fraction | float, bool, Fraction | float, Group]] = []
    for part in node.parts:
        low, high = map(_end, part.parts) if _is_interval(part) else (None, None)
        if low is None or high is None or not isinstance(part, Group):
            return node
        known.append((low, part.kind[0] == "(", high, part))
    found: list[Group] = []
    until = -math.inf
    for low, _, high, part in sorted(known, key=lambda each: each[:2]):
        last = found[-1] if found else None
        if last is None or low > until or (low == until and last.kind[1] == ")" and part.kind[0] == "("):
            found.append(part)
            until = high
        elif high > until or (high == until and part.kind[1] == "]"):
            found[-1] = Group(last.kind[0] + part.kind[1], (last.parts[0], part.parts[1]))
            until = high
    return found[0] if len(found) == 1 else Group("u", tuple(found))


def _end(text: Node) -> Fraction | float | None:
    if text in INFINITE:
        return -math.inf if text == INFINITE[0] else math.inf
    number = read_number(text) if isinstance(text, str) else None
    return number and number.value
