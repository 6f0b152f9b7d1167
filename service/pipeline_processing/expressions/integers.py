"""64-bit integers, regardless of the column's width. Functions raise RowFault if a result doesn't fit."""

import re
from decimal import ROUND_HALF_UP, Decimal
from typing import Never

from pipeline_processing.expressions.floats import SPACE
from pipeline_processing.expressions.types import RowFault

OUT_OF_RANGE = "a number is out of range for an integer, which has 64 bits"

_INPUT = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<decimal>[0-9](?:_?[0-9])*)"
    r"|(?P<prefixed>0x(?:_?[0-9a-f])+|0o(?:_?[0-7])+|0b(?:_?[01])+))",
    re.IGNORECASE | re.ASCII,
)
_MAX_DIGITS = 4000
"""Python refuses to parse much longer integers."""


def within_range(number: int) -> int:
    """Return the number. Raises RowFault if it doesn't fit into 64 bits."""
    return number if -(2**63) <= number < 2**63 else out_of_range()


def out_of_range() -> Never:
    """Raises RowFault."""
    raise RowFault(OUT_OF_RANGE)


# -- from other types ----------------------------------------------------------------------------


def integer_of(text: str) -> int:
    """Text → integer. Raises RowFault."""
    match = _INPUT.fullmatch(text.strip(SPACE))
    if match is None:
        raise RowFault("the text isn't an integer")
    digits = match["decimal"] or match["prefixed"]
    if len(digits) > _MAX_DIGITS:
        raise RowFault(OUT_OF_RANGE)
    number = int(digits) if match["decimal"] else int(digits, 0)
    return within_range(-number if match["sign"] == "-" else number)


def integer_of_decimal(number: Decimal) -> int:
    """Round halves away from zero. Raises RowFault."""
    if not number.is_finite() or number.adjusted() > 19:
        raise RowFault(OUT_OF_RANGE)
    return within_range(int(number.to_integral_value(ROUND_HALF_UP)))


def integer_of_float(number: float) -> int:
    """Round halves to even. Raises RowFault."""
    if not -(2.0**63) <= number < 2.0**63:
        raise RowFault(OUT_OF_RANGE)
    return round(number)


# -- arithmetic ----------------------------------------------------------------------------------


def add(a: int, b: int) -> int:
    return within_range(a + b)


def subtract(a: int, b: int) -> int:
    return within_range(a - b)


def multiply(a: int, b: int) -> int:
    return within_range(a * b)


def divide(a: int, b: int) -> int:
    """Round towards zero."""
    if not b:
        raise RowFault("division by zero")
    quotient = abs(a) // abs(b)
    return within_range(quotient if (a < 0) == (b < 0) else -quotient)


def remainder(a: int, b: int) -> int:
    """The result has the sign of `a`."""
    if not b:
        raise RowFault("division by zero")
    rest = abs(a) % abs(b)
    return -rest if a < 0 else rest


def negative(number: int) -> int:
    return within_range(-number)


def absolute(number: int) -> int:
    return within_range(abs(number))
