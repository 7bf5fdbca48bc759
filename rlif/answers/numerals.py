r"""Reads numbers exactly and compares them, with their units.

Reads 1,234.50, 12 1/2, \frac{3}{4}, 50\%, 0.\overline{3}, 1e-7 and the like. Units are removed, as the graders of
MATH do, unless two answers state different physical ones.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

SIX = 6  # digits: from here on a decimal number may stand for an exact one that it rounds
NEAR = Fraction(1, 10**6)  # relative
NOISE = Fraction(1, 10**15)  # relative; two decimals that differ by less are one number with rounding errors
LARGEST_EXPONENT = 400

UNSIGNED = r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|\d{1,2}(?:,\d\d)+,\d{3}(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+"
DECIMAL = re.compile(UNSIGNED)
FRACTION = re.compile(r"(?:\\frac\{(-?)(\d+)\}\{(-?)(\d+)\}|(\d+)/(\d+)|\((\d+)\)/\((\d+)\))")
MIXED = re.compile(r"(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+)/(\d+))")
PERIODIC = re.compile(r"(\d*)\.(\d*)(?:\\overline\{(\d+)\}|\\dot\{?(\d)\}?|\((\d+)\))")
REPEATED = re.compile(r"(\d*)\.(\d{0,20}?)(\d{1,9}?)\3{2,}(?:\\ldots|\.\.\.)")
POWER_OF = re.compile(r"(\d{1,20})\^\{(-?\d{1,3})\}")
SCIENTIFIC = re.compile(rf"({UNSIGNED})(?:(?:\\cdot ?|x)10\^\{{([+-]?\d+)\}}|[eE]([+-]?\d+))")

UNIT_NAMES = {
    **{"mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre"},
    **{"in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "l": "liter litre", "cent": "", "dollar": ""},
    **{"ml": "milliliter millilitre", "g": "gram", "kg": "kilogram", "lb": "pound", "oz": "ounce", "s": "sec second"},
    **{
        "min": "minute",
        "h": "hr hour",
        "c": "celsius",
        "f": "fahrenheit",
        "W": "watt",
        "V": "volt",
        "day": "",
        "week": "",
        "month": "",
        "year": "yr",
    },
}
PHYSICAL = {name: unit for unit, names in UNIT_NAMES.items() for name in (unit, *names.split())}
SHORT_UNITS = ["mg", "nm", "mL", "kL", "mph", "kph", "deg", "rad", "way", "sq", "cu", "men", "am", "pm", "old", "per"]
SHORT_UNITS += ["USD", "EUR"]
SHORT_UNITS += [name + plural for name in PHYSICAL for plural in ("", "s") if 1 < len(name + plural) < 4]
# Each word can match in one way alone: otherwise the time would be exponential in the number of words.
UNIT_WORD = rf"(?:[a-zA-Z]{{4,}}|{'|'.join(SHORT_UNITS)}|[ck]?m/[sh]|ft/s|mi/h)(?![a-zA-Z])"
IN_TEXT = r"\\text\{[^{}]*(?:\{[^{}]*\}[^{}]*)?\}"
UNIT = rf"(?:{IN_TEXT}|\\frac\{{{IN_TEXT}\}}\{{{IN_TEXT}\}}|(?<![\\a-zA-Z]){UNIT_WORD})(?:\^\{{-?\d\}})?"
UNITS = re.compile(rf"(?:(?<=[\d}})%])|(?<=[a-zA-Z])(?=\\text))(?:\^\{{\\circ\}}(?:[CF]\b)?)?(?:[ ./^-]*{UNIT})*$")
POWER = re.compile(r"\b(square|sq|cubic|cu)\b|\^\{(-?\d)\}")
ANY, THINGS = ("units",), ("things",)
POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
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
    r"""Reads a number from an answer in its one spelling, without units; None if it is not a plain number.

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
        number = _unsigned(text.removesuffix("%"))
    except ZeroDivisionError:
        return None
    return number and Number(sign * number.value, number.digits, number.place, text.endswith("%"))


def _unsigned(text: str) -> Number | None:
    if DECIMAL.fullmatch(text):
        return _decimal(text)
    if match := FRACTION.fullmatch(text):
        minus, a, other, b, c, d, e, f = match.groups()
        value = Fraction(int(a or c or e), int(b or d or f))
        return Number(-value if bool(minus) != bool(other) else value)
    if match := MIXED.fullmatch(text):
        whole, a, b, c, d = match.groups()
        return Number(int(whole) + Fraction(int(a or c), int(b or d)))
    if match := PERIODIC.fullmatch(text):
        whole, before, *periods = match.groups()
        return Number(_periodic(whole, before, next(filter(None, periods))))
    if match := REPEATED.fullmatch(text):
        return Number(_periodic(*match.groups()))
    if match := POWER_OF.fullmatch(text):
        return Number(Fraction(int(match.group(1))) ** int(match.group(2)))
    if match := SCIENTIFIC.fullmatch(text):
        mantissa, first, second = match.groups()
        exponent = int(first or second)
        if abs(exponent) <= LARGEST_EXPONENT:
            found, power = _decimal(mantissa), Fraction(10) ** exponent
            return Number(found.value * power, found.digits, found.place * power)
    return None


def _decimal(text: str) -> Number:
    text = text.replace(",", "")
    whole, point, decimals = text.partition(".")
    digits = len((whole + decimals).lstrip("0")) if point and decimals.strip("0") else None
    return Number(Fraction(f"{whole or 0}.{decimals or 0}"), digits, Fraction(1, 10 ** len(decimals)))


def _periodic(whole: str, before: str, period: str) -> Fraction:
    start = Fraction(f"{whole or 0}.{before or 0}")
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(before))


def same_number(a: Number, b: Number) -> bool:
    """Compares exactly; a decimal of at least six digits also equals an exact number that it rounds.

    A percentage equals its number and its hundredth: 50% is 50 and 0.5, as in the graders of MATH.

    Example:
        >>> same_number(read_number("0.333333"), read_number("1/3"))
        True
        >>> same_number(read_number("1000001"), read_number("1000000"))
        False
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
    cut = abs(decimal.value) < size  # else it can only be rounded up
    rounds = gap < decimal.place / (1 if cut else 2) and gap <= size * NEAR * 3 / 2
    return (decimal.digits or 0) >= SIX and (rounds or gap <= size * NOISE)


@lru_cache(maxsize=2**12)
def without_units(spelling: str, other: str = "") -> str:
    r"""Removes degrees and units behind a number, but not the variables of a product.

    Args:
        other: an answer with a unit, which then counts as a unit in this one as well, although it is one letter.

    Example:
        >>> without_units("5\\text{cm}^{2}"), without_units("90^{\\circ}"), without_units("2ab")
        ('5', '90', '2ab')
    """
    if TRIGONOMETRIC.search(spelling):
        return spelling
    found = UNITS.sub("", spelling) or spelling
    unit, power = _unit(other) if other else (None, None)
    raised = rf"\^\{{{power}\}}" if power else ""
    return re.sub(rf"(?<=[\d}}]){unit[0]}{raised}$", "", found) if unit and len(unit) == 1 else found


def units_conflict(answer: str, gold: str) -> bool:
    r"""Checks whether two answers state different units, or one a unit and the other things, as in 5 days and 5 ways.

    A number without either conflicts with none, and the word "units" with no unit.

    Example:
        >>> units_conflict("5\\text{m}", "5\\text{cm}"), units_conflict("5cm", "5"), units_conflict("5ways", "5days")
        (True, False, True)
    """
    (units, power), (others, second) = _unit(answer), _unit(gold)
    if any("%" in text for text in (answer, gold)) and (units or others):
        return "%" not in answer or "%" not in gold
    if THINGS in (units, others):
        return units != others and None not in (units, others)
    if ANY not in (units, others) and units and others and units != others:
        return True
    return power != second and (bool(units and others) or bool(power and second))


@lru_cache(maxsize=2**12)
def _unit(spelling: str) -> tuple[tuple[str, ...] | None, str | None]:
    """Returns units, such as km and h, or what is counted, and a power; None for each that there is not."""
    tail = spelling[len(without_units(spelling)) :].replace("\\text", " ").replace("\\circ", "")
    tail = tail.replace("mph", "mi h").replace("kph", "km h")
    power = POWER.search(tail)
    words = [word.lower() for word in re.findall("[a-zA-Z]+", POWER.sub("", tail)) if word != "per"]
    names = [PHYSICAL.get(word) or PHYSICAL.get(word.removesuffix("s")) for word in words]
    known = tuple(name for name in names if name)
    if known and len(known) < len(names):
        known = ()
    elif not known and words:
        known = ANY if set(words) <= {"unit", "units"} else THINGS if any(len(word) > 3 for word in words) else ()
    return known or None, power and POWERS.get(power.group(1), power.group(2))
