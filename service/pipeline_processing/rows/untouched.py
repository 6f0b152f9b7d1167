"""
Natural values that remember their carried form, so that values which no step changes are written exactly as read:
documents keep repeated keys and all digits, and floats keep Postgres's digits.
"""

from hashlib import blake2b
from typing import Any

import msgspec

_LONGEST_KEPT = 1024


class _ReadFloat(float):
    __slots__ = ("carried",)
    carried: Any


class _ReadDict(dict[str, Any]):
    __slots__ = ("as_read", "carried")
    carried: Any
    as_read: bytes


class _ReadList(list[Any]):
    __slots__ = ("as_read", "carried")
    carried: Any
    as_read: bytes


def remembering(value: Any, carried: Any) -> Any:
    """Return a float, dict or list as one that remembers `carried`. Return other values unchanged."""
    read: _ReadFloat | _ReadDict | _ReadList
    match value:
        case float():
            read = _ReadFloat(value)
        case dict():
            read = _ReadDict(value)
            read.as_read = seen_as(value)
        case list():
            read = _ReadList(value)
            read.as_read = seen_as(value)
        case _:
            return value
    read.carried = carried
    return read


def carried_form(value: Any) -> Any:
    """Return the carried form of a value; None if it has none, or was changed since, at any depth."""
    match value:
        case _ReadFloat():
            return value.carried
        case _ReadDict() | _ReadList():
            return value.carried if seen_as(value) == value.as_read else None
    return None


_encode = msgspec.json.Encoder(decimal_format="number").encode


def seen_as(value: Any) -> bytes:
    """Return bytes that distinguish 1, 1.0 and True, at any depth; for a long value, a digest."""
    try:
        seen = _encode(value)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        seen = b"null"
    if b"null" in seen:  # NaN too is null for msgspec
        seen = repr(value).encode("utf-8", "surrogatepass")
    return seen if len(seen) <= _LONGEST_KEPT else blake2b(seen, digest_size=32).digest()


def is_json_of(value: Any, text: Any) -> bool:
    """Return whether msgspec writes a value as `text` is, but for spaces. If not, it may still be the same document."""
    try:
        seen, written = _encode(value), msgspec.json.format(text, indent=-1)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return False
    return b"null" not in seen and seen == (written.encode() if isinstance(written, str) else written)
