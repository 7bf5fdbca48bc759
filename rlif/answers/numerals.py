r"""Reads numbers as people write them, exactly, and compares them: 1,234.50, 12 1/2, \frac{3}{4}, 50\%, 0.\overline{3}."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

SIX = 6  # digits: from here on a decimal number may stand for an exact one that it rounds
NEAR = Fraction(1, 10**6)  # relative
NOISE = Fraction(1, 10**10)  # relative; two decimals that differ by less are one number with rounding errors
LARGEST_EXPONENT = 400

UNSIGNED = r"\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+"
DECIMAL = re.compile(rf"({UNSIGNED})(%?)")
FRACTION = re.compile(r"(?:\\frac\{(-?)(\d+)\}\{(-?)(\d+)\}|(\d+)/(\d+)|\((\d+)\)/\((\d+)\))(%?)")
MIXED = re.compile(r"(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+)/(\d+))(%?)")
PERIODIC = re.compile(r"(\d*)\.(\d*)(?:\\overline\{(\d+)\}|\\dot\{?(\d)\}?|\((\d+)\))")
GOES_ON = re.compile(r"(\d*)\.(\d*?)(\d)\3{2,}(?:\\ldots|\.\.\.)")
SCIENTIFIC = re.compile(rf"({UNSIGNED})(?:(?:\\cdot ?|x)10\^\{{([+-]?\d+)\}}|[eE]([+-]?\d+))")

SHORT_UNITS = (
    "cm mm km nm ft in yd mi kg mg lb lbs oz hr hrs min mins sec secs mph kph day days deg rad ml mL kL way ways sq cu men am pm"
    " m g s h L W J N V A K C F"
).split()
UNIT_WORD = rf"(?:[a-zA-Z]{{4,}}|(?:{'|'.join(unit for unit in SHORT_UNITS if len(unit) > 1)})\b)"
UNITS = re.compile(
    rf"(?<=[\d}})%])(?:\^\{{\\circ\}}(?:[CF]\b)?)?(?:[ ./^-]*(?:\\text\{{[^{{}}]*\}}|(?<![\\a-zA-Z]){UNIT_WORD})(?:\^\{{-?\d\}})?)*$"
)
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")


@dataclass(frozen=True)
class Number:
    """A rational number and how it was written."""

    value: Fraction
    digits: int | None = None  # significant digits, if it was written with a decimal point
    place: Fraction = Fraction(0)  # the value of one unit in the last decimal place
    percent: bool = False


@lru_cache(maxsize=2**12)
def read_number(spelling: str) -> Number | None:
    r"""Reads a number from an answer in its one spelling, without units; None if it is no plain number.

    Example:
        >>> str(read_number("-12 1/2").value), read_number("\\frac{1}{x}")
        ('-25/2', None)
    """
    text = spelling
    while text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1]
    sign = 1
    while text[:1] in ("-", "+"):
        sign, text = (-sign if text[0] == "-" else sign), text[1:]
    try:
        number = _unsigned(text)
    except ZeroDivisionError:
        return None
    return number and Number(sign * number.value, number.digits, number.place, number.percent)


def _unsigned(text: str) -> Number | None:
    if match := DECIMAL.fullmatch(text):
        digits, percent = match.groups()
        return _decimal(digits, bool(percent))
    if match := FRACTION.fullmatch(text):
        minus, a, other, b, c, d, e, f, percent = match.groups()
        value = Fraction(int(a or c or e), int(b or d or f))
        return Number(-value if bool(minus) != bool(other) else value, percent=bool(percent))
    if match := MIXED.fullmatch(text):
        whole, a, b, c, d, percent = match.groups()
        return Number(int(whole) + Fraction(int(a or c), int(b or d)), percent=bool(percent))
    if match := PERIODIC.fullmatch(text):
        whole, before, *periods = match.groups()
        return Number(_periodic(whole, before, next(filter(None, periods))))
    if match := GOES_ON.fullmatch(text):
        return Number(_periodic(*match.groups()))
    if match := SCIENTIFIC.fullmatch(text):
        mantissa, first, second = match.groups()
        exponent = int(first or second)
        if abs(exponent) <= LARGEST_EXPONENT:
            found, power = _decimal(mantissa, False), Fraction(10) ** exponent
            return Number(found.value * power, found.digits, found.place * power)
    return None


def _decimal(text: str, percent: bool) -> Number:
    text = text.replace(",", "")
    whole, point, decimals = text.partition(".")
    digits = len((whole + decimals).lstrip("0")) if point and decimals.strip("0") else None
    return Number(Fraction(f"{whole or 0}.{decimals or 0}"), digits, Fraction(1, 10 ** len(decimals)), percent)


def _periodic(whole: str, before: str, period: str) -> Fraction:
    start = Fraction(f"{whole or 0}.{before or 0}")
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(before))


def without_units(spelling: str) -> str:
    r"""Removes degrees and units behind a number, as the graders of MATH do; `2ab` stays what it is.

    Example:
        >>> without_units("5\\text{cm}^{2}"), without_units("90^{\\circ}"), without_units("2ab")
        ('5', '90', '2ab')
    """
    if TRIGONOMETRIC.search(spelling):
        return spelling
    return UNITS.sub("", spelling) or spelling


def same_number(a: Number, b: Number) -> bool:
    """Compares exactly; a decimal of at least six digits also equals an exact number that it rounds.

    A percentage equals its number and its hundredth: 50% is 50 and 0.5, as in the graders of MATH.

    Example:
        >>> same_number(read_number("0.333333"), read_number("1/3")), same_number(read_number("1000001"), read_number("1000000"))
        (True, False)
    """
    if a.percent != b.percent:
        percent, other = (a, b) if a.percent else (b, a)
        return any(_near(Number(percent.value / d, percent.digits, percent.place / d), other) for d in (1, 100))
    return _near(a, b)


def _near(a: Number, b: Number) -> bool:
    gap, size = abs(a.value - b.value), max(abs(a.value), abs(b.value))
    if not gap:
        return True
    if a.digits and b.digits:
        shorter, longer = sorted((a, b), key=lambda number: number.digits or 0)
        rounds = (shorter.digits or 0) >= SIX and (longer.digits or 0) > SIX and shorter.place > longer.place
        return gap <= size * NOISE or (rounds and gap < shorter.place and gap <= size * NEAR)
    decimal = a if a.digits else b
    return (decimal.digits or 0) >= SIX and gap <= decimal.place and gap <= size * NEAR * 3 / 2
