"""
Natural values that remember the form in which they were carried, so that one which no step changes is written as
it came: a document with its repeated keys and all its digits, a float in Postgres's own digits.
"""

from typing import Any


class _ReadFloat(float):
    __slots__ = ("carried",)
    carried: Any


class _ReadDict(dict[str, Any]):
    __slots__ = ("as_read", "carried")
    carried: Any
    as_read: str


class _ReadList(list[Any]):
    __slots__ = ("as_read", "carried")
    carried: Any
    as_read: str


def remembering(value: Any, carried: Any) -> Any:
    """The value, able to remember `carried` if it is a float, a dict or a list; any other is returned as it is."""
    read: _ReadFloat | _ReadDict | _ReadList
    match value:
        case float():
            read = _ReadFloat(value)
        case dict():
            read = _ReadDict(value)
            read.as_read = repr(value)
        case list():
            read = _ReadList(value)
            read.as_read = repr(value)
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
            return value.carried if repr(value) == value.as_read else None  # repr tells 1, 1.0 and True apart
    return None
