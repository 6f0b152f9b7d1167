"""Reads and writes JSON with exact numbers."""

import json
import math
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from pipeline_processing.rows import values


def _integer(digits: str) -> int | Decimal:
    """Python's int has no -0, and refuses to read long numbers (the limit can be set, to 640 digits at least)."""
    return int(digits) if digits != "-0" and len(digits) <= 640 else Decimal(digits)


_decoder = json.JSONDecoder(parse_float=Decimal, parse_int=_integer)
_half_a_character = re.compile("[\ud800-\udfff]").search


def loads(document: bytes | str) -> Any:
    """A JSON document as Python values; numbers with a point or an exponent are Decimal."""
    return _decoder.decode(document if isinstance(document, str) else document.decode())


def dumps(value: Any, *, separators: tuple[str, str] = (",", ":")) -> str:
    """
    Python values as JSON of one line.

    Decimals are written out in digits, and NaN and the infinities as strings, as Postgres does.
    """
    comma, colon = separators
    match value:
        case dict():
            items = (
                f"{dumps_text(str(key))}{colon}{dumps(item, separators=separators)}" for key, item in value.items()
            )
            return "{" + comma.join(items) + "}"
        case list() | tuple():
            return "[" + comma.join(dumps(item, separators=separators) for item in value) + "]"
        case Decimal():
            return format(value, "f") if value.is_finite() else json.dumps(non_finite(value))
        case float():
            return repr(value) if math.isfinite(value) else json.dumps(non_finite(value))
        case str():
            return dumps_text(value)
        case datetime():
            return json.dumps(values.time_text(value, "T"))
        case int() | None:
            return json.dumps(value)
        case _:
            return msgspec.json.encode(value, enc_hook=plain).decode()


def plain(value: Any) -> Any:
    """A value that msgspec can write in place of one that it doesn't know."""
    return float(value) if isinstance(value, float) else str(value)


def dumps_text(text: str) -> str:
    """Text as JSON. Escapes halves of surrogate pairs, which documents of type json may hold, but UTF-8 can't."""
    return json.dumps(text, ensure_ascii=_half_a_character(text) is not None)


def decimal_text(value: Decimal) -> str:
    """All digits of a number, as Postgres prints them."""
    return format(value, "f") if value.is_finite() else non_finite(value)


def float_text(value: float) -> str:
    """A float in the fewest digits that name it, as Postgres prints it: `1`, not `1.0`."""
    return repr(float(value)).removesuffix(".0") if math.isfinite(value) else non_finite(value)


def non_finite(value: float | Decimal) -> str:
    """`NaN`, `Infinity` or `-Infinity`, as Postgres writes them."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
