"""What a `python` step hands to a user's function, and how the rows that it returns are taken back."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar

from pipeline_processing.kinds import column_of_kind, form_of
from pipeline_processing.ports import Row, Rows
from pipeline_processing.rows.columns import UNKNOWN_COLUMNS, Column, Columns, Kind, check_absent
from pipeline_processing.rows.json_values import loads
from pipeline_processing.rows.untouched import carried_form
from pipeline_processing.steps.json_fields import WrongType, converter
from pipeline_processing.steps.row_columns import require_in_rows
from pipeline_processing.steps.select import check_named_once
from pipeline_processing.steps.step import StepContext

_MUTABLE = (dict, list, set, bytearray)


class WrongColumns(Exception):
    """The function returned a row with other columns than declared."""


@dataclass(frozen=True, slots=True)
class Given:
    """Rows as the function gets them. It may modify `rows`; `values` has a row's values as they were."""

    rows: Rows
    values: Sequence[Sequence[Any]]


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
    def taken(self, rows: Rows, values: Sequence[Sequence[Any]], returned: Rows) -> tuple[Rows, dict[int, str]]:
        """
        Return the rows that leave the step, and reasons to reject rows by position.

        All arguments have the same length: the rows that reached the step, their values as given (see `Given`), and
        what the function returned for them. Raises WrongColumns.
        """


class AllColumns(Handover):
    """
    Hands over all columns. The function may return any.

    If the step is the last one, values that come back as they were are put back as carried, which is written fastest.
    Another step must see the values as the function left them.
    """

    joins = False

    def __init__(self, context: StepContext) -> None:
        self.columns = UNKNOWN_COLUMNS
        self._conversions = [(column.name, column.natural) for column in context.columns if column.natural is not None]
        self._puts_back = context.last
        # Values of typed columns are immutable, or made anew by each conversion.
        all_typed = context.columns.complete and all(column.typed for column in context.columns)
        self._copies_deeply = context.row_errors.tolerant and not all_typed

    def given(self, rows: Rows) -> Given:
        made = [dict(row) for row in rows]
        for name, natural in self._conversions:
            for row in made:
                if (value := row.get(name)) is not None:
                    row[name] = natural(value)
        if self._copies_deeply:
            for row in made:
                row.update((name, deepcopy(value)) for name, value in row.items() if isinstance(value, _MUTABLE))
        if not self._puts_back:
            return Given(made, [()] * len(made))
        return Given(made, [[row.get(name) for name, _ in self._conversions] for row in made])

    def taken(self, rows: Rows, values: Sequence[Sequence[Any]], returned: Rows) -> tuple[Rows, dict[int, str]]:
        if not self._puts_back:
            return returned, {}
        left = [dict(row) for row in returned]  # the function may keep its own
        for place, (name, _) in enumerate(self._conversions):
            for row, carried, was in zip(left, rows, values, strict=True):
                value = was[place]
                if value is None or row.get(name) is not value:
                    continue
                if not isinstance(value, _MUTABLE) or carried_form(value) is not None:
                    row[name] = carried[name]
        return left, {}


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
        self._reads = [context.columns.require(name, step=step) for name in reads]
        self._added = [name for name in adds if name not in reads]
        self._names_known = context.columns.complete
        self._copies_deeply = context.row_errors.tolerant
        # Each value may be computed from any column that the function reads.
        origins = frozenset[str]().union(*(column.origins for column in self._reads))
        typed = {name: column_of_kind(name, kind, context.carry, origins=origins) for name, kind in adds.items()}
        changed = [typed.get(column.name, replace(column, origins=origins, unchanged=False)) for column in self._reads]
        new = [typed[name] for name in self._added]
        self.columns = context.columns.replaced(changed, step=step).plus(new, step=step)
        # A value that comes back as it was is put back as carried, unless its column gets another kind.
        kept = {column.name: column for column in self._reads if column.name not in adds}
        self._takers = [
            _Taker(
                name=column.name,
                place=place if column.name in kept else None,
                settled=column.typed and column.kind not in (Kind.JSON, None),
                carried=_carrier(column, context.carry) if column.typed else None,
            )
            for place, column in enumerate((*changed, *new))
        ]
        self._expected = frozenset((*reads, *self._added))

    def given(self, rows: Rows) -> Given:
        names = [column.name for column in self._reads]
        if not self._names_known:
            require_in_rows(names, rows, step=self._step)
            for row in rows:
                check_absent(self._added, row, step=self._step)
        values = list(zip(*(self._naturals(column, rows) for column in self._reads), strict=True))
        return Given([dict(zip(names, each, strict=True)) for each in values], values)

    def taken(self, rows: Rows, values: Sequence[Sequence[Any]], returned: Rows) -> tuple[Rows, dict[int, str]]:
        expected = self._expected
        for new in returned:
            if new.keys() != expected:
                raise WrongColumns(self._difference(new))
        faults: dict[int, str] = {}
        for taker in self._takers:
            taker(rows, values, returned, faults)
        return rows, faults

    def _naturals(self, column: Column, rows: Rows) -> list[Any]:
        name, natural = column.name, column.natural
        if natural is not None:
            return [None if (value := row[name]) is None else natural(value) for row in rows]
        if column.typed or not self._copies_deeply:
            return [row[name] for row in rows]
        return [deepcopy(value) if isinstance(value := row[name], _MUTABLE) else value for row in rows]

    def _difference(self, row: Row) -> str:
        missing = [name for name in sorted(self._expected) if name not in row]
        extra = [str(name) for name in row if name not in self._expected]
        parts = (("without", missing), ("with the undeclared", extra))
        what = " and ".join(f"{word} {', '.join(map(repr, names))}" for word, names in parts if names)
        return (
            f"returned a row {what}. Every row must have the columns of `reads` and `adds`, and no others. Correct the "
            "function or its declaration; remove columns with `drop`."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taker:
    """Takes the values of one column back into rows."""

    name: str
    place: int | None
    """Where the row's values as given have this column's; None if it is new, or of another kind now."""
    settled: bool
    """Whether its values can't be modified in place."""
    carried: Callable[[Any], Any] | None
    """A value of user code (never None) → the carried value; raises WrongType. None if any value is taken as it is."""

    def __call__(self, rows: Rows, values: Sequence[Sequence[Any]], returned: Rows, faults: dict[int, str]) -> None:
        """Set the column in `rows`. Adds rows with a wrong value to `faults`."""
        name, place, settled, carried = self.name, self.place, self.settled, self.carried
        for position, (row, was, new) in enumerate(zip(rows, values, returned, strict=True)):
            value = new[name]
            if place is not None and value is was[place] and (settled or not isinstance(value, _MUTABLE)):
                continue
            try:
                row[name] = value if value is None or carried is None else carried(value)
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
