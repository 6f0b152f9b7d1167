"""Reads values of rows, carried or left by user code, as the formats write them."""

import math
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from msgspec import Raw

from pipeline_processing.kinds import text_of
from pipeline_processing.rows.json_values import decimal_text, dumps, float_text, loads, non_finite
from pipeline_processing.rows.untouched import carried_form
from pipeline_processing.rows.values import time_text


def text_of_any(value: Any) -> str:
    """Return the text of a value (never None): `kinds.text_of` if it is carried, else what Postgres would print."""
    if type(value) is str:
        return value
    match value:
        case Raw() | bool() | int() | str():
            return text_of(value)
        case float() | dict() | list() if (carried := carried_form(value)) is not None:
            return text_of(carried)
        case Decimal():
            return decimal_text(value)
        case float():
            return float_text(value)
        case datetime():
            return time_text(value, "T")
        case date() | time():
            return value.isoformat()
        case bytes() | bytearray():
            return "\\x" + value.hex()
        case dict() | list() | tuple():
            return dumps(value)
        case _:
            return str(value)


def json_of_any(value: Any) -> Any:
    """Return the value that `loads` would read from NDJSON: numbers are int or Decimal."""
    match value:
        case None | bool() | int() | str():
            return value
        case Raw():
            return _json_of_fragment(value)
        case float() | dict() | list() if (carried := carried_form(value)) is not None:
            return _json_of_fragment(carried)
        case Decimal():
            return value if value.is_finite() else non_finite(value)
        case float():
            return Decimal(repr(float(value))) if math.isfinite(value) else non_finite(value)
        case Mapping():
            return {str(name): json_of_any(item) for name, item in value.items()}
        case list() | tuple():
            return [json_of_any(item) for item in value]
        case _:
            return loads(dumps(value))


def _json_of_fragment(carried: Raw | str) -> Any:
    """Parse a carried value: JSON, or Postgres's text of a number or document."""
    text = text_of(carried)
    return text if text in ("NaN", "Infinity", "-Infinity") else loads(text)
