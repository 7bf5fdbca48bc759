r"""Parses an answer into its parts: lists, tuples, sets, intervals, unions, matrices, and expressions as leaves.

math-verify reads all of these by one grammar and confuses some of them (docs/grading.md). Here the brackets decide, and
only leaves are given to it. An inequality in one variable becomes its interval, with the variable as label.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeGuard

from rlif.answers.numerals import read_number
from rlif.answers.spelling import respell

Leaf = str
SET = r"\{\}"
OPEN = {"(": "(", "[": "[", r"\{": r"\{", r"\langle": "(", "{": "", r"\lfloor": "", r"\lceil": ""}
CLOSE = {")": ")", "]": "]", r"\}": r"\}", r"\rangle": ")", "}": "", r"\rfloor": "", r"\rceil": ""}
SYMBOL = re.compile(
    r"\\\\|\\begin\{[^{}]*\}(?:\{[^{}]*\})?|\\end\{[^{}]*\}|\\text\{[^{}]*\}|\\[a-zA-Z]+ ?|\\.|[a-zA-Z]+|\d[\d.]*|.",
    re.DOTALL,
)
AND = re.compile(r"\\text\{,?\s*and\s*,?\}|and|\\land|\\wedge")
OR = re.compile(r"\\text\{,?\s*or\s*,?\}|or|\\lor|\\vee")
THOUSANDS = re.compile(r"(?<![\d.,])(?:[1-9]\d{0,2}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})(?!,?\d)")

PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
VARIABLE = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{\w+\})?'*")
NAMES = re.compile(rf"\((?:{VARIABLE.pattern},)+{VARIABLE.pattern}\)")
NAMED = r"[A-Z]{2,3}|\\text\{[^{}]*\}|m?\\angle ?[A-Z]+"
LABEL = re.compile(rf"(?:{VARIABLE.pattern}|{NAMED}|[a-zA-Z](?:\^\{{-1\}})?\([^()]*\)|{NAMES.pattern})")
BUILDER = re.compile(rf"{VARIABLE.pattern}(?:\\in ?\\mathbb\{{R\}})? ?(?:[|:]|\\mid|\\colon) ?")
CONSTANTS = (r"\pi", "e", "i")
SYSTEMS = ("cases", "aligned")
REALS = re.compile(r"\\mathbb\{R\}|\\Reals|(?:\\text\{)?[Aa]ll real(?: numbers?|s)\}?")
CONDITION = re.compile(r"^(?:\\text\{ ?(?:if|for|when) ?\}|if|for|when) ?")
ALL_BUT = re.compile(r"\\mathbb\{R\}(?:\\setminus|\\backslash|-) ?\\\{(.*)\\\}")
LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]+")
INTEGER = re.compile(  # 2\pi k, k\in\mathbb{Z}
    r"(?:[,(]|\\text\{[^{}]*\})*([a-zA-Z])(?:\\in ?\\mathbb\{Z\}|\\text\{(?:is )?(?:an )?integers?\})\)?$"
)
RELATIONS = {r"\le": "[]", "<": "()", r"\ge": "[]", ">": "()"}  # brackets of an interval's ends
INFINITE = (r"-\infty", r"\infty")
SCALAR = r"-?(?:[\d./]|\\frac\{[^{}]*\}\{[^{}]*\}|\\sqrt\{[^{}]*\}|\\pi ?)*(?:\\cdot ?)?"
MATRIX = re.compile(
    rf"({SCALAR})([(\[|]?)\\begin\{{(\w*matrix|array|cases|aligned)\}}(?:\{{[^{{}}]*\}}|\[[a-z]\])?(.*)"
    r"\\end\{\3\}[)\]|]?",
    re.DOTALL,
)
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
    r"""A part behind `x =` or `x \in`, or the solutions of an inequality in x."""

    label: str
    part: "Node"


Node = Leaf | Group | Matrix | Labelled


def parse(answer: str, *, thousands: bool = True) -> Node:
    r"""Parses an answer, given with or without box, dollars or Markdown.

    Args:
        thousands: `1,234` is a number; else two. Within brackets it is always two.

    Example:
        >>> parse("2 < x \\le 5")
        Labelled(label='x', part=Group(kind='(]', parts=('2', '5')))
    """
    return _parse(_one_integer(respell(answer)), thousands)


def _one_integer(text: str) -> str:
    r"""Names an integer that counts periods n, and removes `k\in\mathbb{Z}`."""
    if match := INTEGER.search(text):
        text, name = text[: match.start()], match.group(1)
    else:
        names = set(LETTER.findall(text.rpartition("=")[2])) if r"\pi" in text or r"\circ" in text else set()
        name = names.pop() if names in ({"k"}, {"m"}) else "n"
    label, sign, value = text.rpartition("=")
    return label + sign + (value if name == "n" else re.sub(rf"(?<![\\a-zA-Z]){name}(?![a-zA-Z])", "n", value))


def has_thousands(answer: str) -> bool:
    """Checks whether an answer has commas that may separate thousands or parts."""
    return bool(THOUSANDS.search(respell(answer)))


def _parse(text: str, thousands: bool) -> Node:
    if (node := _labelled(text, thousands)) is not None:
        return node
    if len(parts := _split(text, OR)) > 1:
        return _alternatives([_parse(part, thousands) for part in parts], equations="=" in text)
    if len(parts := _split(text, r"\cup")) > 1:
        return _union([_parse(part, thousands) for part in parts])
    if (found := _inequality(text)) is not None:
        return found
    if len(parts := _split(text, AND, ",", ";", thousands=thousands)) > 1:
        nodes = [_parse(part, thousands) for part in parts]
        return _system(nodes) or _shared_label(nodes, _list)
    if len(parts := _split(text, r"\setminus", r"\backslash")) == 2 and (found := _without(*parts)) is not None:
        return found
    return _all_but(text) or _bracketed(text) or _matrix(text) or _leaf(text)


def _labelled(text: str, thousands: bool) -> Node | None:
    r"""Parses what stands behind `x =` or `x \in`, if there is one such sign."""
    for sign in ("=", r"\in", r"\approx"):
        parts = _split(text, sign)
        if sign == "=" and len(parts) == 2 and VARIABLE.fullmatch(parts[1]) and not LABEL.fullmatch(parts[0]):
            parts.reverse()
        if (
            len(parts) > 1
            and all(LABEL.fullmatch(part) for part in parts[:-1])
            and parts[-1]
            and parts[0] not in CONSTANTS
        ):
            return Labelled(parts[0], _parse(parts[-1], thousands))
    return None


def _alternatives(nodes: Sequence[Node], *, equations: bool) -> Node:
    """Joins what stands between `or`: intervals and numbers to a union, points and numbers to a list."""

    def join(parts: Sequence[Node]) -> Group:
        points = all(map(is_point, parts)) and (equations or parts == nodes)
        if points or not any(map(_is_set, parts)):
            return _list(parts)
        return _union([Group(SET, (part,)) if isinstance(part, str) else part for part in parts])

    return _shared_label(nodes, join)


def _shared_label(nodes: Sequence[Node], join: Callable[[Sequence[Node]], Group]) -> Node:
    """Joins parts; a label that all share, or that the first one has alone, is the label of the whole."""
    labels = {node.label for node in nodes if isinstance(node, Labelled)}
    if len(labels) != 1 or not isinstance(nodes[0], Labelled):
        return join(nodes)
    return Labelled(nodes[0].label, join([node.part if isinstance(node, Labelled) else node for node in nodes]))


def _list(nodes: Sequence[Node]) -> Group:
    return Group(",", _flat(nodes, ","))


def _union(nodes: Sequence[Node]) -> Group:
    """Joins sets; the elements of finite ones become parts of their own."""
    parts: list[Node] = []
    for part in _flat(nodes, "u"):
        if isinstance(part, Group) and part.kind == SET:
            parts += [Group(SET, (element,)) for element in part.parts]
        else:
            parts.append(part)
    if all(isinstance(part, Group) and part.kind == SET for part in parts):
        return Group(SET, _flat(parts, SET))
    return Group("u", tuple(parts))


def _split(text: str, *separators: "str | re.Pattern[str]", thousands: bool = False) -> list[str]:
    """Splits at separators outside of all brackets and environments."""
    kept = {at for match in THOUSANDS.finditer(text) for at in range(*match.span())} if thousands else ()
    parts, depth, start = [], 0, 0
    for match in SYMBOL.finditer(text):
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
    tokens = [(match.group().rstrip(), match.span()) for match in SYMBOL.finditer(text)]
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
    if kind == SET and (match := BUILDER.match(inside)) and (found := _inequality(inside[match.end() :])):
        return found
    parts = _split(inside, ",", ";")
    if not parts:
        return r"\emptyset" if kind == SET else None
    if len(PLUS_MINUS.findall(inside)) == 1 and kind == "()" and len(parts) > 1:
        return Group(",", tuple(_parse(f"({both})", thousands=False) for both in _plus_minus(inside)))
    if len(parts) == 1 and kind != SET:
        inner = _parse(inside, thousands=False)
        return inner if isinstance(inner, Group | Matrix) or kind == "()" else None
    nodes = [_parse(part, thousands=False) for part in parts]
    return Group(kind, _flat(nodes, ",") if kind == SET else tuple(nodes))


def _all_but(text: str) -> Group | None:
    r"""Parses `\mathbb{R}\setminus\{1,2\}` as a union of intervals."""
    match = ALL_BUT.fullmatch(text)
    ends = _split(match.group(1), ",") if match else []
    if len(ends) > 1:
        numbers = {end: number.value for end in ends if (number := read_number(end))}
        ends = sorted(numbers, key=numbers.__getitem__) if len(numbers) == len(ends) else []
    bounds = [INFINITE[0], *ends, INFINITE[1]]
    return Group("u", tuple(Group("()", pair) for pair in pairwise(bounds))) if ends else None


def _without(text: str, points: str) -> Group | None:
    """Parses an interval without one point as the union of what is left of it."""
    whole, taken = _parse(text, False), _parse(points, False)
    if not _is_interval(whole) or not isinstance(taken, Group) or taken.kind != SET or len(taken.parts) != 1:
        return None
    (low, high), point = whole.parts, taken.parts[0]
    return Group("u", (Group(whole.kind[0] + ")", (low, point)), Group("(" + whole.kind[1], (point, high))))


def _matrix(text: str) -> Node | None:
    match = MATRIX.fullmatch(text)
    if not match:
        return None
    scalar, bracket, kind, inside = match.groups()
    if kind in SYSTEMS and (
        system := _system([_parse(row, True) for row in _split(inside.replace("&=", "="), r"\\") if row])
    ):
        return system
    kind = "vmatrix" if bracket == "|" else BRACKETS.get(kind, kind)
    if scalar and kind:
        return None
    rows = [
        [CONDITION.sub("", cell).rstrip(",") for cell in _split(row, "&")]
        for row in _split(inside.replace(r"\hline", ""), r"\\")
        if row
    ]
    return Matrix(
        kind, tuple(tuple(_parse(f"{scalar}({cell})" if scalar else cell, True) for cell in row) for row in rows)
    )


def _plus_minus(text: str) -> list[str]:
    upper, lower = {r"\pm": "+", r"\mp": "-"}, {r"\pm": "-", r"\mp": "+"}
    return [PLUS_MINUS.sub(lambda match, signs=signs: signs[match.group()], text) for signs in (upper, lower)]


def _leaf(text: str) -> Node:
    if PLUS_MINUS.search(text):
        return Group(",", tuple(map(respell, _plus_minus(text))))
    if REALS.fullmatch(text):
        return Group("()", INFINITE)
    return THOUSANDS.sub(lambda match: match.group().replace(",", ""), text) if "(" not in text else text


def _inequality(text: str) -> Labelled | None:
    r"""Parses `a < x \le b`, `x > a` and `x \ne a` as the set of all such x, with x as its label."""
    tokens = [
        token for match in SYMBOL.finditer(text) if (token := match.group().rstrip()) in RELATIONS or token == r"\ne"
    ]
    if not 1 <= len(tokens) <= 2:
        return None
    sides = _split(text, *RELATIONS, r"\ne")
    if len(sides) != len(tokens) + 1 or not all(sides):
        return None
    if len(tokens) == 2 and LABEL.fullmatch(sides[1]) and r"\ne" not in tokens:
        between = _interval(sides[0], tokens[0], sides[2], tokens[1])
        return None if between is None else Labelled(sides[1], between)
    if len(tokens) == 1:
        relation = tokens[0]
        if VARIABLE.fullmatch(sides[1]) and not VARIABLE.fullmatch(sides[0]):
            sides, relation = [sides[1], sides[0]], _turned(relation)
        if VARIABLE.fullmatch(sides[0]) and not VARIABLE.fullmatch(sides[1]):
            return Labelled(sides[0], _ray(relation, _leaf(sides[1])))
    return None


def _ray(relation: str, end: Node) -> Group:
    if relation == r"\ne":
        return Group("u", (_ray("<", end), _ray(">", end)))
    opening, closing = RELATIONS[relation]
    if relation in ("<", r"\le"):
        return Group("(" + closing, (INFINITE[0], end))
    return Group(opening + ")", (end, INFINITE[1]))


def _turned(relation: str) -> str:
    return {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(relation, relation)


def _interval(low: str, first: str, high: str, second: str) -> Node | None:
    if first in (">", r"\ge"):
        low, first, high, second = high, _turned(second), low, _turned(first)
    if first not in ("<", r"\le") or second not in ("<", r"\le"):
        return None
    return Group(RELATIONS[first][0] + RELATIONS[second][1], (_leaf(low), _leaf(high)))


def _is_set(node: Node) -> bool:
    return isinstance(node, Group) and (node.kind in ("u", SET) or _is_interval(node))


def _is_interval(node: Node) -> TypeGuard[Group]:
    return isinstance(node, Group) and node.kind in ("()", "(]", "[)", "[]") and len(node.parts) == 2


def is_point(node: Node) -> bool:
    """Checks for a tuple that has the form of an open interval, but may be a point."""
    return isinstance(node, Group) and node.kind == "()" and not set(INFINITE) & set(node.parts)


def _system(nodes: Sequence[Node]) -> Node | None:
    """Joins `x > a, x < b` to one interval, and `x = 1, y = 2` to a tuple in the order of the names."""
    if not all(isinstance(node, Labelled) for node in nodes):
        return None
    labelled = sorted((node for node in nodes if isinstance(node, Labelled)), key=lambda node: node.label)
    labels = [node.label for node in labelled]
    if len(set(labels)) == len(nodes):
        return Labelled(f"({','.join(labels)})", Group("()", tuple(node.part for node in labelled)))
    rays = [node.part for node in labelled if isinstance(node.part, Group) and _is_interval(node.part)]
    up = [ray for ray in rays if ray.parts[1] == INFINITE[1]]
    down = [ray for ray in rays if ray.parts[0] == INFINITE[0]]
    if len(nodes) != 2 or len(up) != 1 or len(down) != 1:
        return None
    low, high = up[0].parts[0], down[0].parts[1]
    ends = [read_number(end) for end in (low, high) if isinstance(end, str)]
    if len(ends) == 2 and ends[0] and ends[1] and ends[0].value > ends[1].value:
        return Labelled(labels[0], _union(rays))  # no x is in both, so "or" is meant
    return Labelled(labels[0], Group(up[0].kind[0] + down[0].kind[1], (low, high)))


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
