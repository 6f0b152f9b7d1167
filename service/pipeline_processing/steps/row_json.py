"""Converts rows to the JSON that NDJSON would write, as Python values. Numbers stay exact: int or Decimal."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from pipeline_processing.kinds import text_of
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import Column, Columns, Kind
from pipeline_processing.rows.json_values import loads
from pipeline_processing.steps.foreign_values import json_of_any

_NON_FINITE = ("NaN", "Infinity", "-Infinity")
"""NDJSON writes these as text, as Postgres does."""


class RowJson:
    """
    Converts rows to JSON, as Python values.

    In the form "text", values of a column without a kind (an array, a range, …) are the text that CSV writes.
    """

    def __init__(self, columns: Columns, carry: str) -> None:
        self._complete = columns.complete
        known = ((column.name, _maker(column, carry)) for column in columns)
        self._makers = {name: maker for name, maker in known if maker is not None}
        self._names = frozenset(columns.names)

    def of(self, row: Row) -> Row:
        """Return a converted copy, which shares no mutable values with the row. Raises RecursionError."""
        made = dict(row)
        for name, maker in self._makers.items():
            if (value := made[name]) is not None:
                made[name] = maker(value)
        if not self._complete:
            for name in made.keys() - self._names:
                made[name] = json_of_any(made[name])
        return made


def _maker(column: Column, carry: str) -> Callable[[Any], Any] | None:
    """Return a function from a carried value of the column (never None) to its JSON; None if they are the same."""
    if not column.typed:
        return json_of_any
    if column.kind is None:
        return _document if column.natural is not None else None
    return _MAKERS[carry].get(column.kind)


def _number(carried: Any) -> Any:
    text = text_of(carried)
    if "." in text:
        return Decimal(text)
    return text if text in _NON_FINITE else loads(text)


def _document(carried: Any) -> Any:
    return loads(text_of(carried))


_MAKERS: Mapping[str, Mapping[Kind, Callable[[Any], Any]]] = {
    "json": {Kind.NUMBER: _number, Kind.FLOAT: _number, Kind.JSON: _document},
    "text": {
        Kind.INTEGER: int,
        Kind.NUMBER: _number,
        Kind.FLOAT: _number,
        Kind.BOOLEAN: lambda text: text == "t",
        Kind.TIMESTAMP: lambda text: text.replace(" ", "T", 1),
        Kind.TIMESTAMPTZ: lambda text: text.replace(" ", "T", 1).replace("+00", "+00:00", 1),  # always UTC
        Kind.JSON: _document,
    },
}
