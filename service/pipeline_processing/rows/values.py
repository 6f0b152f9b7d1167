"""
Keys that order carried values and SQL literals as Postgres does.

Postgres's types cover more than Python's: years beyond 9999 and before 1, infinite times, and a NaN that equals itself
and is greater than every number.
"""

import math
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import total_ordering
from typing import Any
from uuid import UUID

from pipeline_processing.rows.columns import Comparison


@total_ordering
class _NaN:
    """Postgres's NaN: equal to itself, and greater than all other numbers."""

    def __eq__(self, other: object) -> bool:
        return other is self

    def __lt__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "NaN"


NAN = _NaN()


def number_key(value: Any) -> Any:
    """A number, or the text of one → its key."""
    number = Decimal(value) if isinstance(value, str) else value
    return NAN if isinstance(number, Decimal | float) and math.isnan(number) else number


def number_literal(literal: str | int | Decimal | bool) -> Any:
    """`5`, `1.5`, `'5'`, `'NaN'` → key."""
    if isinstance(literal, bool):
        raise ValueError("a boolean isn't a number")
    try:
        return number_key(literal)
    except InvalidOperation:
        raise ValueError(f"{literal!r} isn't a number") from None


def float_key(value: Decimal | str) -> Any:
    """A number → the key of the nearest float, in the fewest digits that identify it."""
    return number_key(repr(float(value)))


def float_literal(literal: str | int | Decimal | bool) -> Any:
    """`0.1`, `'NaN'` → key."""
    key = number_literal(literal)
    return key if key is NAN else float_key(key)


def text_literal(literal: str | int | Decimal | bool) -> str:
    """`'abc'` → key."""
    if not isinstance(literal, str):
        raise ValueError(f"{literal} isn't text: write it in single quotes")
    return literal


def padded_text_key(text: str) -> str:
    """Text of type char(n), whose trailing spaces are insignificant → key."""
    return text.rstrip(" ")


def padded_text_literal(literal: str | int | Decimal | bool) -> str:
    """`'abc '`, to compare with char(n) → key."""
    return padded_text_key(text_literal(literal))


def uuid_literal(literal: str | int | Decimal | bool) -> str:
    """`'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'` → key."""
    return str(UUID(text_literal(literal)))


def boolean_literal(literal: str | int | Decimal | bool) -> bool:
    """`true`, `'t'`, `'no'` → key."""
    if isinstance(literal, bool):
        return literal
    text = str(literal).strip().lower()
    if text in ("t", "true", "y", "yes", "on", "1"):
        return True
    if text in ("f", "false", "n", "no", "off", "0"):
        return False
    raise ValueError(f"{literal!r} isn't a boolean")


def time_key(text: str) -> tuple[float, str]:
    """
    A date or timestamp as Postgres prints it (ISO, in UTC) → (year, text).

    Within a year, the text sorts correctly: all fields have a fixed width, and `+` and the end of the text sort before
    the digits of a longer fraction.
    """
    if text.endswith("infinity"):
        return (-math.inf if text[0] == "-" else math.inf, "")
    year = int(text[: text.index("-")])
    # 1 BC is the year 0, as in astronomical year numbering.
    return (1 - year if text.endswith(" BC") else year, text[text.index("-") :])


def date_literal(literal: str | int | Decimal | bool) -> tuple[float, str]:
    """`'2026-01-18'`, `'infinity'` → key."""
    text = text_literal(literal).strip()
    return time_key(text if text.endswith("infinity") else date.fromisoformat(text).isoformat())


def timestamp_literal(literal: str | int | Decimal | bool) -> tuple[float, str]:
    """`'2026-01-18 10:00'`, without time zone → key."""
    text = text_literal(literal).strip()
    if text.endswith("infinity"):
        return time_key(text)
    return time_key(time_text(datetime.fromisoformat(text).replace(tzinfo=None), " "))


def timestamptz_literal(literal: str | int | Decimal | bool) -> tuple[float, str]:
    """`'2026-01-18T10:00:00Z'`, in UTC if it has no zone → key."""
    text = text_literal(literal).strip()
    if text.endswith("infinity"):
        return time_key(text)
    moment = datetime.fromisoformat(text)
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it is outside the years 1 to 9999") from None
    return time_key(time_text(moment.replace(tzinfo=None), " ") + "+00")


def time_text(value: datetime, separator: str) -> str:
    """Format as ISO 8601 without trailing zeros in the fraction, as Postgres does."""
    text = value.isoformat(separator)
    if not value.microsecond:
        return text
    seconds, _, rest = text.partition(".")
    return f"{seconds}.{rest[:6].rstrip('0')}{rest[6:]}"


def same(value: Any) -> Any:
    """Return the value itself."""
    return value


PLAIN_NUMBER = Comparison("number", number_key, number_literal)
"""Numbers that are already Python numbers."""
PLAIN_TEXT = Comparison("text", same, text_literal)
"""Text, ordered by code point as in Postgres's collation "C"."""
PADDED_TEXT = Comparison("text", padded_text_key, padded_text_literal)
"""Text of type char(n)."""
UUIDS = Comparison("uuid", same, uuid_literal)
"""UUIDs as Postgres prints them."""
ENUM = Comparison("enum", same, text_literal)
"""Labels of an enum. Only equality is known, not their order."""
PLAIN_BOOLEAN = Comparison("boolean", same, boolean_literal)
"""Booleans that are already Python booleans."""
