"""JSON of exact values: numbers keep their digits both ways."""

import json
import math
from decimal import Decimal
from typing import Any

import msgspec

_decoder = json.JSONDecoder(parse_float=Decimal)


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
                f"{json.dumps(str(key), ensure_ascii=False)}{colon}{dumps(item, separators=separators)}"
                for key, item in value.items()
            )
            return "{" + comma.join(items) + "}"
        case list() | tuple():
            return "[" + comma.join(dumps(item, separators=separators) for item in value) + "]"
        case Decimal():
            return format(value, "f") if value.is_finite() else json.dumps(non_finite(value))
        case float():
            return repr(value) if math.isfinite(value) else json.dumps(non_finite(value))
        case str() | int() | None:
            return json.dumps(value, ensure_ascii=False)
        case _:
            return msgspec.json.encode(value).decode()


def non_finite(value: float | Decimal) -> str:
    """`NaN`, `Infinity` or `-Infinity`, as Postgres writes them."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
