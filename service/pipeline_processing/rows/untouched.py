"""
Natural values that remember their carried form. If no step changes one, it is written as it was read: a document with
its repeated keys and all its digits, a float in Postgres's own digits.
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
    """The value, which remembers `carried` if it is a float, a dict or a list. Others are returned as they are."""
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
    """The form that the value was carried in; None if it was changed since, at any depth, or never was carried."""
    match value:
        case _ReadFloat():
            return value.carried
        case _ReadDict() | _ReadList():
            return value.carried if _seen_as(value) == value.as_read else None
    return None


def _seen_as(value: Any) -> str | bytes:
    """A fingerprint of a value: its repr, which tells 1, 1.0 and True apart, or the digest of a long one."""
    text = repr(value)
    if len(text) <= _LONGEST_KEPT:
        return text
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
