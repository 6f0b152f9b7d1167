"""
Numeric: exact decimals with Postgres's scale, which is the number of digits that it prints after the point.

The rules follow src/backend/utils/adt/numeric.c in Postgres 18.
"""

import re
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal

from pipeline_processing.expressions.floats import SPACE
from pipeline_processing.expressions.types import RowFault, Target

OUT_OF_RANGE = "a number is out of range for numeric"

_MAX_SCALE = 16_383
_MAX_DIGITS_BEFORE_POINT = 131_072
_MIN_SIGNIFICANT_DIGITS = 16
_MAX_QUOTIENT_SCALE = 1000
_BASE_DIGITS = 4
"""Postgres computes in base 10,000."""

# Enough precision for the product of any two numerics. Without traps, Infinity - Infinity is NaN.
_EXACT = Context(prec=400_000, Emax=MAX_EMAX, Emin=MIN_EMIN, rounding=ROUND_HALF_UP, traps=[])
_ZERO = Decimal(0)
_NAN = Decimal("NaN")

_INPUT = re.compile(
    r"(?P<number>[+-]?(?:[0-9](?:_?[0-9])*\.?(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*)"
    r"(?:e(?P<exponent>[+-]?[0-9](?:_?[0-9])*))?)"
    r"|(?P<infinity>[+-]?inf(?:inity)?)|(?P<nan>nan)",
    re.IGNORECASE | re.ASCII,
)
_MAX_EXPONENT_DIGITS = 7


def decimal_of(text: str) -> Decimal:
    """Text → numeric. Raises RowFault, also for hexadecimal digits, which Postgres accepts."""
    match = _INPUT.fullmatch(text.strip(SPACE))
    if match is None:
        raise RowFault("the text isn't a number")
    if len(match["exponent"] or "") > _MAX_EXPONENT_DIGITS:
        raise RowFault(OUT_OF_RANGE)
    return stored(Decimal(match.group().replace("_", "")))


def decimal_of_float(number: float) -> Decimal:
    """Cast a float as Postgres does, with 15 digits. Raises RowFault."""
    return stored(Decimal(f"{number:.15g}"))


def decimal_text(number: Decimal) -> str:
    """Write all digits, as Postgres does."""
    text = str(number)
    return format(number, "f") if "E" in text else text


def stored(number: Decimal) -> Decimal:
    """Normalise a number as Postgres stores it: no -0, no positive exponent. Raises RowFault if it is out of range."""
    text = str(number)
    if number and "E" not in text and "N" not in text and len(text) <= _MAX_SCALE:
        return number  # the usual case: `as_tuple` is slow
    if not number.is_finite():
        return _NAN if number.is_nan() else number
    if number and number.adjusted() >= _MAX_DIGITS_BEFORE_POINT:
        raise RowFault(OUT_OF_RANGE)
    exponent = int(number.as_tuple().exponent)
    if not -_MAX_SCALE <= exponent <= 0:
        number = number.quantize(Decimal((0, (1,), min(0, max(exponent, -_MAX_SCALE)))), context=_EXACT)
    return number if number else number.copy_abs()


# -- arithmetic ----------------------------------------------------------------------------------


def _stored(function: Callable[[Decimal, Decimal], Decimal]) -> Callable[[Decimal, Decimal], Decimal]:
    return lambda a, b: stored(function(a, b))


add = _stored(_EXACT.add)
subtract = _stored(_EXACT.subtract)
multiply = _stored(_EXACT.multiply)


def divide(a: Decimal, b: Decimal) -> Decimal:
    if a.is_nan() or b.is_nan():
        return _NAN
    if not b:
        raise RowFault("division by zero")
    if b.is_infinite():
        return _ZERO if a.is_finite() else _NAN
    if a.is_infinite():
        return a if b > 0 else -a
    scale = _quotient_scale(a, b)
    scaled = _EXACT.scaleb(a, scale)
    whole = _EXACT.divide_int(scaled, b)
    rest = _EXACT.subtract(scaled, _EXACT.multiply(whole, b)).copy_abs()
    if _EXACT.add(rest, rest) >= b.copy_abs():
        whole = _EXACT.add(whole, Decimal(1 if a.is_signed() == b.is_signed() else -1))
    return stored(_EXACT.scaleb(whole, -scale))


def _quotient_scale(a: Decimal, b: Decimal) -> int:
    """Return the scale of a / b, as `select_div_scale` does: at least 16 significant digits."""
    (weight_a, first_a), (weight_b, first_b) = _leading(a), _leading(b)
    weight = weight_a - weight_b - (first_a <= first_b)
    scale = max(
        _MIN_SIGNIFICANT_DIGITS - weight * _BASE_DIGITS, -int(a.as_tuple().exponent), -int(b.as_tuple().exponent), 0
    )
    return min(scale, _MAX_QUOTIENT_SCALE)


def _leading(number: Decimal) -> tuple[int, int]:
    """Return the weight and value of the first digit in base 10,000."""
    if not number:
        return 0, 0
    weight = number.adjusted() // _BASE_DIGITS
    return weight, int(_EXACT.scaleb(number.copy_abs(), -weight * _BASE_DIGITS))


def remainder(a: Decimal, b: Decimal) -> Decimal:
    """The result has the sign of `a`."""
    if a.is_nan() or b.is_nan():
        return _NAN
    if not b:
        raise RowFault("division by zero")
    return stored(_EXACT.remainder(a, b))


def negative(number: Decimal) -> Decimal:
    return stored(number.copy_negate())


# -- rounding ------------------------------------------------------------------------------------


def rounded(number: Decimal, places: int = 0) -> Decimal:
    """Round halves away from zero. Negative `places` round before the point."""
    if not number.is_finite():
        return number
    places = max(-_MAX_DIGITS_BEFORE_POINT, min(places, _MAX_SCALE))
    return stored(number.quantize(Decimal((0, (1,), -places)), context=_EXACT))


def _whole(rounding: str) -> Callable[[Decimal], Decimal]:
    return lambda number: stored(number.to_integral_value(rounding)) if number.is_finite() else number


floor = _whole(ROUND_FLOOR)
ceiling = _whole(ROUND_CEILING)


def limited(number: Decimal, target: Target) -> Decimal:
    """Round to the target's numeric(precision, scale). Raises RowFault if the result is too large."""
    if target.precision is None or number.is_nan():
        return number
    kept = rounded(number, target.scale)
    if kept.is_infinite() or (kept and kept.adjusted() >= target.precision - target.scale):
        raise RowFault(f"a number is out of range for {target}")
    return kept
