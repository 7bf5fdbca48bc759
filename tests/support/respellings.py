"""Respells answers without changing what they mean."""

import re
from collections.abc import Callable, Iterator

NUMBER = re.compile(r"\d{4,}")
GROUPED = re.compile(r"-?\d{1,3}(?:,(?:\\!)?\d{3})+")
FRACTION = re.compile(r"-?\\[dt]?frac\{-?\d+\}\{\d+\}")
TEXT = re.compile(r"\\text|mbox|[a-zA-Z] [a-zA-Z]")


def where(pattern: str | re.Pattern[str], respell: Callable[[str], str]) -> Callable[[str], str]:
    """Respells only golds that match a pattern as a whole."""
    return lambda gold: respell(gold) if re.fullmatch(pattern, gold) else gold


def without(pattern: str | re.Pattern[str], respell: Callable[[str], str]) -> Callable[[str], str]:
    """Respells only golds without a pattern."""
    return lambda gold: gold if re.search(pattern, gold) else respell(gold)


def replace(pattern: str, replacement: str) -> Callable[[str], str]:
    return lambda gold: re.sub(pattern, replacement, gold)


RESPELLINGS: dict[str, Callable[[str], str]] = {
    "dfrac": replace(r"\\frac", r"\\dfrac"),
    "tfrac": replace(r"\\d?frac", r"\\tfrac"),
    "left and right": without(
        r"\\left|[\[\]]", lambda gold: replace(r"\)", r"\\right)")(replace(r"\(", r"\\left(")(gold))
    ),
    "no left and right": without(r"\\leftarrow|\\left\.", replace(r"\\(?:left|right)(?![a-z])", "")),
    "thin spaces": replace(r",(?![\\\s\d}])|, ", r",\\,"),
    "spaces around signs": without(r"\\text|\\begin|mbox", replace(r"(?<![\\a-zA-Z{\s])([,=+\-<>])(?!\s)", r" \1 ")),
    "no spaces": without(rf"{TEXT.pattern}|\d \d|\\ ", replace(r"(?<![a-zA-Z\\,]) +| +(?![a-zA-Z\d])", "")),
    "braces": lambda gold: "{" + gold + "}",
    "dollars": lambda gold: f"${gold}$",
    "parentheses": lambda gold: rf"\({gold}\)",
    "box": lambda gold: rf"\boxed{{{gold}}}",
    "full stop": lambda gold: gold + ".",
    "comma": lambda gold: gold + ",",
    "bold": lambda gold: f"**{gold}**",
    "bold, dollars and full stop": lambda gold: f"**${gold}$**.",
    "commas": where(NUMBER, replace(r"(?<=\d)(?=(?:\d{3})+$)", ",")),
    "commas in braces": where(NUMBER, replace(r"(?<=\d)(?=(?:\d{3})+$)", "{,}")),
    "thin thousands": where(NUMBER, replace(r"(?<=\d)(?=(?:\d{3})+$)", r"\\,")),
    "no commas": where(GROUPED, replace(r",(?:\\!)?", "")),
    "bare percent": replace(r"\\%", "%"),
    "no percent": replace(r"\\?%", ""),
    "degrees": replace(r"\^(?:\\circ|\{\\circ\})", " degrees"),
    "degree sign": replace(r"\^(?:\\circ|\{\\circ\})", "°"),
    "no degrees": without(r"sin|cos|tan|cot|csc|sec", replace(r"\^(?:\\circ|\{\\circ\})", "")),
    "slash": where(FRACTION, replace(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2")),
    "slashes inside": without(
        r"\d\s*\\[dt]?frac|[a-z]\s*\\[dt]?frac", replace(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)")
    ),
    "minus sign": without(r"\\text|mbox", replace("-", "\u2212")),
    "braces of roots": replace(r"\\sqrt(\d)(?!\d)", r"\\sqrt{\1}"),
    "no braces of roots": replace(r"\\sqrt\{(\d)\}", r"\\sqrt\1"),
    "no braces of fractions": replace(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2"),
    "no unit": where(r"-?[\d.]+\s*\\(?:text|mbox)\{.*", replace(r"\s*\\(?:text|mbox)\{ ?[^{}]*\}(?:\^\d)?$", "")),
    "mathrm": replace(r"\\text\{", r"\\mathrm{"),
    "plain words": where(r"\\text\{[^{}]*\}", replace(r"\\text\{([^{}]*)\}", r"\1")),
    "zero before the point": replace(r"(?<![\d.\\])\.(?=\d)", "0."),
    "zero behind the point": where(r"-?\d+", lambda gold: gold + ".0"),
    "brackets of matrices": replace("pmatrix", "bmatrix"),
    "spaces of rows": without(r"^((?!\\begin).)*$", replace(r"\\\\", r" \\\\ ")),
    "gaps of rows": without(r"^((?!\\begin).)*$|\\\\ ?\[", replace(r"\\\\", r"\\\\[4pt]")),
    "spaces of cells": replace("&", " & "),
    "full-width digits": lambda gold: gold.translate(str.maketrans("0123456789", "０１２３４５６７８９")),
    "label": where(r"-?\d+|\\frac\{\d+\}\{\d+\}", lambda gold: f"x = {gold}"),
    "times": replace(r"\\cdot", r"\\times"),
    "leq": replace(r"\\leq?(?![a-z])", r"\\leq "),
    "pi": replace(r"\\pi", "π"),
}


def respellings(gold: str) -> Iterator[tuple[str, str]]:
    """Yields the respellings that differ from a gold, each with its name."""
    yield from ((name, other) for name, respell in RESPELLINGS.items() if (other := respell(gold)) != gold)
