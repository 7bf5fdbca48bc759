"""Extracts the answer of a completion, or None. Each rule is a function; a `Protocol` names it.

All take time linear in the length of the text, and none evaluates any of it.
"""

import json
import re
from itertools import accumulate

from rlif.answers.spelling import ESCAPED_OR_BRACE, respell, unwrap

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(-?\d[\d.,]*|[A-J](?![a-zA-Z])))")
GROUPED_DIGITS = (
    r"[1-9]\d{0,2}(?:(?:[, \u00a0\u2009\u202f]|\{,\}|,?\\[,!])\d{3})+(?!\d)|\d{1,2}(?:,\d\d){1,6},\d{3}(?!\d)"
)
NUMBER = re.compile(rf"(?:(?<!\d)-)?(?:(?:{GROUPED_DIGITS}|\d+)\.?\d*|\.\d+)")
NO_DIGIT = re.compile(r"[^\d.-]")
MINUS_SIGNS = str.maketrans("\u2212\ufe63\uff0d", "---")
ANSWER_LINE = re.compile(r"ANSWER:[ \t}]*([^\s}][^\n]*)", re.IGNORECASE)
CHOICE_SENTENCE = re.compile(r"answer is \(?([A-J])\)?")
CHOICE_LINE = re.compile(r"[aA]nswer:(?=\s*([A-J]))")
LONE_LETTER = re.compile(r"\b[A-J]\b")


def last_boxed(text: str) -> str | None:
    r"""Returns the content of the last \boxed{...} or \fbox{...}, braces balanced, or a number behind \boxed.

    None if there is no box, or if the last one is empty or never closed: a model that opens a box takes back what it
    boxed before.

    Example:
        >>> last_boxed("so \\boxed{3}, no: \\boxed{\\frac{1}{2}}"), last_boxed("\\boxed{4}, so \\boxed{}")
        ('\\frac{1}{2}', None)
    """
    boxes = list(BOX.finditer(text))
    if not boxes:
        return None
    if bare := boxes[-1].group(1):
        return bare.rstrip(".,")
    depth, start = 0, boxes[-1].end()
    for match in ESCAPED_OR_BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth < 0:
            inside = text[start : match.start()].strip()
            return inside if respell(inside) else None
    return None


def last_expression(text: str) -> str | None:
    """Returns the last box; without any box, the last number, without thousands separators."""
    if BOX.search(text):
        return last_boxed(text)
    numbers = NUMBER.findall(text.translate(MINUS_SIGNS))
    return NO_DIGIT.sub("", numbers[-1]).rstrip(".") if numbers else None


def answer_line(text: str) -> str | None:
    """Returns what follows the last `ANSWER:` on its line, without box, dollars, Markdown or full stop.

    Without such a line, the same as `last_expression`.
    """
    lines = ANSWER_LINE.findall(text)
    if not lines:
        return last_expression(text)
    return last_boxed(lines[-1]) if BOX.search(lines[-1]) else unwrap(lines[-1]) or None


def choice_letter(text: str) -> str | None:
    """Returns a letter from A to J, by the rules of MMLU-Pro's evaluate_from_local.py (arXiv 2406.01574).

    First rule: the first "answer is (X)". Second: the last "answer: X" on the first line that has one. Third: the last
    letter that stands alone. Each rule passes over the text once.
    """
    if match := CHOICE_SENTENCE.search(text):
        return match.group(1)
    if lines := list(CHOICE_LINE.finditer(text)):
        end = text.find("\n", lines[0].start())
        return [line.group(1) for line in lines if end < 0 or line.start() < end][-1]
    letters = LONE_LETTER.findall(text)
    return letters[-1] if letters else None


def fenced_code(text: str) -> str | None:
    """Returns the text between the last two lines that contain three backquotes; None if there are fewer than two."""
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line]
    return None if len(fences) < 2 else "\n".join(lines[fences[-2] + 1 : fences[-1]])


def json_answer(text: str, *, boxed: bool = False) -> str | None:
    """Returns the field `answer` of the first JSON object of a text, as text; None if there is none.

    ZeroEval's rules: the first run of balanced braces, without line breaks, is parsed as JSON. If that fails or has no
    such field, the first `"answer": "..."` of the text counts, then one without quotes around the value, then one
    without any quotes.

    Args:
        boxed: if all of these fail, take a box of one word; ZeroEval does so for Llama-3.1 models only.
    """
    fields = _first_object(text)
    if fields is not None and "answer" in fields:
        return str(fields["answer"])
    patterns = [r'"answer"\s*:\s*"([^"]*)"', r'"answer"\s*:\s*([^,\s]*)', r"answer\s*:\s*([^,\s]*)"]
    for pattern in [*patterns, r"\\boxed\{(\w+)\}"] if boxed else patterns:
        if match := re.search(pattern, text):
            return match.group(1)
    return None


def _first_object(text: str) -> dict[str, object] | None:
    text = text[text.find("{") :] if "{" in text else ""
    depths = accumulate({"{": 1, "}": -1}.get(character, 0) for character in text)
    end = next((at for at, depth in enumerate(depths, start=1) if depth == 0), 0)
    try:
        return json.loads(text[:end].replace("\n", ""))
    except (ValueError, RecursionError):  # there is none, or it is not JSON
        return None


def whole_text(text: str) -> str | None:
    """Returns the text unchanged, None if it is blank; for completions that continue a program."""
    return text if text.strip() else None


def code_or_text(text: str) -> str | None:
    """Returns the last fenced block, else the whole text; None if that is blank."""
    code = fenced_code(text)
    return whole_text(text if code is None else code)
