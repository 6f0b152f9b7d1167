"""The interface of expressions for steps: compiles text, given the columns, to functions of batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import Any

from pipeline_processing.errors import InvalidStep, UnknownColumn
from pipeline_processing.expressions.casts import cast, coerced, required
from pipeline_processing.expressions.code import Part, Results, Run, columns_of, function_of
from pipeline_processing.expressions.compile import FUNCTION_NAMES, Lookup, column_of_type, column_read, compiled
from pipeline_processing.expressions.compiled import Compiled, applied, strict
from pipeline_processing.expressions.parse import parse, parse_type
from pipeline_processing.expressions.tokens import folded
from pipeline_processing.expressions.tree import Name, names_in
from pipeline_processing.expressions.types import KIND_OF_TYPE, TYPE_LIST, Refused, RowFault, Type, type_of
from pipeline_processing.expressions.values import NATURAL, type_at_run_time, writing
from pipeline_processing.kinds import column_of_kind
from pipeline_processing.ports import Row
from pipeline_processing.rows.columns import Column, Columns
from pipeline_processing.rows.values import PADDED_TEXT

SUPPORTED = {
    "values": "columns, numbers, 'text', TRUE, FALSE, NULL, DATE '…' and its like",
    "comparisons": "= <> < <= > >=, IS [NOT] NULL/TRUE/FALSE/DISTINCT FROM, [NOT] BETWEEN/IN (…)/LIKE/ILIKE",
    "logic": "AND, OR, NOT",
    "operators": "+ - * / %, || (joins texts), -> and ->> (into json)",
    "choices": "CASE WHEN … THEN … ELSE … END",
    "casts": "CAST(… AS type), …::type",
    "functions": f"TRIM, SUBSTRING, {', '.join(FUNCTION_NAMES)}",
    "types": TYPE_LIST,
}
"""What expressions may have."""
REFERENCE = "`pipeline-processing config expressions` lists what expressions may have."
_KNOWN_SIGNATURES = 1024
_EXCERPT = 30


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition: True, False or None for each row."""

    run: Run
    part: Part | None
    """None if it depends on columns whose types only the rows tell."""

    def on_records(self, places: Mapping[str, int]) -> Run | None:
        """Return it for records, where columns have these indexes; None if it isn't to be had."""
        if self.part is None or not columns_of(self.part) <= places.keys():
            return None
        return function_of(self.part, places)


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression."""

    run: Run
    """Returns the carried values of rows."""
    result: Column
    """The column of its values, without a name."""


def condition(text: str, columns: Columns, *, carry: str, step: str) -> Condition:
    """Compile a condition. Raises InvalidStep or UnknownColumn."""
    scope = _Scope(columns, carry=carry, step=step)
    with _refusals(f"Step {step!r}", text):
        tree = parse(text)
        return scope.condition(lambda lookup: required(compiled(tree, lookup), Type.BOOLEAN, "it"))


def expression(text: str, columns: Columns, *, carry: str, step: str, column: str) -> Expression:
    """Compile an expression, of which `column` is made. Raises InvalidStep or UnknownColumn."""
    scope = _Scope(columns, carry=carry, step=step)
    with _refusals(f"Step {step!r}, column {column!r},", text, key=column):
        tree = parse(text)
        return scope.expression(lambda lookup: compiled(tree, lookup))


def cast_of(name: str, to: str, columns: Columns, *, carry: str, step: str) -> Expression | None:
    """Compile a cast of a column to a SQL type; None if it has that type. Raises InvalidStep or UnknownColumn."""
    scope = _Scope(columns, carry=carry, step=step)
    with _refusals(f"Step {step!r}, column {name!r},", to, key=name):
        target = parse_type(to)
        if type_of(columns.require(name, step=step)) is target.type and target.precision is None:
            return None
        column = Name(0, name, quoted=True)
        return scope.expression(lambda lookup: cast(lookup(column), target))


def columns_in(text: str) -> frozenset[str]:
    """Return the names of the columns that a valid expression may read, as they are written and as SQL folds them."""
    return frozenset(name for each in names_in(parse(text)) for name in (each.name, folded(each.name)))


@contextmanager
def _refusals(whose: str, text: str, *, key: str | None = None) -> Iterator[None]:
    """Turn Refused into InvalidStep, and have errors name `key`, that of the text in the step's options."""
    try:
        yield
    except UnknownColumn as error:
        error.key = key
        raise
    except Refused as refused:
        at = refused.at or 0
        near = text[at : at + _EXCERPT]
        place = f" (character {at + 1}: {near})" if near else ""
        hint = f" {REFERENCE}" if refused.unsupported else ""
        invalid = InvalidStep(f"{whose} {refused.why}{place}.{hint}")
        invalid.key = key
        raise invalid from None


class _Scope:
    """
    The columns that an expression may read, and those that it has read.

    Untyped columns, such as those after a `python` step, have no type before the first row. An expression that reads
    one is first compiled with the type ANY, which finds most faults, and the type of the result if that doesn't depend
    on the column. Then it is compiled for the types of the values in rows, once for each combination.
    """

    def __init__(self, columns: Columns, *, carry: str, step: str) -> None:
        self._columns = columns
        self._carry = carry
        self._step = step
        self._read: dict[str, Column] = {}

    def condition(self, build: Callable[[Lookup], Compiled]) -> Condition:
        part = build(self._typed_before).part
        is_typed = all(column.typed for column in self._read.values())
        return Condition(self.runnable(build), part if is_typed else None)

    def expression(self, build: Callable[[Lookup], Compiled]) -> Expression:
        whole = build(self._typed_before)
        if whole.column is not None:
            name = whole.column.name
            read = self._present(name) if whole.type is Type.ANY else itemgetter(name)
            return Expression(lambda rows: (list(map(read, rows)), {}), replace(whole.column, name=""))
        type_ = Type.TEXT if whole.type in (Type.LITERAL, Type.NULL) else whole.type
        return Expression(self.runnable(build, self._carried_as(type_)), self._result(type_))

    def runnable(self, build: Callable[[Lookup], Compiled], finish: Callable[[Compiled], Part] | None = None) -> Run:
        """Return the function to run on each batch. `finish` completes what `build` has made."""
        finish = finish or (lambda whole: whole.part)
        whole = build(self._typed_before)
        names = tuple(name for name, column in self._read.items() if not column.typed)
        if not names:
            return function_of(finish(whole))

        @lru_cache(maxsize=_KNOWN_SIGNATURES)
        def specialised(types: tuple[Type, ...]) -> Run | RowFault:
            by_name = dict(zip(names, types, strict=True))

            def typed_at_run_time(name: Name) -> Compiled:
                column = self._column(name)
                return (
                    column_read(column, self._carry)
                    if column.typed
                    else column_of_type(column.name, by_name[column.name])
                )

            try:
                return function_of(finish(build(typed_at_run_time)))
            except Refused as refused:
                return RowFault(f"it {refused.why}")

        return _by_types([self._present(name) for name in names], specialised)

    # -- columns ---------------------------------------------------------------------------------

    def _typed_before(self, name: Name) -> Compiled:
        """Compile a column with what is known before the first row."""
        return column_read(self._column(name), self._carry)

    def _column(self, name: Name) -> Column:
        """Find a column: in lower case if SQL folds the name and such a column exists, else by the exact name."""
        bare = folded(name.name)
        wanted = bare if not name.quoted and self._columns.find(bare) else name.name
        try:
            return self._read.setdefault(wanted, self._columns.require(wanted, step=self._step))
        except UnknownColumn as error:
            if name.quoted:
                error.args = (f"{error} If it is a text, put it in single quotes: '{wanted}'.",)
            raise

    def _present(self, name: str) -> Callable[[Row], Any]:
        """Return a reader of a column that a row may lack. It raises UnknownColumn."""

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

    def _carried_as(self, type_: Type) -> Callable[[Compiled], Part]:
        """Return the `finish` that makes values carried, or natural if their type is unknown before the first row."""

        def finish(whole: Compiled) -> Part:
            if type_ is Type.ANY:
                write = NATURAL.get(whole.type)
                return whole.part if write is None else applied(write, whole.part)
            whole, write = coerced(whole, type_), writing(type_, self._carry)
            return whole.part if write is None else strict(type_, write, whole).part

        return finish


def _by_types(read: Sequence[Callable[[Row], Any]], specialised: Callable[[tuple[Type, ...]], Run | RowFault]) -> Run:
    """Return a function that computes the rows whose untyped columns have the same types together."""

    def run(rows: Sequence[Row]) -> Results:
        faults: dict[int, str] = {}
        places: dict[tuple[Type, ...], list[int]] = {}
        for place, row in enumerate(rows):
            try:
                places.setdefault(tuple([type_at_run_time(each(row)) for each in read]), []).append(place)
            except RowFault as fault:
                faults[place] = fault.reason
        found: list[Any] = [None] * len(rows)
        for types, those in places.items():
            compute = specialised(types)
            if isinstance(compute, RowFault):
                faults.update(dict.fromkeys(those, compute.reason))
                continue
            values, failed = compute([rows[place] for place in those])
            for place, value in zip(those, values, strict=True):
                found[place] = value
            faults.update((those[position], reason) for position, reason in failed.items())
        return found, faults

    return run
