r"""Rewrites an answer in one spelling: Unicode, Markdown, LaTeX's synonyms and spacing.

Answers with the same spelling are equal. Nothing is computed: `1/2` and `0.5` keep different spellings.
"""

import re
import unicodedata
from functools import lru_cache

from rlif.answers.notation import ARGUMENTS, COMMANDS, LOWERED, RAISED, SYMBOLS

LONGEST = 2000  # characters of an answer; a longer text is not an answer, and stays as it is

RAISED_RUN, LOWERED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
RADICAL = re.compile(r"√\s*(\d+|\w|(?=[({]))")

OVERLINED = re.compile("(?:\\d\u0305)+")

SPECIAL_TOKEN = re.compile(r"<\|[\w-]{1,40}\|>|</?(?:s|answer)>|<(?:eos|bos|pad|end_of_turn)>")
PAIRS = [(mark, mark) for mark in ("$$", "$", "**", "__", "`", "*", '"', "'")] + [(r"\(", r"\)"), (r"\[", r"\]")]
WHOLE_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
WHOLE_TEXT = re.compile(r"\\text\s*\{\s*([-\d][^{}]*|[^{}]*,[^{}]*)\}")  # \text{6 ways}, \text{A, B}
INTERVAL = re.compile(r"(^|\\cup|\\in)([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])(?=$|\\cup)")  # also ]1,2[ as in French
SENTENCE = re.compile(
    r"^(?:the\s+)?(?:final\s+)?answer(?:\s+is|\s*[:=])+\s*|^(?:option|choice)\s+(?=[A-J]\b)", re.IGNORECASE
)
CHOICE = re.compile(r"([A-J])\)")
TRAILING = re.compile(r"(?:[.,;:]|\*\*|\\\\|\\[,;:! ]|\\text\{\s*\}|\\(?:black)?square|\\$|\s)+$")
LEADING = re.compile(r"^(?:\s|#+\s|\*\*|=|\\approx|\\[,;:! ]|~)+")

TOKEN = re.compile(r"\\\\\*?(?:\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in|mu)\s*\])?|\\[a-zA-Z]+\*?|\\.|.", re.DOTALL)
ESCAPED_OR_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")  # \\frac, as in JSON
BEGIN = re.compile(r"(?<!\\)\\begin")

BOLD = re.compile(r"^\s*\*\*([^*]+)\*\*(?=\s)")
GOES_ON = re.compile(r"(?<=\d)\s*\.{3,}")
GROUPED = re.compile(r"(?<=\d)(?<!(?<!\d)0)\s*(?:\{,\}|\{\\,\}|,(?:\s|\\,)*\\!|\\!\s*,|\\,|\\!|')\s*(?=\d{3}(?!\d))")
GROUPED_BY_SIGN = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:_\d{3})+|\d{1,3}(?:\.\d{3}){2,})(?![\w.,]*\d)")
GROUPED_BY_SPACE = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d/]| \d)")
POWERS_OF_TEN = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def _power_of_ten(match: re.Match[str]) -> str:
    return rf"\cdot 10^{{{POWERS_OF_TEN[match.group(2)]}}}{match.group(1) or ''}"


PLAIN = [
    (re.compile(r"(?<![\w\\])(?:infinity|inf|oo)(?!\w)"), r"\\infty "),
    (re.compile(r"(?<![a-zA-Z\\])sqrt\s*(?=[({\d])"), r"\\sqrt "),
    (re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"(?<=[\w)}])\s*\*\*\s*(?=[\w({-])"), "^"),
    (re.compile(r"\\(?:left|right)\s*\."), ""),
    (re.compile(r"\\(begin|end)\{(\w+)\*\}"), r"\\\1{\2}"),
    (re.compile(r"(?<=[\d}])\s*(\\text\s*\{\s*)?(thousand|million|billion|trillion)\b"), _power_of_ten),
    (re.compile(r"\+/-"), r"\\pm "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"==+"), "="),
    (re.compile(r"\s*(?:\bpercent(?:age)?\b|\\text\s*\{\s*percent(?:age)?\s*\})"), "%"),
    (re.compile(r"\\[hv]space\*?\{[^{}]*\}|\\phantom\s*(?:\{[^{}]*\})?|\\(?:tag|label)\*?\{[^{}]*\}"), " "),
    (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}|@\{[^{}]*\}"), ""),
    (re.compile(r"(?<=\d)''$"), r"\\text{inches}"),
    (re.compile(r"(?<=\d)'$"), r"\\text{feet}"),
    (re.compile(r"^\\?\$\s*([\d,.]+)$"), r"\1\\text{dollars}"),
    (re.compile(r"(?:\{|^)([^{}]*)\\choose([^{}]*)(?:\}|$)"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<=\d)(?:(?:st|nd|rd|th)\b|\^\{\s*(?:\\(?:text|mathrm)\s*\{)?(?:st|nd|rd|th)\}{1,2})"), ""),
    (re.compile(r"(?<=\d)\s*(?:degrees?\b|\\text\s*\{\s*degrees?\s*\})"), r"^{\\circ}"),
]
# The space in `1, 234` stays, because these are two numbers.
NEEDLESS = re.compile(
    r"(?<![a-zA-Z\d]) (?!(?<=\d, )\d{3}(?!\d))| (?![a-zA-Z\d])|(?<=\d) (?=[a-zA-Z])|(?<=[a-zA-Z]) (?=\d)"
)
ONE_LETTER = re.compile(r"(?:(?<![\d})])\\text|\\letter)\{\s*([a-zA-Z])\s*\}")  # text behind a number is a unit


@lru_cache(maxsize=2**14)
def respell(text: str) -> str:
    r"""Rewrites an answer, given with or without box, dollars or Markdown.

    Example:
        >>> respell("**$\\left( \\dfrac12,\\, 1,\\! 000 \\right)$**.")
        '(\\frac{1}{2},1000)'
    """
    if len(text) > LONGEST:
        return text
    text = BOLD.sub(r"\1", _plain_characters(text))
    text = unwrap(GOES_ON.sub(r"\\ldots ", text))
    if r"\begin" not in text:
        text = DOUBLED.sub(lambda match: "\\", text)
    elif not BEGIN.search(text):
        text = text.replace(r"\\", "\\")
    text = GROUPED_BY_SIGN.sub(lambda match: re.sub("[_.]", "", match.group()), GROUPED.sub("", text))
    for pattern, replacement in PLAIN:
        text = pattern.sub(replacement, text)
    tokens = [_token(token) for token in TOKEN.findall(text)]
    try:
        text = _Reader(tokens).read()
    except RecursionError:
        text = "".join(tokens)
    text = ONE_LETTER.sub(r"\1", text).replace(r"\letter", "")
    text = re.sub(r"\s+", " ", text).strip()
    text = GROUPED_BY_SPACE.sub(lambda match: match.group().replace(" ", ""), text)
    return INTERVAL.sub(_interval, unwrap(NEEDLESS.sub("", text)))


def _interval(match: re.Match[str]) -> str:
    before, first, inside, last = match.groups()
    return before + {"]": "("}.get(first, first) + inside + {"[": ")"}.get(last, last)


def _plain_characters(text: str) -> str:
    """Writes Unicode's mathematical characters as LaTeX, and its digits and spaces as ASCII."""
    if text.isascii():
        return text
    text = RAISED_RUN.sub(lambda match: "^{" + match.group().translate(RAISED) + "}", text)
    text = LOWERED_RUN.sub(lambda match: "_{" + match.group().translate(LOWERED) + "}", text)
    text = OVERLINED.sub(lambda match: f"\\overline{{{match.group()[::2]}}}", text)
    text = RADICAL.sub(lambda match: "\\sqrt " + (f"{{{match.group(1)}}}" if match.group(1) else ""), text)
    return "".join(_plain_character(character) for character in text)


def _plain_character(character: str) -> str:
    if character.isascii():
        return character
    if character in SYMBOLS:
        return SYMBOLS[character]
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category == "Zs":
        return " "
    if category == "Cf":
        return ""
    plain = unicodedata.normalize("NFKC", character)
    if "\u2044" in plain:  # a vulgar fraction
        above, _, below = plain.partition("\u2044")
        return f" \\frac{{{above}}}{{{below}}}"
    return SYMBOLS.get(plain, plain)


def unwrap(text: str) -> str:
    """Removes what encloses an answer and is not part of it: special tokens, box, dollars, Markdown, full stop."""
    if len(text) > LONGEST:
        return text
    text = SPECIAL_TOKEN.sub("", text)
    while True:
        before = text
        text = LEADING.sub("", TRAILING.sub("", text))
        for opening, closing in PAIRS:
            if len(text) >= len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                inside = text[len(opening) : -len(closing)]
                if opening not in inside:
                    text = inside
        text = SENTENCE.sub("", text)
        if match := WHOLE_TEXT.fullmatch(text):
            text = match.group(1)
        if match := WHOLE_BOX.match(text):
            text = _inside(text, match.end() - 1)
        elif text.startswith("{"):
            text = _inside(text, 0)
        elif match := CHOICE.fullmatch(text):
            text = match.group(1)
        if text == before:
            return text


def _inside(text: str, start: int) -> str:
    """Returns the content of the braces that open at `start` if they close at the end of the text, else the text."""
    depth = 0
    for match in ESCAPED_OR_BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return text[start + 1 : match.start()] if match.end() == len(text) else text
    return text


def _token(token: str) -> str:
    if token.startswith("\\\\"):
        return "\\\\"
    return COMMANDS.get(token, token)


class _Reader:
    r"""Puts the arguments of commands into braces, as in `\frac12` and `x^2`."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = [token for token in tokens if token], 0

    def read(self, until: str = "") -> str:
        """Reads up to a closing token, which is left out."""
        found = []
        while self.at < len(self.tokens):
            if until and self.tokens[self.at] == until:
                self.at += 1
                break
            found.append(self._item())
        return "".join(found)

    def _item(self) -> str:
        token = self.tokens[self.at]
        self.at += 1
        if token == "{":
            return "{" + self.read("}") + "}"
        if token == r"\sqrt":
            self._skip_spaces()
            root = ""
            if self.at < len(self.tokens) and self.tokens[self.at] == "[":
                self.at += 1
                root = "[" + self.read("]") + "]"
            return token + root + self._argument(token)
        if token in ARGUMENTS:
            return token + "".join(self._argument(token) for _ in range(ARGUMENTS[token]))
        if token.startswith("\\") and token[-1].isalpha() and self._next().isalpha() and self._next().isascii():
            return token + " "  # \pi r
        return token

    def _argument(self, command: str) -> str:
        """Reads one argument: a group in braces, a group in parentheses or number where that is meant, a token."""
        self._skip_spaces()
        token = self._next()
        if token in ("", "}"):
            return "{}"
        if token == "{":
            return self._item()
        if token == "(" and command in ("^", r"\sqrt"):
            self.at += 1
            return "{" + self.read(")") + "}"
        if command == "^" and (token.isdigit() or token == "-"):
            digits = ""
            while self._next().isdigit() or (not digits and self._next() == "-"):
                digits += self._next()
                self.at += 1
            return "{" + digits + "}"
        if command == r"\text":
            return ""
        return "{" + self._item() + "}"

    def _skip_spaces(self) -> None:
        while self._next().isspace():
            self.at += 1

    def _next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""
