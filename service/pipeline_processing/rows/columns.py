"""The columns of a dataset at one point in its chain of steps, as far as they are known there."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pipeline_processing.errors import InvalidStep, UnknownColumn


class Kind(StrEnum):
    """What a column's values are, whatever its type is called at the source."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    """Exact, with a fraction."""
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    UUID = "uuid"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How values of a column compare in SQL."""

    family: str
    """Columns of the same family can be compared: boolean, number, text, uuid, enum, date, timestamp(tz)."""
    key: Callable[[Any], Any]
    """A carried value (never None) → a key that orders as Postgres orders the type."""
    literal: Callable[[str | int | Decimal | bool], Any]
    """A SQL literal → its key. Raises ValueError if it isn't of the type."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a dataset at one point in its chain of steps."""

    name: str
    natural: Callable[[Any], Any] | None = None
    """A carried value (never None) → the Python value for steps: Decimal, datetime, dict, …; None if the same."""
    comparison: Comparison | None = None
    """None if its values can't be compared, or its type is unknown."""
    kind: Kind | None = None
    """None if no kind fits (an array, a range, …), or its type is unknown."""
    declared: str | None = None
    """The source's name of a type that no kind fits."""
    typed: bool = True
    """Whether its type is known. If not, user code may have left any values in it."""
    digits: tuple[int, int] | None = None
    """Precision and scale of a NUMBER, if its type limits both."""
    origins: frozenset[str] = frozenset()
    """
    Source columns that its values come from; empty for a constant. A name that the source doesn't have stands for
    unknown columns, as after user code.
    """
    unchanged: bool = False
    """Whether it has the values of its only origin, perhaps under another name."""


@dataclass(frozen=True, slots=True)
class Columns:
    """
    Columns in order. If `complete` is False, there may be more than the `listed` ones, except those in `absent`. That
    is the case after a `python` step, or before the source is queried.
    """

    listed: tuple[Column, ...] = ()
    complete: bool = True
    absent: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Column]:
        return iter(self.listed)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the listed columns."""
        return tuple(column.name for column in self.listed)

    def find(self, name: str) -> Column | None:
        """Return the listed column of that name, if any."""
        return next((column for column in self.listed if column.name == name), None)

    def require(self, name: str, *, step: str) -> Column:
        """Return the column of that name, of unknown type if it isn't listed but may exist. Raises UnknownColumn."""
        if (column := self.find(name)) is not None:
            return column
        if self.complete or name in self.absent:
            raise UnknownColumn(name, step=step, available=self.names, without=self.absent)
        return unknown(name)

    def require_in(self, rows: Iterable[Mapping[str, Any]], names: Iterable[str], *, step: str) -> None:
        """Raises UnknownColumn if a row lacks one of these columns, which can happen unless all are known."""
        if not self.complete:
            for row in rows:
                for name in names:
                    if name not in row:
                        raise UnknownColumn(name, step=step, available=tuple(map(str, row)))

    def only(self, names: Sequence[str], *, step: str) -> "Columns":
        """Return these columns, in this order. Raises UnknownColumn."""
        return Columns(tuple(self.require(name, step=step) for name in names))

    def without(self, names: Iterable[str], *, step: str) -> "Columns":
        """Return all columns except these. Raises UnknownColumn."""
        gone = frozenset(names)
        for name in gone:
            self.require(name, step=step)
        left = tuple(column for column in self.listed if column.name not in gone)
        return Columns(left, self.complete, self.absent if self.complete else self.absent | gone)

    def renamed(self, names: Mapping[str, str], *, step: str) -> "Columns":
        """Rename columns, old → new. Raises UnknownColumn, or InvalidStep if two would have the same name."""
        moved = [replace(self.require(old, step=step), name=new) for old, new in names.items() if not self.find(old)]
        after = (*(replace(column, name=names.get(column.name, column.name)) for column in self.listed), *moved)
        check_different([column.name for column in after], step=step)
        gone = frozenset() if self.complete else (self.absent | names.keys()) - set(names.values())
        return Columns(after, self.complete, gone)

    def plus(self, more: Iterable[Column], *, step: str) -> "Columns":
        """Append columns. Raises InvalidStep if one already exists."""
        added = tuple(more)
        check_absent([column.name for column in added], self.names, step=step)
        return Columns((*self.listed, *added), self.complete, self.absent - {column.name for column in added})

    def replaced(self, changed: Iterable[Column], *, step: str) -> "Columns":
        """Replace the columns of the same names. Raises UnknownColumn."""
        by_name = {column.name: column for column in changed}
        for name in by_name:
            self.require(name, step=step)
        listed = tuple(by_name.pop(column.name, column) for column in self.listed)
        return Columns((*listed, *by_name.values()), self.complete, self.absent)


def unknown(name: str) -> Column:
    """Return a column after user code: it may still be the source's column of that name."""
    return Column(name, typed=False, origins=frozenset({name}), unchanged=True)


UNKNOWN_COLUMNS = Columns(complete=False)
"""Nothing is known about the columns."""


def check_different(names: Sequence[str], *, step: str) -> None:
    """Raises InvalidStep if two columns would have the same name."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidStep(
            f"Step {step!r} would give two columns the name {', '.join(map(repr, twice))}. "
            "Choose another name, or leave one of them out with `select` or `drop`."
        )


def check_absent(names: Iterable[str], present: Iterable[str], *, step: str) -> None:
    """Raises InvalidStep if a new column would replace an existing one."""
    there = set(present)
    if twice := [name for name in names if name in there]:
        raise InvalidStep(
            f"Step {step!r} would replace the column {', '.join(map(repr, twice))}, which is there already. "
            "Choose another name, or leave the old one out with `select` or `drop`."
        )
