r"""Compares answers in a process of its own: reads lines of [answer, gold], writes lines of true or false.

A few characters (`10^{10^{10}}`) can make sympy compute forever, or use up all memory. So expressions are evaluated
here, with a memory limit; `rlif.answers.equality` kills the process when it takes too long. Run as
`python -m rlif.answers.equality_worker`; imports no torch.

latex2sympy2_extended, the parser of math-verify, parses expressions; sympy evaluates them. Two constants are equal if
no digit of their difference is other than zero, or if one is a decimal of at least six digits that the other rounds
to. With variables they must agree at four points, two of them negative, as far as they have values there. Equations
and inequalities are equal if one is a multiple of the other. Of anything else the parsed forms must match.
"""

import json
import logging
import re
import resource
import sys
import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlif.answers.comparison import same
from rlif.answers.numerals import SIX, Number, read_number, same_number

MEMORY = 4 * 2**30  # bytes of address space
DIGITS = 40
MOST_DIGITS = 1000
AGREE = 1e-20  # relative
POINTS = 4
PRODUCT = re.compile(r"(?<=[\d)])\(")  # the parser would read 2(1) as a call
LETTER_I = re.compile(r"(?<![a-zA-Z\\])I(?![a-zA-Z])")
DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.]|\\(?:overline|dot))")  # floats would be compared by 6 digits
DEGREES = re.compile(r"(\d+(?:\.\d+)?)\^\{\\circ\}")


def same_expression(answer: str, gold: str) -> bool:
    """Compares two expressions, each in its one spelling; one that cannot be parsed equals nothing.

    Raises:
        Exception: of any kind, out of sympy.
    """
    from sympy import nan, zoo
    from sympy.core.relational import Relational

    a, b = parsed(answer), parsed(gold)
    if any(side.has(nan, zoo) for side in (a, b)):  # 1/0
        return False
    if isinstance(a, Relational) and isinstance(b, Relational):
        return _same_relation(a, b)
    verdict = _same_values(answer, gold, a, b)
    return bool(a == b) if verdict is None else verdict


@lru_cache(maxsize=1024)
def parsed(expression: str) -> Any:
    """Parses LaTeX: returns a sympy expression, relation, set or tuple."""
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from sympy import I, Integral, Product, Rational, Sum, Symbol

    if number := read_number(expression):
        return Rational(number.value.numerator, number.value.denominator)
    config = ConversionConfig(lowercase_symbols=False)
    expression = DECIMAL.sub(_as_fraction, expression)
    expression = PRODUCT.sub(r"\\cdot (", DEGREES.sub(r"(\\frac{\1\\pi}{180})", expression))
    found: Any = latex2sympy(expression, normalization_config=None, conversion_config=config)
    if found.has(Integral, Sum, Product):
        found = found.doit()
    i, meant = Symbol("i"), {}
    if LETTER_I.search(expression):
        meant[I] = Symbol("I")
    if i in getattr(found, "free_symbols", ()):
        meant[i] = I
    return found.subs(meant, simultaneous=True) if meant else found


def _as_fraction(match: re.Match[str]) -> str:
    whole, decimals = match.groups()
    return rf"\frac{{{int(whole + decimals)}}}{{{10 ** len(decimals)}}}"


def _same_values(answer: str, gold: str, a: Any, b: Any) -> bool | None:
    """Compares the values at each point; None if one of them has no finite values."""
    from sympy import Expr, Float

    if not isinstance(a, Expr) or not isinstance(b, Expr):
        return None
    names = a.free_symbols | b.free_symbols
    if not names and (verdict := _same_decimal(answer, gold, a, b)) is not None:
        return verdict
    exact = not a.has(Float) and not b.has(Float)
    if exact and not names:
        return _is_zero(a - b)
    compared = 0
    for point in range(POINTS):
        x, y = (_value(side, point) for side in (a, b))
        if (x is None) != (y is None):
            return None if compared == 0 else False
        if x is None or y is None:
            continue
        compared += 1
        if abs(x - y) > (AGREE if exact else 10**-SIX) * max(abs(x), abs(y)):
            return False
        if not names:
            break
    return True if compared else None


def _same_decimal(answer: str, gold: str, a: Any, b: Any) -> bool | None:
    """Compares a decimal with a constant, to as many digits as it has; None if neither or both are decimals."""
    numbers = [read_number(answer), read_number(gold)]
    for number, other in ((numbers[0], b), (numbers[1], a)):
        if number and number.digits and (value := _value(other, 0)) is not None:
            real = _real(value)
            return real is not None and same_number(number, Number(real))
    return None


def _is_zero(difference: Any) -> bool | None:
    """Checks a constant for zero, by as many digits as it takes to find one that differs, at most MOST_DIGITS."""
    if difference.is_Rational:
        return bool(difference == 0)
    value = difference.evalf(15, maxn=MOST_DIGITS)
    parts = [part for part in value.as_real_imag() if part != 0]
    if not all(part.is_Float for part in parts):
        return None
    return all(part._prec == 1 for part in parts)


def _real(value: Any) -> Fraction | None:
    if abs(value.imag) > AGREE * max(1, abs(value.real)):
        return None
    return Fraction(str(value.real))


def _value(expression: Any, point: int) -> Any:
    """Evaluates an expression with a different number for each variable; None if that is not finite."""
    import mpmath
    from sympy import Float, Symbol

    try:
        values: dict[Any, Any] = {
            s: Float(str(_number_of(s.name, point)), DIGITS) for s in expression.free_symbols if isinstance(s, Symbol)
        }
        found = expression.evalf(DIGITS, subs=values) if values else expression.evalf(DIGITS)
        with mpmath.workdps(DIGITS):
            real, imaginary = found.as_real_imag()
            number = mpmath.mpc(mpmath.mpf(str(real)), mpmath.mpf(str(imaginary)))
            return number if mpmath.isfinite(number) else None
    except Exception:  # sympy raises almost anything; the full comparison then decides
        return None


def _number_of(name: str, point: int) -> float:
    """Returns a number between 1/2 and 3/2, or between -3/2 and -1/2 at every second point."""
    size = 0.5 + zlib.crc32(f"{point} {name}".encode()) / 2**32
    return size if point % 2 == 0 else -size


def _same_relation(a: Any, b: Any) -> bool:
    """Compares equations or inequalities: what is left of both sides must have one ratio, at all points."""
    ratios = []
    for point in range(POINTS):
        x, y = (_value(side.lhs - side.rhs, point) for side in (a, b))
        if x is None or y is None or not y:
            return False
        ratios.append(x / y)
    first = ratios[0]
    if not first or any(abs(ratio - first) > AGREE * abs(first) for ratio in ratios):
        return False
    if a.rel_op in ("==", "!="):
        return a.rel_op == b.rel_op
    return a.rel_op == (b.rel_op if first.real > 0 else b.reversed.rel_op)


def main() -> None:
    """Answers each line of the standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()
    for line in sys.stdin:
        try:
            answer, gold = json.loads(line)
            verdict = same(answer, gold, same_expression)
        except Exception:  # sympy and its parser raise almost anything; such an answer counts as wrong
            verdict = False
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
