"""What a `python` step hands to a user's function, and how the rows that it returns are taken back."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar

from pipeline_processing.kinds import column_of_kind, forgetful, form_of
from pipeline_processing.ports import Rows
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind, check_absent
from pipeline_processing.rows.json_values import loads
from pipeline_processing.rows.lazy_row import ReadPastMethods, carried_rows, lazy_rows, plain_rows
from pipeline_processing.rows.loops import columns_of, natural_rows, naturals_of, rows_of, take
from pipeline_processing.rows.untouched import carried_form
from pipeline_processing.steps.json_fields import WrongType, converter
from pipeline_processing.steps.select import check_named_once
from pipeline_processing.steps.step import StepContext

_MUTABLE = (dict, list, set, bytearray)


class WrongRows(Exception):
    """The function returned a row that can't be taken: what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Given:
    """Rows as the function gets them, which it may modify, and what the handover remembers of their values."""

    rows: Rows
    values: Sequence[list[Any]] = ()
    """Lists with an item for each row."""

    def at(self, places: Sequence[int] | None) -> "Given":
        """Return only the rows at these places; nothing if they are unknown."""
        if places is None:
            return Given([])
        if places == range(len(self.rows)):
            return self
        return Given(
            [self.rows[place] for place in places],
            [[column[place] for place in places] for column in self.values],
        )


class Handover(ABC):
    """Makes the rows that the function gets, and takes back those that it returns."""

    columns: Columns
    """The columns that leave the step."""
    joins: ClassVar[bool]
    """Whether returned rows are joined with the rows given, so that it must be known which is which."""

    @abstractmethod
    def given(self, rows: Rows) -> Given:
        """Return copies of rows, with natural values."""

    @abstractmethod
    def taken(self, rows: Rows, given: Given, returned: Rows) -> tuple[Rows, dict[int, str]]:
        """
        Return the rows that leave the step, and reasons to reject rows by position.

        All arguments have the same length: the rows that reached the step, what the function got for them, and what it
        returned. If the step doesn't join rows, the first two may be empty. Raises WrongRows.
        """


class AllColumns(Handover):
    """
    Hands over all columns. The function may return any.

    If the step is the last one, rows convert a value when the function reads it, unless it wants plain `dicts`, and
    values that it has left alone are put back as carried, which is written fastest and exactly as read. Another step
    must see natural values, as the function left them; they remember how they were carried.
    """

    joins = False

    def __init__(self, context: StepContext, *, dicts: bool) -> None:
        self.columns = UNKNOWN_COLUMNS
        self._puts_back = context.last
        self._dicts = dicts
        natural = {column.name: column.natural for column in context.columns if column.natural is not None}
        self._naturals = {name: forgetful(each) if context.last else each for name, each in natural.items()}
        # Values of typed columns are immutable, or made anew by each conversion.
        all_typed = context.columns.complete and all(column.typed for column in context.columns)
        self._copies_deeply = context.row_errors.tolerant and not all_typed

    def given(self, rows: Rows) -> Given:
        if self._puts_back:
            lazy = lazy_rows(rows, self._naturals)
            given = Given(plain_rows(lazy) if self._dicts else lazy, [lazy])
        else:
            given = Given(natural_rows(rows, list(self._naturals.items())))
        if self._copies_deeply:
            for row in given.rows:
                row.update([(name, deepcopy(value)) for name, value in dict.items(row) if isinstance(value, _MUTABLE)])
        return given

    def taken(self, rows: Rows, given: Given, returned: Rows) -> tuple[Rows, dict[int, str]]:
        if not self._puts_back:
            return returned, {}
        try:
            return carried_rows(given.values[0] if given.values else None, returned, self._naturals), {}
        except ReadPastMethods as error:
            raise WrongRows(f"returned a value that it never got: {error}") from None


class DeclaredColumns(Handover):
    """
    Hands over the columns `reads` only, and takes them back with those of `adds`, a mapping from name to kind. Other
    columns stay carried. A column of `reads` that is in `adds` too gets that kind.
    """

    joins = True

    def __init__(self, reads: Sequence[str], adds: Mapping[str, Kind], context: StepContext, *, step: str) -> None:
        """Raises UnknownColumn or InvalidStep."""
        check_named_once(reads, step=step)
        self._step = step
        self.reads = tuple(reads)
        self._read = [context.columns.require(name, step=step) for name in reads]
        self._adds = tuple(adds)
        self._added = [name for name in adds if name not in reads]
        self._reaching = context.columns
        self._copies_deeply = context.row_errors.tolerant
        # Each value may be computed from any column that the function reads.
        origins = frozenset[str]().union(*(column.origins for column in self._read))
        typed = {name: column_of_kind(name, kind, context.carry, origins=origins) for name, kind in adds.items()}
        changed = [
            typed.get(column.name, replace(column, digits=None, origins=origins, unchanged=False))
            for column in self._read
        ]
        new = [typed[name] for name in self._added]
        self.columns = context.columns.replaced(changed, step=step).plus(new, step=step)
        # A value that comes back as it was is put back as carried, unless its column gets another kind.
        self._takers = {
            column.name: _Taker(
                name=column.name,
                place=None if column.name in adds else place,
                settled=column.typed and column.kind not in (Kind.JSON, None),
                plain=str if column.kind is Kind.TEXT and column.typed else None,
                carried=_carrier(column, context.carry) if column.typed else None,
            )
            for place, column in enumerate((*changed, *new))
        }

    def given(self, rows: Rows) -> Given:
        values = self.values(rows)
        return Given(rows_of(self.reads, zip(*values, strict=True), ()), values)

    def values(self, rows: Rows) -> list[list[Any]]:
        """Return the natural values of each column of `reads`."""
        if not self._reaching.complete:
            self._reaching.require_in(rows, self.reads, step=self._step)
            for row in rows:
                check_absent(self._added, row, step=self._step)
        return [self._naturals(column, rows) for column in self._read]

    def taken(self, rows: Rows, given: Given, returned: Rows) -> tuple[Rows, dict[int, str]]:
        names = tuple(self._takers)
        if (columns := columns_of(returned, names)) is None:
            wrong = next(row for row in returned if row.keys() != self._takers.keys())
            raise WrongRows(
                f"returned a row {self._difference(wrong, required=names)}. Every row must have the columns of `reads` "
                "and `adds`, and no others. Correct the function or its declaration; remove columns with `drop`."
            )
        return rows, self.take(rows, given.values, dict(zip(names, columns, strict=True)))

    def take(self, rows: Rows, values: Sequence[list[Any]], columns: Mapping[str, list[Any]]) -> dict[int, str]:
        """
        Set columns of `reads` and `adds` in rows to what the function returned. Return reasons to reject rows by
        position. `values` are those that it got.
        """
        faults: dict[int, str] = {}
        for name, taker in self._takers.items():
            if name in columns:
                taker(rows, values, columns[name], faults)
        return faults

    def _naturals(self, column: Column, rows: Rows) -> list[Any]:
        if column.typed or column.natural is not None or not self._copies_deeply:
            return naturals_of(rows, column.name, column.natural)
        return [deepcopy(value) if isinstance(value := row[column.name], _MUTABLE) else value for row in rows]

    def fault_of_columns(self, returned: Mapping[str, Any]) -> str | None:
        """Say which columns a dict of columns lacks, or has undeclared."""
        if what := self._difference(returned, required=self._adds):
            return (
                f"returned columns {what}. It must return the columns of `adds`, may return those of `reads`, and no "
                "others. Correct the function or its declaration; remove columns with `drop`."
            )
        return None

    def _difference(self, returned: Mapping[str, Any], *, required: Iterable[str]) -> str:
        missing = [name for name in sorted(required) if name not in returned]
        extra = [str(name) for name in returned if name not in self._takers]
        parts = (("without", missing), ("with the undeclared", extra))
        return " and ".join(f"{word} {', '.join(map(repr, names))}" for word, names in parts if names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taker:
    """Takes the values of one column back into rows."""

    name: str
    place: int | None
    """Which of the columns given it is; None if it is new, or of another kind now."""
    settled: bool
    """Whether its values can't be modified in place."""
    plain: type | None
    """A type whose values are carried as they are, if any."""
    carried: Callable[[Any], Any] | None
    """A value of user code (never None) → the carried value; raises WrongType. None if any value is taken as it is."""

    def __call__(self, rows: Rows, values: Sequence[list[Any]], new: list[Any], faults: dict[int, str]) -> None:
        """Set the column in `rows`, where `values` are the columns given. Adds rows with a wrong value to `faults`."""
        was = None if self.place is None else values[self.place]
        name, carried = self.name, self.carried
        for position in take(rows, name, was if self.settled else None, new, self.plain):
            value = new[position]
            if was is not None and value is was[position] and not isinstance(value, _MUTABLE):
                continue
            try:
                rows[position][name] = value if carried is None else carried(value)
            except WrongType as wrong:
                faults.setdefault(position, f"the function's {name!r} is {wrong}")


def _carrier(column: Column, carry: str) -> Callable[[Any], Any]:
    """Return a function from a value of user code (never None) to a carried value. It raises WrongType."""
    if column.kind is None:
        return _unchangeable
    make = _Carrier(column.kind, carry)
    match column.kind:
        case Kind.TEXT:
            return _text
        case Kind.NUMBER | Kind.FLOAT:
            return make.number
        case Kind.DATE | Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            return make.time
        case Kind.JSON:
            return make.document
        case _:
            return make.checked


_BEYOND = r"-?infinity|(?=[0-9]{{5}}|.* BC$)[0-9]{{4,}}-[0-9]{{2}}-[0-9]{{2}}{time}( BC)?"
_TIME = r"[T ][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?"
_BEYOND_PYTHON: Mapping[Kind, re.Pattern[str]] = {
    Kind.DATE: re.compile(_BEYOND.format(time="")),
    Kind.TIMESTAMP: re.compile(_BEYOND.format(time=_TIME)),
    Kind.TIMESTAMPTZ: re.compile(_BEYOND.format(time=_TIME + "[+]00(:00)?")),
}
"""Carried times outside Python's range of years, which the function gets as text."""


class _Carrier:
    """Converts values of user code that a declaration gives a kind. Its methods raise WrongType."""

    def __init__(self, kind: Kind, carry: str) -> None:
        self._form = form_of(kind, carry)
        self._carry = carry
        self.checked = converter(kind, carry)
        self._time = _BEYOND_PYTHON.get(kind)

    def number(self, value: Any) -> Any:
        """Like fields of JSON, but NaN and the infinities are numbers, as in Postgres."""
        if (carried := carried_form(value)) is not None and self._form.kind is Kind.FLOAT:
            return carried
        if isinstance(value, float | Decimal) and not math.isfinite(value):
            return self._form.carried(value)
        return self.checked(value)

    def time(self, value: Any) -> Any:
        """Text outside Python's range of years stays as it is."""
        if isinstance(value, str) and self._time is not None and self._time.fullmatch(value):
            return value
        return self.checked(value)

    def document(self, value: Any) -> Any:
        """Unchanged documents stay exact. In the form "text", text is JSON already, as `natural` returns scalars."""
        if (carried := carried_form(value)) is not None:
            return carried
        try:
            if self._carry == "text" and isinstance(value, str):
                loads(value)
                return value
            return self._form.carried(value)
        except RecursionError:
            raise WrongType("too deeply nested") from None
        except (ValueError, TypeError):
            raise WrongType("not JSON") from None


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if not isinstance(value, str):
        raise WrongType("not text")
    return str.__str__(value)  # a member of an enum


def _unchangeable(value: Any) -> Any:
    """Unchanged lists and documents stay as carried."""
    if (carried := carried_form(value)) is not None:
        return carried
    raise WrongType("of a type that only Postgres can write, and was changed: name its new type in `adds`")
