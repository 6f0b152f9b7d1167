"""Expressions as steps use them: text and columns in, values of rows out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import Any

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.expressions.casts import cast, coerced, required
from pipeline_processing.expressions.compile import FUNCTION_NAMES, Lookup, column_of_type, column_read, compiled
from pipeline_processing.expressions.compiled import Compiled, Value
from pipeline_processing.expressions.parse import Name, parse, parse_type
from pipeline_processing.expressions.tokens import folded
from pipeline_processing.expressions.types import KIND_OF_TYPE, TYPE_LIST, Refused, RowFault, Type, type_of
from pipeline_processing.expressions.values import NATURAL, type_at_run_time, writing
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import Row, Rows
from pipeline_processing.rows.columns import Column, Columns
from pipeline_processing.rows.values import PADDED_TEXT

SUPPORTED = (
    "columns, numbers, 'text', TRUE, FALSE, NULL, DATE '…' and its like, = <> < <= > >=, AND, OR, NOT, "
    "IS [NOT] NULL/TRUE/FALSE/DISTINCT FROM, [NOT] BETWEEN/IN (…)/LIKE/ILIKE, + - * / %, ||, -> and ->>, CASE, "
    f"CAST(… AS type), ::, TRIM, SUBSTRING, {', '.join(FUNCTION_NAMES)}; the types are {TYPE_LIST}"
)
"""What is supported, for messages."""
_KNOWN_SIGNATURES = 1024
_EXCERPT = 30


@dataclass(frozen=True, slots=True)
class Expression:
    """`value` gives what a row carries of it, and raises RowFault."""

    value: Value
    result: Column
    """A column of its values, without a name."""


def condition(text: str, columns: Columns, *, carry: str, step: str) -> Value:
    """A condition → a row to true, false or null. Raises InvalidStep or UnknownColumn."""
    scope = _Scope(columns, carry=carry, step=step)
    with _refusals(f"Step {step!r}", text):
        tree = parse(text)
        return scope.runnable(lambda lookup: required(compiled(tree, lookup), Type.BOOLEAN, "it"))


def expression(text: str, columns: Columns, *, carry: str, step: str, place: str) -> Expression:
    """Any expression. `place` says where in the step it stands. Raises InvalidStep or UnknownColumn."""
    scope = _Scope(columns, carry=carry, step=step)
    with _refusals(f"Step {step!r}, {place},", text):
        tree = parse(text)
        return scope.expression(lambda lookup: compiled(tree, lookup))


def cast_of(name: str, to: str, columns: Columns, *, carry: str, step: str) -> Expression | None:
    """A column's values as another type, `to` in SQL; None if they are of it already. Raises as `expression` does."""
    scope = _Scope(columns, carry=carry, step=step)
    with _refusals(f"Step {step!r}, column {name!r},", to):
        target = parse_type(to)
        if type_of(columns.require(name, step=step)) is target.type and target.precision is None:
            return None
        column = Name(0, name, quoted=True)
        return scope.expression(lambda lookup: cast(lookup(column), target))


def results(value: Value, rows: Rows) -> tuple[list[Any], dict[int, str]]:
    """Values of all rows, None at the positions of faults; the faults by position."""
    try:
        return list(map(value, rows)), {}
    except RowFault:
        pass  # now one by one, to find all of them
    found: list[Any] = []
    faults: dict[int, str] = {}
    for position, row in enumerate(rows):
        try:
            found.append(value(row))
        except RowFault as fault:
            found.append(None)
            faults[position] = fault.reason
    return found, faults


@contextmanager
def _refusals(whose: str, text: str) -> Iterator[None]:
    """Raises InvalidStep for what is refused."""
    try:
        yield
    except Refused as refused:
        at = refused.at or 0
        near = text[at : at + _EXCERPT]
        place = f" (character {at + 1}: {near})" if near else ""
        hint = f" There are {SUPPORTED}." if refused.unsupported else ""
        raise InvalidStep(f"{whose} {refused.why}{place}.{hint}") from None


class _Scope:
    """
    The columns that an expression may read, and those that it has read.

    Untyped columns, such as those after a `python` step, have no type before the first row. An expression that reads
    one is compiled twice. First with the type ANY in its place, which finds most faults, and the type of the result
    where that doesn't depend on the column. Then with the types of the values in a row, once for each combination.
    """

    def __init__(self, columns: Columns, *, carry: str, step: str) -> None:
        self._columns = columns
        self._carry = carry
        self._step = step
        self._read: dict[str, Column] = {}

    def expression(self, build: Callable[[Lookup], Compiled]) -> Expression:
        part = build(self._typed_before)
        if part.column is not None:
            read = self._present if part.type is Type.ANY else itemgetter
            return Expression(read(part.column.name), replace(part.column, name=""))
        type_ = Type.TEXT if part.type in (Type.LITERAL, Type.NULL) else part.type
        return Expression(self.runnable(build, self._carried_as(type_)), self._result(type_))

    def runnable(self, build: Callable[[Lookup], Compiled], finish: Callable[[Compiled], Value] | None = None) -> Value:
        """What runs on each row. `finish` puts something around the compiled expression."""
        finish = finish or (lambda part: part.value)
        part = build(self._typed_before)
        names = tuple(name for name, column in self._read.items() if not column.typed)
        if not names:
            return finish(part)

        @lru_cache(maxsize=_KNOWN_SIGNATURES)
        def specialised(types: tuple[Type, ...]) -> Value | RowFault:
            by_name = dict(zip(names, types, strict=True))

            def typed_at_run_time(name: Name) -> Compiled:
                column = self._column(name)
                return (
                    column_read(column, self._carry)
                    if column.typed
                    else column_of_type(column.name, by_name[column.name])
                )

            try:
                return finish(build(typed_at_run_time))
            except Refused as refused:
                return RowFault(f"it {refused.why}")

        values = [self._present(name) for name in names]

        def value(row: Row) -> Any:
            found = specialised(tuple([type_at_run_time(each(row)) for each in values]))
            if isinstance(found, RowFault):
                raise RowFault(found.reason)
            return found(row)

        return value

    # -- columns ---------------------------------------------------------------------------------

    def _typed_before(self, name: Name) -> Compiled:
        """A column as far as it is known before the first row."""
        return column_read(self._column(name), self._carry)

    def _column(self, name: Name) -> Column:
        """In lower case where SQL folds the name and there is such a column, else exactly."""
        bare = folded(name.name)
        wanted = bare if not name.quoted and self._columns.find(bare) else name.name
        return self._read.setdefault(wanted, self._columns.require(wanted, step=self._step))

    def _present(self, name: str) -> Value:
        """A column that may be missing, in any row."""

        def value(row: Row) -> Any:
            try:
                return row[name]
            except KeyError:
                raise UnknownColumn(name, step=self._step, available=tuple(row)) from None

        return value

    # -- results ---------------------------------------------------------------------------------

    def _result(self, type_: Type) -> Column:
        origins = frozenset[str]().union(*(column.origins for column in self._read.values()))
        if type_ is Type.ANY:
            return Column("", typed=False, origins=origins)
        kind = KIND_OF_TYPE[Type.TEXT if type_ is Type.CHAR else type_]
        column = column_of_kind("", kind, self._carry, origins=origins)
        return replace(column, comparison=PADDED_TEXT) if type_ is Type.CHAR else column

    def _carried_as(self, type_: Type) -> Callable[[Compiled], Value]:
        """How values get into a row: carried, or natural where their type isn't known before the first row."""

        def finish(part: Compiled) -> Value:
            if type_ is Type.ANY:
                write = NATURAL.get(part.type)
            else:
                part, write = coerced(part, type_), writing(type_, self._carry)
            return part.value if write is None else _then(part.value, write)

        return finish


def _then(value: Value, write: Callable[[Any], Any]) -> Value:
    def written(row: Row) -> Any:
        found = value(row)
        return None if found is None else write(found)

    return written
