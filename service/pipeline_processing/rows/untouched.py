"""
Natural values that remember their carried form, so that values which no step changes are written exactly as read:
documents keep repeated keys and all digits, and floats keep Postgres's digits.
"""

from hashlib import blake2b
from typing import Any

_LONGEST_KEPT = 1024


class _ReadFloat(float):
    __slots__ = ("carried",)
    carried: Any


class _ReadDict(dict[str, Any]):
    __slots__ = ("as_read", "carried")
    carried: Any
    as_read: str | bytes


class _ReadList(list[Any]):
    __slots__ = ("as_read", "carried")
    carried: Any
    as_read: str | bytes


def remembering(value: Any, carried: Any) -> Any:
    """Return a float, dict or list as one that remembers `carried`. Return other values unchanged."""
    read: _ReadFloat | _ReadDict | _ReadList
    match value:
        case float():
            read = _ReadFloat(value)
        case dict():
            read = _ReadDict(value)
            read.as_read = _seen_as(value)
        case list():
            read = _ReadList(value)
            read.as_read = _seen_as(value)
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
            return value.carried if _seen_as(value) == value.as_read else None
    return None


def _seen_as(value: Any) -> str | bytes:
    """Return a value's repr, which distinguishes 1, 1.0 and True, or the digest of a long repr."""
    text = repr(value)
    if len(text) <= _LONGEST_KEPT:
        return text
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
