"""Double precision: text in Postgres's digits, and arithmetic that raises RowFault when it leaves the range."""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial

from pipeline_processing.expressions.types import RowFault

OUT_OF_RANGE = "a number is out of range for double precision"

_INPUT = re.compile(
    r"[+-]?(?:(?P<digits>[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE | re.ASCII
)
SPACE = " \t\n\v\f\r"
"""White space that Postgres ignores around a value."""
_BORDERS_FROM = 2.0**52
"""Below it no decimal of 17 digits lies half-way between two floats."""


# -- text ----------------------------------------------------------------------------------------


def float_of(text: str) -> float:
    """Text → float. Hexadecimal digits, which Postgres accepts, are refused. Raises RowFault."""
    match = _INPUT.fullmatch(text.strip(SPACE))
    if match is None:
        raise RowFault("the text isn't a number")
    number = float(match.group())
    if (digits := match["digits"]) and (math.isinf(number) or (not number and digits.strip("0."))):
        raise RowFault(OUT_OF_RANGE)
    return number


def float_of_decimal(number: Decimal) -> float:
    """The nearest float. Raises RowFault where that is an infinity or 0."""
    nearest = float(number)
    if (math.isinf(nearest) and number.is_finite()) or (not nearest and number):
        raise RowFault(OUT_OF_RANGE)
    return nearest


def float_text(number: float) -> str:
    """In Postgres's digits: `1`, `1e+15`, `9.999999999999999e+22` for Python's `1e+23`."""
    if number - number != 0:
        return "NaN" if number != number else ("Infinity" if number > 0 else "-Infinity")
    shortest = repr(number)
    if 1e-4 <= abs(number) < 1e15 or not number:
        return shortest.removesuffix(".0")
    if abs(number) >= _BORDERS_FROM:
        shortest = _between_borders(number, shortest)
    sign, digits, exponent = Decimal(shortest).normalize().as_tuple()
    first, rest = digits[0], "".join(map(str, digits[1:]))
    power = int(exponent) + len(rest)
    return f"{'-' if sign else ''}{first}{'.' if rest else ''}{rest}e{'-' if power < 0 else '+'}{abs(power):02d}"


def _between_borders(number: float, shortest: str) -> str:
    """
    The fewest digits that lie strictly between the borders to the neighbouring floats.

    Postgres never prints a border itself; Python does, where it is read as this float. All are integers here.
    """
    whole = abs(number)
    low = int(whole) + int(math.nextafter(whole, 0))
    high = 2 * int(whole) + int(math.ulp(whole))

    def is_inside(text: str) -> bool:
        return low < 2 * abs(int(Decimal(text))) < high

    if is_inside(shortest):
        return shortest
    return next(text for places in range(17) if is_inside(text := f"{number:.{places}e}"))


# -- arithmetic ----------------------------------------------------------------------------------


def _in_range(result: float, *operands: float) -> float:
    if math.isinf(result) and not any(map(math.isinf, operands)):
        raise RowFault(OUT_OF_RANGE)
    return result


def add(a: float, b: float) -> float:
    return _in_range(a + b, a, b)


def subtract(a: float, b: float) -> float:
    return _in_range(a - b, a, b)


def multiply(a: float, b: float) -> float:
    result = _in_range(a * b, a, b)
    if not result and a and b:
        raise RowFault(OUT_OF_RANGE)
    return result


def divide(a: float, b: float) -> float:
    if not b:
        if a != a:
            return a
        raise RowFault("division by zero")
    result = _in_range(a / b, a)
    if not result and a and not math.isinf(b):
        raise RowFault(OUT_OF_RANGE)
    return result


def _kept(number: float, function: Callable[[float], int]) -> float:
    """A function of finite numbers. NaN, the infinities and the sign of -0 are kept."""
    return math.copysign(function(number), number) if math.isfinite(number) else number


rounded = partial(_kept, function=round)
"""To an integer, a half to the even one."""
floor = partial(_kept, function=math.floor)
ceiling = partial(_kept, function=math.ceil)
