"""Reads the answer off a short completion, by fixed rules and without the gold answer.

A completion that could mean several answers has none: `the_one_of` returns None where two of the words are named.
"""

import json
import re
from collections.abc import Callable, Collection

Reader = Callable[[str], str | None]

NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")  # with its decimals and thousands
DIGITS = 18  # of a whole number that is read
LETTER = re.compile(r"\b(A(?! [a-z])|[BC])\b(?!['’])")  # an A before a small letter is the article
QUOTES = "\"'`*“”‘’ "


def last_number(text: str) -> str | None:
    """Returns the last number of a text; None if it is not a whole one, as 25.0 or 1,234.

    Example:
        >>> last_number("4 + 7 = 11, 11 + 2 = 13.")
        '13'
    """
    found = NUMBER.findall(text)
    return _whole(found[-1]) if found else None


def first_number(text: str) -> str | None:
    """Returns the first number of a text; None if it is not a whole one."""
    found = NUMBER.search(text)
    return _whole(found[0]) if found else None


def _whole(number: str) -> str | None:
    """Returns a whole number in one spelling, without zeros in front."""
    return str(int(number)) if number.lstrip("-").isdigit() and len(number) <= DIGITS else None


def the_one_of(words: Collection[str]) -> Reader:
    """Makes a reader that returns the one of some words which a text names, whatever their case; None for several.

    Example:
        >>> the_one_of(["positive", "negative"])("This review is Positive."), the_one_of(["a", "b"])("a or b")
        ('positive', None)
    """
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})s?\b", re.IGNORECASE)
    spelled = {word.lower(): word for word in words}

    def the_one_named(text: str) -> str | None:
        found = {spelled[match.lower()] for match in pattern.findall(text)}
        return found.pop() if len(found) == 1 else None

    return the_one_named


def letter(text: str) -> str | None:
    """Returns the first capital letter from A to C that stands alone.

    Example:
        >>> letter("B) hammer"), letter("A hammer is a tool.")
        ('B', None)
    """
    found = LETTER.search(text)
    return found[1] if found else None


def first_line(text: str) -> str | None:
    """Returns the first line with a word, without quotes and the full stop; case and other marks stay."""
    lines = [line.strip(QUOTES).removesuffix(".").strip(QUOTES) for line in text.splitlines()]
    return next(filter(None, lines), None)


def dashed(text: str) -> str | None:
    """Returns the only run of letters with dashes between them, in small letters, as r-i-v-e-r."""
    found = re.findall(r"\b\w(?:-\w)+\b", text)
    return found[0].lower() if len(found) == 1 else None


def in_order(words: Collection[str]) -> Reader:
    """Makes a reader that returns those of some words which a text names, in its order, joined by commas."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)

    def all_named_in_order(text: str) -> str | None:
        return ", ".join(match.lower() for match in pattern.findall(text)) or None

    return all_named_in_order


def json_object(text: str) -> str | None:
    """Returns the JSON object from the first brace to the last, in one spelling; None if it is not one.

    Example:
        >>> json_object('Here: { "b": 1,"a": "x" }.')
        '{"a": "x", "b": 1}'
    """
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return None
    return json.dumps(found, sort_keys=True) if isinstance(found, dict) else None
