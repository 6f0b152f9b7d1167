"""
The loops over all values of all rows that plain Python is too slow for.

Where there is a C compiler, the build compiles this module with Cython, which takes the annotations as C types: a value
annotated as `list` or `dict` must not be of a subclass. Otherwise the module runs as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from pipeline_processing.rows.json_values import LONGEST_INTEGER, decode, loads

if TYPE_CHECKING:
    import cython  # type: ignore[import-untyped]  # in no library; only the compiler reads it

COMPILED = not __file__.endswith(".py")
"""Whether this is the compiled module. Some loops are slower than others if it isn't."""

_decode_float = msgspec.json.Decoder(float).decode


def rows_of(names: tuple[str, ...], records: Iterable[Sequence[Any]], constants: tuple[Any, ...]) -> list[Any]:
    """Return a dict for each record: `names` → its values, then `constants`."""
    rows: list[Any] = []
    for record in records:
        row: dict[str, Any] = {}
        place: cython.Py_ssize_t = 0
        for value in record:
            row[names[place]] = value
            place += 1
        for value in constants:
            row[names[place]] = value
            place += 1
        rows.append(row)
    return rows


def are_plain(rows: list[Any]) -> bool:
    """Return whether all rows are dicts of values that msgspec writes exactly as they are."""
    for row in rows:
        if type(row) is not dict:
            return False
        values: dict[str, Any] = row
        for value in values.values():
            kind = type(value)
            if kind is not str and kind is not Raw and kind is not int and value is not None and kind is not bool:
                return False
    return True


def are_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether both have the same objects in the same order."""
    if len(some) != len(others):
        return False
    place: cython.Py_ssize_t = 0
    for each in some:
        if each is not others[place]:
            return False
        place += 1
    return True


# -- what a user's function gets, and gives ------------------------------------------------------


def decimal_of(carried: Any) -> Decimal:
    """Return the number that a text, or a fragment of JSON, has."""
    return Decimal(carried if type(carried) is str else str(carried, "utf-8"))


def moment_of(carried: str) -> datetime | str:
    """Return a datetime, or the carried text if Python doesn't support the year."""
    try:
        return datetime.fromisoformat(carried)
    except ValueError:
        return carried


def float_of(carried: Any) -> float:
    """Return the float that a text, or a fragment of JSON, has."""
    try:
        return _decode_float(carried) or float(carried)  # msgspec reads -0 as 0.0
    except (ValueError, msgspec.DecodeError):  # NaN or an infinity
        return float(carried)


def document_of(carried: Any) -> Any:
    """Return the document that a fragment of JSON has."""
    encoded = bytes(carried)
    if b"-0" in encoded or len(encoded) > LONGEST_INTEGER:
        return loads(encoded)
    try:
        return decode(encoded)
    except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError):
        return loads(encoded)


def naturals_of(rows: list[Any], name: str, natural: Callable[[Any], Any] | None) -> list[Any]:
    """Return the values of a column in natural form; None for a row that lacks it."""
    values: list[Any] = []
    for row in rows:
        value = row.get(name)
        values.append(value if value is None or natural is None else natural(value))
    return values


def set_values(rows: list[Any], name: str, values: list[Any]) -> None:
    """Set a column of rows, except where the value is None."""
    place: cython.Py_ssize_t = 0
    for row in rows:
        value = values[place]
        if value is not None:
            row[name] = value
        place += 1


def put_back(rows: list[Any], name: str, given: list[Any], parts: list[Any] | None, carried: list[Any]) -> None:
    """
    Set the column to its value in `carried`, rows as well, where it is still the object in `given`. For documents,
    `parts` has the `parts_of` each.
    """
    place: cython.Py_ssize_t = 0
    for row in rows:
        value = given[place]
        if value is not None and row.get(name) is value and (parts is None or has_parts(value, parts[place])):
            row[name] = carried[place][name]
        place += 1


def take(rows: list[Any], name: str, was: list[Any] | None, new: list[Any], plain: Any) -> list[int]:
    """
    Set the column to the values `new` that are None or of the type `plain`. Leave those that are the object in `was`.
    Return the places of the other values.
    """
    rest: list[int] = []
    place: cython.Py_ssize_t = 0
    for value in new:
        if was is None or value is not was[place]:
            if value is None or type(value) is plain:
                rows[place][name] = value
            else:
                rest.append(place)
        place += 1
    return rest


def places_of_remembered(rows: list[Any]) -> list[int]:
    """Return the places of the rows that have a float, a dict or a list."""
    found: list[int] = []
    place: cython.Py_ssize_t = 0
    for row in rows:
        members: dict[Any, Any] = row
        for value in members.values():
            kind = type(value)
            if kind is float or kind is dict or kind is list:
                found.append(place)
                break
        place += 1
    return found


def parts_of(document: Any) -> list[Any]:
    """Return the objects that a dict or list consists of, at any depth, for `has_parts`."""
    parts: list[Any] = []
    open_: list[Any] = [document]
    while open_:
        value = open_.pop()
        parts.append(value)
        if type(value) is dict:
            members: dict[Any, Any] = value
            parts.append(len(members))
            for key, item in members.items():
                parts.append(key)
                open_.append(item)
        elif type(value) is list:
            parts.append(len(value))
            open_.extend(value)
    return parts


def has_parts(document: Any, parts: list[Any]) -> bool:
    """Return whether a document still consists of the same objects, so nothing in it was changed."""
    count: cython.Py_ssize_t = len(parts)
    place: cython.Py_ssize_t = 0
    open_: list[Any] = [document]
    while open_:
        value = open_.pop()
        if place >= count or parts[place] is not value:
            return False
        place += 1
        if type(value) is dict:
            members: dict[Any, Any] = value
            if place >= count or parts[place] != len(members):
                return False
            place += 1
            for key, item in members.items():
                if place >= count or parts[place] is not key:
                    return False
                place += 1
                open_.append(item)
        elif type(value) is list:
            if place >= count or parts[place] != len(value):
                return False
            place += 1
            open_.extend(value)
    return bool(place == count)
