"""Finds where in a completion its answer stands, for any rule of extraction.

A rule gives the answer as text, not its place, and the same text may stand in other places. So a place is tried: where
other characters in it change what the rule extracts, the rule reads it.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice

LEFT_OUT = r"\s,$*{}\\!'\u00a0\u2009\u202f"  # characters that rules take out of an answer, as in 1,234 and \$5
MINUS = "-\u2212\ufe63\uff0d"
MOST = 200  # places that are tried
LONGEST = 200  # characters of an answer that is looked for with others between its own


def answer_span(text: str, extract: Callable[[str], str | None]) -> tuple[int, int] | None:
    r"""Returns start and end of the text that `extract` reads as the answer; None if there is none, or not found.

    Example:
        >>> from rlif.answers.extraction import last_boxed
        >>> answer_span("3 and 4, so \\boxed{3}", last_boxed)
        (19, 20)
    """
    answer = extract(text)
    if not answer:
        return None
    for start, end in islice(_places(text, answer), MOST):
        if extract(text[:start] + _other(text[start:end]) + text[end:]) != answer:
            return start, end
    return None


def _places(text: str, answer: str) -> Iterator[tuple[int, int]]:
    """Yields where the answer stands, the last place first; then where it does with characters between its own."""
    start = text.rfind(answer)
    while start >= 0:
        yield start, start + len(answer)
        start = text.rfind(answer, 0, start + len(answer) - 1)
    own = re.sub(f"[{LEFT_OUT}]", "", answer)
    if own and len(own) <= LONGEST:
        characters = (f"[{MINUS}]" if character in MINUS else re.escape(character) for character in own)
        matches = list(re.finditer(f"[{LEFT_OUT}]*".join(characters), text))
        yield from (match.span() for match in reversed(matches))


def _other(text: str) -> str:
    """Returns text of the same length that is another answer of the same kind: other digits, other letters."""
    changed = "".join(map(_next, text))
    return changed if changed != text else "0" * len(text)


def _next(character: str) -> str:
    if not character.isalnum():
        return character
    for first, last in ("09", "AJ", "KZ", "az"):  # A to J are choices
        if first <= character <= last:
            return first if character == last else chr(ord(character) + 1)
    return "y" if character == "x" else "x"
