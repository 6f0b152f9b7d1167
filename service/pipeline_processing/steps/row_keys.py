"""Keys of rows as bytes: equal if and only if SQL says that all their values are equal."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from msgspec import Raw

from pipeline_processing.errors import InvalidStep, StepFailed
from pipeline_processing.kinds import text_of
from pipeline_processing.ports import Row
from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Column, Columns

_EXPONENTS = range(-200_000, 200_000)
"""Wider than the range of Postgres's numeric. Numbers beyond it aren't written in full."""


class RowKey:
    """
    Makes the key of a row from the values of some columns. Two keys are equal if `IS NOT DISTINCT FROM` says so for all
    of their values: 1 equals 1.0 and 1e0, and null equals null.

    Values of a column of unknown type are equal if they are of the same kind (numbers, text, instants, …) and equal.
    Raises UnknownColumn, or InvalidStep if a column's values can't be compared.
    """

    def __init__(self, names: Sequence[str], columns: Columns, *, step: str) -> None:
        self._texts = [(name, _text_maker(columns.require(name, step=step), step=step)) for name in names]
        self._step = step

    def of(self, row: Row) -> bytes:
        """Return the key of a row. Raises StepFailed for an incomparable value of user code, such as a dict."""
        key = ""
        for name, text_of_value in self._texts:
            value = row[name]
            if value is None:
                key += "-"
                continue
            try:
                text = text_of_value(value)
            except (TypeError, OverflowError) as error:  # OverflowError: a time zone beyond the years 1 to 9999
                raise StepFailed(
                    f"Step {self._step!r} can't compare the values of column {name!r}: {error}. Make the step before "
                    "it return numbers, text, booleans, dates or UUIDs."
                ) from None
            key += f"{len(text)}:{text}"
        return key.encode(errors="surrogatepass")


def _text_maker(column: Column, *, step: str) -> Callable[[Any], str]:
    """Return a function from a value of the column (never None) to text that is the same for equal values."""
    if not column.typed:
        return _text_of_any
    if column.comparison is None:
        raise InvalidStep(
            f"Step {step!r} can't compare the values of column {column.name!r}, for which SQL has no equality that is "
            "known here. Name another column, or cast it in the query, for example to text."
        )
    key = column.comparison.key
    return lambda value: _text_of_key(key(value))


def _text_of_key(key: Any) -> str:
    """Return the text of a `Comparison.key`."""
    match key:
        case str():
            return key
        case bool():
            return str(key)
        case int() | float() | Decimal():
            return _number_text(key)
        case (year, rest):
            return f"{year}{rest}"
        case _:
            return repr(key)  # NaN


def _text_of_any(value: Any) -> str:
    """Return the text of a value of user code, prefixed with a letter for its kind. Raises TypeError."""
    match value:
        case str():
            return f"s{value}"
        case bool():
            return f"b{value}"
        case int() | float() | Decimal():
            number = Decimal(repr(float(value))) if isinstance(value, float) else value
            return f"n{_text_of_key(values.number_key(number))}"
        case datetime():
            zone = value.tzinfo is not None and value.utcoffset() is not None
            return f"i{value.astimezone(UTC).isoformat()}" if zone else f"t{value.isoformat()}"
        case date():
            return f"d{value.isoformat()}"
        case UUID():
            return f"u{value}"
        case Raw():
            return f"r{text_of(value)}"
        case bytes():
            return f"x{value.hex()}"
    raise TypeError(f"a {type(value).__name__} has no known equality")


def _number_text(number: int | float | Decimal) -> str:
    """Return text that is the same for equal numbers."""
    if type(number) is int and number.bit_length() <= 64:
        return str(number)
    exact = Decimal(number)
    if not exact:
        return "0"
    if not exact.is_finite():
        return str(exact)
    if exact.adjusted() not in _EXPONENTS:
        sign, digits, _ = exact.as_tuple()
        return f"{'-' * sign}{''.join(map(str, digits)).rstrip('0')}e{exact.adjusted()}"
    text = format(exact, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
