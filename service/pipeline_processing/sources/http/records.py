"""Checks records of an API against the columns of the job config, and converts them to carried values."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from msgspec import Raw

from pipeline_processing.errors import SourceDataInvalid
from pipeline_processing.kinds import Form, form_of
from pipeline_processing.rows.columns import Kind
from pipeline_processing.sources.http.options import ColumnSchema

Carry = Callable[[Any], Any]
"""A JSON value (never null) → the carried value. Raises ValueError if it isn't of the kind."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]((?:[01]\d|2[0-3]):\d\d:\d\d)(?:\.(\d{1,12}))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_EXPECTED = {
    Kind.TEXT: "text without lone surrogates",
    Kind.INTEGER: "an integer of up to 64 bits",
    Kind.NUMBER: "a number",
    Kind.FLOAT: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.DATE: "a date such as 2026-01-18",
    Kind.TIMESTAMP: "a time without zone, such as 2026-01-18T10:00:00.5",
    Kind.TIMESTAMPTZ: "a time with its zone, such as 2026-01-18T10:00:00.5Z",
    Kind.UUID: "a UUID such as a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    Kind.JSON: "a value that isn't nested too deeply",
}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    path: tuple[str, ...]
    kind: Kind
    carry: Carry
    required: bool


class RecordReader:
    """Converts records to tuples of carried values, in the order of the columns."""

    def __init__(self, columns: Mapping[str, ColumnSchema], *, carry: str) -> None:
        self._fields = [
            _Field(
                name=name,
                path=(name,) if column.path is None else tuple(column.path.split(".")),
                kind=column.kind,
                carry=_carry(column.kind, carry),
                required=column.required,
            )
            for name, column in columns.items()
        ]

    def read(self, record: Any, number: int) -> tuple[Any, ...]:
        """
        Convert a record, whose number in the dataset is `number`, from 1.

        Raises SourceDataInvalid. Its message names the record, the column and the expected type, but never the value.
        """
        if not isinstance(record, dict):
            raise SourceDataInvalid(f"Record {number:,} is {_type_of(record)}, but must be an object.")
        values = []
        for field in self._fields:
            value = record.get(field.path[0]) if len(field.path) == 1 else _found(record, field, number)
            if value is not None:
                try:
                    value = field.carry(value)
                except (ValueError, RecursionError):
                    raise SourceDataInvalid(
                        f"Record {number:,} has {_type_of(value)} for column {field.name!r}, but must have "
                        f"{_EXPECTED[field.kind]}. Correct the column's kind in the job config, or have the API "
                        "corrected."
                    ) from None
            elif field.required:
                raise SourceDataInvalid(
                    f"Record {number:,} has no value, or null, for column {field.name!r}, which is required. Have the "
                    "API corrected, or leave `required` out."
                )
            values.append(value)
        return tuple(values)


def _found(record: Mapping[str, Any], field: _Field, number: int) -> Any:
    value: Any = record
    for key in field.path:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise SourceDataInvalid(
                f"Record {number:,} has {_type_of(value)} on the way to column {field.name!r}, but must have an object "
                f"there before {key!r}. Correct its `path` in the job config."
            )
        value = value.get(key)
    return value


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer" if value.bit_length() < 64 else "a large integer"
        case Decimal():
            return "a number with a point or an exponent"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"


def _carry(kind: Kind, carry: str) -> Carry:
    form = form_of(kind, carry)
    match kind:
        case Kind.TEXT:
            return _text
        case Kind.INTEGER:
            return lambda value: form.carried(_integer(value))
        case Kind.NUMBER:
            return lambda value: form.carried(Decimal(_number(value)))
        case Kind.FLOAT:
            return (lambda value: Raw(_float(value))) if carry == "json" else _float
        case Kind.BOOLEAN:
            return lambda value: form.carried(_boolean(value))
        case Kind.DATE:
            return lambda value: form.carried(_date(value))
        case Kind.TIMESTAMP:
            return lambda value: _time(value, form, zoned=False)
        case Kind.TIMESTAMPTZ:
            return lambda value: _time(value, form, zoned=True)
        case Kind.UUID:
            return _uuid
        case Kind.JSON:
            return form.carried


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("another type")
    return value


def _integer(value: Any) -> int:
    """Accepts `5`, `5.0` and `5e0`."""
    number = _number(value)
    if not -(2**63) <= number < 2**63 or int(number) != number:
        raise ValueError("not an integer of up to 64 bits")
    return int(number)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("another type")
    if not value.isascii():
        value.encode()  # raises ValueError for a lone surrogate
    return value


def _number(value: Any) -> int | Decimal:
    if type(value) is int or isinstance(value, Decimal):
        return value
    raise ValueError("another type")


def _float(value: Any) -> str:
    """Keep the digits as sent, because a float may lose some."""
    return str(_number(value)).lower()


def _date(value: Any) -> str:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError("not a date")
    return date.fromisoformat(value).isoformat()


def _time(value: Any, form: Form, *, zoned: bool) -> str:
    """Keep all digits of the fraction; Python's times have only six."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None or (found[4] is not None) != zoned:
        raise ValueError("not such a time")
    day, time, fraction, zone = found.groups()
    moment = datetime.fromisoformat(f"{day}T{time}{(zone or '').upper().replace('Z', '+00:00')}")
    try:
        text: str = form.carried(moment)
    except OverflowError:  # in UTC, it is outside the years 1 to 9999
        raise ValueError("not a time in UTC") from None
    digits = (fraction or "").rstrip("0")
    return f"{text[:_SECONDS_END]}.{digits}{text[_SECONDS_END:]}" if digits else text


_SECONDS_END = len("2026-01-18T10:00:00")


def _uuid(value: Any) -> str:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise ValueError("not a UUID")
    return value.lower()
