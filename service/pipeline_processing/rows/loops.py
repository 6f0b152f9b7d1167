"""
The loops over all values of all rows that plain Python is too slow for.

Where there is a C compiler, the build compiles this module with Cython, which takes the annotations as C types: a value
annotated as `list`, `dict` or `str` must not be of a subclass. So parameters that user code or a plugin may have made
are annotated as `Sequence` or `Any`. Otherwise the module runs as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from sys import getsizeof
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


def are_plain(rows: Sequence[Any]) -> bool:
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


def short_fragments(rows: Sequence[Any]) -> bytes:
    """Join the fragments of JSON in rows that may be NaN or an infinity, by their length."""
    found: list[Any] = []
    for row in rows:
        for value in row.values():
            if type(value) is Raw and len(value) <= _LONGEST_WORD:
                found.append(value)
    return b"".join(found)


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


_LONGEST_WORD = len("-Infinity")
_ROW_BYTES = getsizeof(dict.fromkeys(range(6)))
_MOST_ITEMS = 8
_DEEPEST = 8


def size_of_values(values: Iterable[Any]) -> int:
    """Estimate how many bytes a row with these values takes."""
    size = _ROW_BYTES
    for value in values:
        kind = type(value)
        if kind is str or kind is int or value is None or kind is bool:
            size += getsizeof(value)
        else:
            size += _size_of(value, 1)
    return size


def _size_of(value: Any, depth: int) -> int:
    if isinstance(value, Raw):
        return 64 + memoryview(value).nbytes
    size = getsizeof(value, 64)
    if depth < _DEEPEST and isinstance(value, dict | list | tuple | set | frozenset) and value:
        items = value.values() if isinstance(value, dict) else value
        found = [_size_of(item, depth + 1) for item in islice(items, _MOST_ITEMS)]
        size += sum(found) * len(value) // len(found)
    return size


# -- what a user's function gets, and gives ------------------------------------------------------


def decimal_of(carried: Any) -> Decimal:
    """Return the number that a text, or a fragment of JSON, has."""
    return Decimal(carried if type(carried) is str else str(carried, "utf-8"))


def moment_of(carried: Any) -> Any:
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
    # A search for one byte is much faster than one for two.
    if (b"-" in encoded and b"-0" in encoded) or len(encoded) > LONGEST_INTEGER:
        return loads(encoded)
    try:
        return decode(encoded)
    except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError):
        return loads(encoded)


def naturals_of(rows: Sequence[Any], name: str, natural: Callable[[Any], Any] | None) -> list[Any]:
    """Return the values of a column in natural form; None for a row that lacks it."""
    values: list[Any] = []
    for row in rows:
        value = row.get(name)
        values.append(value if value is None or natural is None else natural(value))
    return values


def columns_of(rows: Sequence[Any], names: tuple[str, ...]) -> list[list[Any]] | None:
    """Return the values of each column; None if a row has other columns, in any order."""
    columns: list[list[Any]] = []
    for row in rows:
        if len(row) != len(names):
            return None
    for name in names:
        column: list[Any] = []
        for row in rows:
            if name not in row:
                return None
            column.append(row[name])
        columns.append(column)
    return columns


def natural_rows(rows: Sequence[Any], conversions: list[Any]) -> list[Any]:
    """Return copies of rows with converted columns: pairs of a name and a function of values that aren't None."""
    made: list[Any] = []
    for row in rows:
        new: dict[Any, Any] = dict(row)
        for name, natural in conversions:
            value = row.get(name)
            if value is not None:
                new[name] = natural(value)
        made.append(new)
    return made


def take(rows: Sequence[Any], name: str, was: list[Any] | None, new: Sequence[Any], plain: Any) -> list[int]:
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
