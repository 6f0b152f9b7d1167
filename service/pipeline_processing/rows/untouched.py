"""
Natural values that remember the form in which they were carried, so that one which no step changes is written as
it came: a document with its repeated keys and all its digits, a float in Postgres's own digits.
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
    """The value, able to remember `carried` if it is a float, a dict or a list; any other is returned as it is."""
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
    """What the value was carried as; None if it was changed since, however deep inside, or is somebody's own."""
    match value:
        case _ReadFloat():
            return value.carried
        case _ReadDict() | _ReadList():
            return value.carried if _seen_as(value) == value.as_read else None
    return None


def _seen_as(value: Any) -> str | bytes:
    """What tells whether a value has changed: its repr, which tells 1, 1.0 and True apart; of a long one its digest."""
    text = repr(value)
    if len(text) <= _LONGEST_KEPT:
        return text
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
