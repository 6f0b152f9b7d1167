"""The parameter of a lookup's query: a list of keys, converted to its element type."""

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg

from pipeline_processing.errors import QueryInvalid

_ELEMENT = """
WITH RECURSIVE element AS (
    SELECT t.oid, t.typname, t.typtype, t.typbasetype, t.typnamespace
    FROM pg_type list JOIN pg_type t ON t.oid = list.typelem
    WHERE list.oid = $1 AND list.typcategory = 'A' AND list.typlen = -1
    UNION ALL
    SELECT t.oid, t.typname, t.typtype, t.typbasetype, t.typnamespace
    FROM element JOIN pg_type t ON t.oid = element.typbasetype
    WHERE element.typtype = 'd'
)
SELECT typname, typnamespace = 'pg_catalog'::regnamespace AS built_in, typtype = 'e' AS is_enum,
    ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = element.oid) AS labels
FROM element WHERE typtype <> 'd'
"""
"""Finds the element type of a list, and the base type if that is a domain."""

_TIME = re.compile(r"-?infinity|\d{4,}-\d\d-\d\d([T ][\d:.]+([+-][\d:]+|Z)?)?( BC)?", re.ASCII)


class _Unfit(Exception):
    """No value of the type equals the key."""


@dataclass(frozen=True, slots=True)
class KeyList:
    """A parameter that takes a list of keys. `type_name` is the type of its elements, and `fit` converts one key."""

    type_name: str
    fit: Callable[[Any], Any]

    def fitted(self, keys: Iterable[Any]) -> list[Any]:
        """
        Convert natural values for Postgres. Leaves out keys that no value of the type equals, such as 1.5 for integers.

        Raises QueryInvalid if keys are of another type.
        """
        found = []
        for key in keys:
            try:
                found.append(self.fit(key))
            except _Unfit:
                continue
            except TypeError:
                raise QueryInvalid(
                    f"The query takes a list of {self.type_name} as $1, but the rows have keys of another type "
                    f"({type(key).__name__}). Compare both as one, for example as text: WHERE code::text = "
                    "ANY($1::text[])."
                ) from None
        return found


async def key_list_of(connection: asyncpg.Connection, parameters: Sequence[asyncpg.Type]) -> KeyList:
    """
    Look up the type of a query's parameter. The connection must have asyncpg's default codecs.

    Raises QueryInvalid unless there is exactly one parameter, a list of a supported type.
    """
    if len(parameters) != 1:
        raise QueryInvalid(
            f"The query has {len(parameters)} parameters, but a lookup's has exactly one, $1, the list of keys to "
            "look for. Write it as in WHERE code = ANY($1)."
        )
    element = await connection.fetchrow(_ELEMENT, parameters[0].oid)
    if element is None:
        raise QueryInvalid(
            f"The query's $1 is a {parameters[0].name}, but a lookup's is a list of keys. Write it as in "
            "WHERE code = ANY($1), or with its type: ANY($1::text[])."
        )
    name = element["typname"]
    if element["is_enum"]:
        return KeyList(name, _one_of(frozenset(element["labels"])))
    fit = _FITS.get(name) if element["built_in"] else _text
    if fit is None:
        raise QueryInvalid(
            f"The query's $1 is a list of {name}, and keys can be {', '.join(_FITS)}, or an enum. Compare them as "
            "text: WHERE code::text = ANY($1::text[])."
        )
    return KeyList(name, fit)


# -- conversions of one key; each raises TypeError if it is of another type -----------------------


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError
    if "\0" in key or not _in_utf8(key):
        raise _Unfit
    return key


def _in_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _one_of(labels: frozenset[str]) -> Callable[[Any], str]:
    def label(key: Any) -> str:
        if not isinstance(key, str):
            raise TypeError
        if key not in labels:
            raise _Unfit
        return key

    return label


def _number(key: Any) -> int | Decimal:
    if isinstance(key, float):
        return Decimal(repr(float(key)))
    if isinstance(key, bool) or not isinstance(key, int | Decimal):
        raise TypeError
    return key


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def whole(key: Any) -> int:
        number = _number(key)
        if isinstance(number, Decimal) and not number.is_finite():
            raise _Unfit
        if not low <= number <= high or number != int(number):
            raise _Unfit
        return int(number)

    return whole


def _float(code: str) -> Callable[[Any], Decimal]:
    def floating(key: Any) -> Decimal:
        number = Decimal(_number(key))
        if not number.is_finite():
            return number
        try:
            (nearest,) = struct.unpack(code, struct.pack(code, float(number)))
        except OverflowError:
            raise _Unfit from None
        if nearest - nearest != 0 or bool(nearest) is not bool(number):
            raise _Unfit  # Postgres would raise an error: out of range
        return number

    return floating


def _boolean(key: Any) -> bool:
    if not isinstance(key, bool):
        raise TypeError
    return key


def _uuid(key: Any) -> str:
    if not isinstance(key, str | UUID):
        raise TypeError
    try:
        return str(UUID(str(key)))
    except ValueError:
        raise _Unfit from None


def _time(*types: type) -> Callable[[Any], date | str]:
    def time(key: Any) -> date | str:
        if type(key) in types:
            return key  # type: ignore[no-any-return]  # one of those
        if not isinstance(key, str):
            raise TypeError
        if not _TIME.fullmatch(key):
            raise _Unfit
        return key

    return time


_FITS: Mapping[str, Callable[[Any], Any]] = {
    "text": _text,
    "varchar": _text,
    "bpchar": _text,
    "name": _text,
    "int2": _whole(-(2**15), 2**15 - 1),
    "int4": _whole(-(2**31), 2**31 - 1),
    "int8": _whole(-(2**63), 2**63 - 1),
    "numeric": _number,
    "float4": _float("f"),
    "float8": _float("d"),
    "bool": _boolean,
    "uuid": _uuid,
    "date": _time(date),
    "timestamp": _time(date, datetime),
    "timestamptz": _time(date, datetime),
}
