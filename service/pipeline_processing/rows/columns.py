"""The columns of a dataset at one place in its chain of steps, as far as they are known there."""

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
    """How values of a column compare, as in SQL."""

    family: str
    """Columns of one family compare: boolean, number, text, uuid, enum, date, timestamp(tz)."""
    key: Callable[[Any], Any]
    """A carried value (never None) → a key that orders as Postgres orders the type."""
    literal: Callable[[str | int | Decimal | bool], Any]
    """A literal of SQL → such a key. Raises ValueError if it isn't of the type."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a dataset at one place in its chain of steps."""

    name: str
    natural: Callable[[Any], Any] | None = None
    """A carried value (never None) → the Python value a step works with: Decimal, datetime, dict, …; None: as it is."""
    comparison: Comparison | None = None
    """None where its values can't be compared, or where its type isn't known."""
    kind: Kind | None = None
    """None where it is none of ours (an array, a range, …), or where its type isn't known."""
    typed: bool = True
    """Whether its type is known; if not, its values are as a step of the user's left them."""
    origins: frozenset[str] = frozenset()
    """
    Columns of the source that its values come from; none of a constant. A name that the source doesn't have stands for
    nobody knows which: so after a step of the user's.
    """
    unchanged: bool = False
    """Whether its values are those of its one origin, perhaps under another name."""


@dataclass(frozen=True, slots=True)
class Columns:
    """
    Columns in order. With `complete` False there may be others besides the `listed` ones, but none of `absent`: so
    after a `python` step, or where nobody has asked the source yet.
    """

    listed: tuple[Column, ...] = ()
    complete: bool = True
    absent: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Column]:
        return iter(self.listed)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the listed ones."""
        return tuple(column.name for column in self.listed)

    def find(self, name: str) -> Column | None:
        """The column of that name if it is listed."""
        return next((column for column in self.listed if column.name == name), None)

    def require(self, name: str, *, step: str) -> Column:
        """The column of that name; one of unknown type if it only may be there. Raises UnknownColumn."""
        if (column := self.find(name)) is not None:
            return column
        if self.complete or name in self.absent:
            raise UnknownColumn(name, step=step, available=self.names, without=self.absent)
        return unknown(name)

    def only(self, names: Sequence[str], *, step: str) -> "Columns":
        """These, in this order."""
        return Columns(tuple(self.require(name, step=step) for name in names))

    def without(self, names: Iterable[str], *, step: str) -> "Columns":
        """All but these, which must be there."""
        gone = frozenset(names)
        for name in gone:
            self.require(name, step=step)
        left = tuple(column for column in self.listed if column.name not in gone)
        return Columns(left, self.complete, self.absent if self.complete else self.absent | gone)

    def renamed(self, names: Mapping[str, str], *, step: str) -> "Columns":
        """The same under other names, old → new. Raises InvalidStep where two would have one name."""
        moved = [replace(self.require(old, step=step), name=new) for old, new in names.items() if not self.find(old)]
        after = (*(replace(column, name=names.get(column.name, column.name)) for column in self.listed), *moved)
        check_different([column.name for column in after], step=step)
        gone = frozenset() if self.complete else (self.absent | names.keys()) - set(names.values())
        return Columns(after, self.complete, gone)

    def plus(self, more: Iterable[Column], *, step: str) -> "Columns":
        """With new ones at the end. Raises InvalidStep where one is there already."""
        added = tuple(more)
        check_absent([column.name for column in added], self.names, step=step)
        return Columns((*self.listed, *added), self.complete, self.absent - {column.name for column in added})

    def replaced(self, changed: Iterable[Column], *, step: str) -> "Columns":
        """With other columns in place of those of the same names, which must be there."""
        by_name = {column.name: column for column in changed}
        for name in by_name:
            self.require(name, step=step)
        listed = tuple(by_name.pop(column.name, column) for column in self.listed)
        return Columns((*listed, *by_name.values()), self.complete, self.absent)


def unknown(name: str) -> Column:
    """A column as a step of the user's left it: it may be the one that the source has of that name."""
    return Column(name, typed=False, origins=frozenset({name}), unchanged=True)


UNKNOWN_COLUMNS = Columns(complete=False)
"""Columns of which nothing is known."""


def check_different(names: Sequence[str], *, step: str) -> None:
    """Raises InvalidStep where two columns would have one name."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidStep(
            f"Step {step!r} would give two columns the name {', '.join(map(repr, twice))}. "
            "Choose another name, or leave one of them out with `select` or `drop`."
        )


def check_absent(names: Iterable[str], present: Iterable[str], *, step: str) -> None:
    """Raises InvalidStep where a new column would replace one that is there."""
    there = set(present)
    if twice := [name for name in names if name in there]:
        raise InvalidStep(
            f"Step {step!r} would replace the column {', '.join(map(repr, twice))}, which is there already. "
            "Choose another name, or leave the old one out with `select` or `drop`."
        )
