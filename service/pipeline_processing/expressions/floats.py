"""Double precision: conversion to and from Postgres's text, and arithmetic that raises RowFault on overflow."""

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
"""Below it, no decimal of 17 digits lies halfway between two floats."""


# -- text ----------------------------------------------------------------------------------------


def float_of(text: str) -> float:
    """Text → float. Raises RowFault, also for hexadecimal digits, which Postgres accepts."""
    match = _INPUT.fullmatch(text.strip(SPACE))
    if match is None:
        raise RowFault("the text isn't a number")
    number = float(match.group())
    if (digits := match["digits"]) and (math.isinf(number) or (not number and digits.strip("0."))):
        raise RowFault(OUT_OF_RANGE)
    return number


def float_of_decimal(number: Decimal) -> float:
    """Return the nearest float. Raises RowFault on overflow or underflow."""
    nearest = float(number)
    if (math.isinf(nearest) and number.is_finite()) or (not nearest and number):
        raise RowFault(OUT_OF_RANGE)
    return nearest


def float_text(number: float) -> str:
    """Write a float as Postgres does: `1`, `1e+15`, `9.999999999999999e+22` for Python's `1e+23`."""
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
    Return the shortest number strictly between the midpoints to the neighbouring floats.

    Python may print a midpoint if it rounds to this float; Postgres never does. All of these numbers are integers.
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
    """Apply a function to finite numbers. NaN, the infinities and the sign of -0 are kept."""
    return math.copysign(function(number), number) if math.isfinite(number) else number


rounded = partial(_kept, function=round)
"""To an integer, halves to even."""
floor = partial(_kept, function=math.floor)
ceiling = partial(_kept, function=math.ceil)
