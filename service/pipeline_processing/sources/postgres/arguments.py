"""Binds a query's parameters $1, $2, …: finds their values by name, and converts them to the parameters' types."""

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from pipeline_processing.agency_keys import AgencyKey
from pipeline_processing.errors import QueryInvalid
from pipeline_processing.rows.values import boolean_literal

_INTEGERS = ("int2", "int4", "int8", "oid")
_NUMBERS = (*_INTEGERS, "numeric", "float4", "float8")
_NO_KEYS = ("date", "time", "timetz", "timestamp", "timestamptz", "interval", "bool")
_OTHER_KEYS = {AgencyKey.INTEGER: ("uuid",), AgencyKey.UUID: _NUMBERS, AgencyKey.TEXT: ()}
"""Types that hold no key of a kind. A text may hold digits or a UUID."""
_TEXTS = ("text", "varchar", "bpchar", "name", "unknown")


def bound(names: Sequence[str], parameters: Sequence[asyncpg.Type], arguments: Mapping[str, Any]) -> list[Any]:
    """
    Return the values to bind, in order. They are sent separately, never as part of the query's text.

    Raises QueryInvalid if a name is unknown, a value doesn't fit, or their number differs from the query's.
    """
    if len(names) != len(parameters):
        raise QueryInvalid(
            f"The query has {len(parameters)} parameters ($1, $2, …), but `args` names "
            f"{len(names)}. Make `args` list one name for each, in order."
        )
    return [_value(name, kind, arguments) for name, kind in zip(names, parameters, strict=True)]


def misfit(names: Sequence[str], parameters: Sequence[asyncpg.Type], key: AgencyKey) -> tuple[int, str] | None:
    """
    Return the number and the type of a parameter that is given `agency_id`, but can hold no such key. None if each may.

    A parameter has the type of the column with which the query compares it.
    """
    for number, (name, parameter) in enumerate(zip(names, parameters, strict=False), start=1):
        if name == "agency_id" and parameter.name in (*_NO_KEYS, *_OTHER_KEYS[key]):
            return number, parameter.name
    return None


def kind_of_key(type_name: str) -> AgencyKey | None:
    """Return the kind of key that a column of this type has, if it has one."""
    return AgencyKey.UUID if type_name == "uuid" else AgencyKey.INTEGER if type_name in _NUMBERS else None


def _value(name: str, parameter: asyncpg.Type, arguments: Mapping[str, Any]) -> Any:
    if name not in arguments:
        raise QueryInvalid(
            f"The query needs {name!r}, which is neither built in nor a param of this request; "
            f"available are {', '.join(arguments)}. Send it with `--param {name}=VALUE`, or correct `args`."
        )
    value = arguments[name]
    try:
        fitted = _fitted(value, parameter.name)
        if name == "agency_id" and isinstance(value, str) and str(fitted) != value:
            raise ValueError("another spelling of another key")  # 007 would read the rows of 7
        return fitted
    except ValueError:
        raise QueryInvalid(
            f"The query needs a {parameter.name} for {name!r}, not {value!r}. Correct the "
            "param of the request, or cast the parameter in the query."
        ) from None


def _fitted(value: Any, type_name: str) -> Any:
    """Convert a value to a type. Params come from JSON or a command line, so `"5"` may mean a number and 5 text."""
    if value is None:
        return None
    if type_name in _INTEGERS:
        if isinstance(value, str):
            return int(value)
        if type(value) is not int:
            raise ValueError("not an integer")
    if type_name == "bool":
        return boolean_literal(value)
    if type_name in _TEXTS and not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return value
