"""Keys of rows as bytes: the same bytes where SQL calls all values equal, and only there."""

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
"""Further than Postgres's numeric reaches; beyond, numbers aren't written out."""


class RowKey:
    """
    The key of a row: the values of some columns. Two keys are equal where `IS NOT DISTINCT FROM` says so of all their
    values: 1 equals 1.0 and 1e0, and null equals null.

    Values of a column whose type isn't known are equal if they are of one kind (numbers, text, instants, …) and equal.
    Raises InvalidStep where a column's values can't be compared, and UnknownColumn.
    """

    def __init__(self, names: Sequence[str], columns: Columns, *, step: str) -> None:
        self._texts = [(name, _text_maker(columns.require(name, step=step), step=step)) for name in names]
        self._step = step

    def of(self, row: Row) -> bytes:
        """Raises StepFailed for a value that a step of the user's left and that can't be compared, such as a dict."""
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
    """A value of the column (never None) → a text that equals that of another value if the two are equal."""
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
    """Text of what `Comparison.key` gives."""
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
    """Text of a value that a step of the user's left, behind a letter for its kind. Raises TypeError for others."""
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
    raise TypeError(f"there is a {type(value).__name__}")


def _number_text(number: int | float | Decimal) -> str:
    """Every equal number has the same text."""
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
