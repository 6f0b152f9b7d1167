"""Read and write JSON with exact numbers."""

import json
import math
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from pipeline_processing.rows import values

LONGEST_INTEGER = 640
"""Digits that int may always parse."""


def _integer(digits: str) -> int | Decimal:
    """Return a Decimal where int won't do: it has no -0, and may refuse to parse more than 640 digits."""
    return int(digits) if digits != "-0" and len(digits) <= LONGEST_INTEGER else Decimal(digits)


_decoder = json.JSONDecoder(parse_float=Decimal, parse_int=_integer)
decode = msgspec.json.Decoder(float_hook=Decimal).decode
"""Decodes like `loads`, except for lone surrogates, -0, and integers of more than LONGEST_INTEGER digits."""
_special_integer = re.compile(rb"-0(?![0-9.eE])|(?<![0-9])[0-9]{641}").search
"""Finds integers for which msgspec differs from `_integer`."""
_half_a_character = re.compile("[\ud800-\udfff]").search


def loads(document: bytes | str) -> Any:
    """Parse a JSON document. Numbers with a point or an exponent become Decimal."""
    try:
        encoded = document.encode() if isinstance(document, str) else document
        # The search is slower than decoding, so faster ones come first.
        plain = (b"-" not in encoded or b"-0" not in encoded) and len(encoded) <= LONGEST_INTEGER
        if plain or not _special_integer(encoded):
            return decode(encoded)
    except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError):
        pass  # a lone surrogate, or what isn't JSON: the other decoder accepts the former, and says what is wrong
    return _decoder.decode(document if isinstance(document, str) else document.decode())


def dumps(value: Any, *, separators: tuple[str, str] = (",", ":")) -> str:
    """
    Write Python values as JSON on one line.

    As in Postgres, decimals have no exponent, and NaN and the infinities become strings.
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
    """Convert a value of a type that msgspec doesn't support."""
    return float(value) if isinstance(value, float) else str(value)


def dumps_text(text: str) -> str:
    """Write text as JSON. Escapes lone surrogates, which type json allows but UTF-8 can't encode."""
    return json.dumps(text, ensure_ascii=_half_a_character(text) is not None)


def decimal_text(value: Decimal) -> str:
    """Write all digits of a number, as Postgres does."""
    return format(value, "f") if value.is_finite() else non_finite(value)


def float_text(value: float) -> str:
    """Write a float in the fewest digits that identify it, as Postgres does: `1`, not `1.0`."""
    return repr(float(value)).removesuffix(".0") if math.isfinite(value) else non_finite(value)


def non_finite(value: float | Decimal) -> str:
    """Return `NaN`, `Infinity` or `-Infinity`, as Postgres writes them."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
