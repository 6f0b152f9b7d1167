"""
Step `filter`: keep the rows for which a SQL condition is true.

sqlglot parses the condition; what it parsed is turned into plain closures here, so that nothing of it is ever
evaluated as code. Logic is SQL's, with three values: a comparison with null is null, and only true keeps a row.
"""

import operator
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import sqlglot
from sqlglot import exp

from pipeline_processing.errors import InvalidStep, StepFailed, UnknownColumn
from pipeline_processing.ports import Batch, Column, Columns, Comparison, Row
from pipeline_processing.steps.columns import require
from pipeline_processing.values import ENUM, comparison_of, same

Truth = Callable[[Row], bool | None]
Value = Callable[[Row], Any]
Literal = str | int | Decimal | bool | None

_COMPARISONS: dict[type[exp.Expr], Callable[[Any, Any], bool]] = {
    exp.EQ: operator.eq,
    exp.NEQ: operator.ne,
    exp.LT: operator.lt,
    exp.LTE: operator.le,
    exp.GT: operator.gt,
    exp.GTE: operator.ge,
}
_SUPPORTED = (
    "columns, literals, = != <> < <= > >=, [NOT] BETWEEN, [NOT] IN (…), [NOT] [I]LIKE, IS [NOT] NULL/TRUE/FALSE, "
    "AND, OR, NOT"
)


class Filter:
    """Drops the rows for which the condition is false or null, and counts them."""

    name = "filter"

    def __init__(self, condition: str, columns: Columns | None) -> None:
        self.columns = columns
        self.filtered = 0
        self._condition = condition
        self._is_true = _Compiler(condition, columns).compiled()

    async def __call__(self, batch: Batch) -> Batch:
        is_true = self._is_true
        try:
            kept = [row for row in batch if is_true(row)]
        except TypeError as error:
            raise StepFailed(
                f"Step 'filter: {self._condition}' compares values of different types: {error}. Make the step "
                "before it return values of one type."
            ) from error
        self.filtered += len(batch) - len(kept)
        return kept


class _Compiler:
    """Turns one parsed condition into closures."""

    def __init__(self, condition: str, columns: Columns | None) -> None:
        self._condition = condition
        self._columns = columns

    def compiled(self) -> Truth:
        try:
            tree = sqlglot.parse_one(self._condition, read="postgres")
        except sqlglot.errors.SqlglotError as error:
            raise self._invalid(f"isn't a SQL condition: {str(error).splitlines()[0]}") from None
        return self._truth(tree)

    def _invalid(self, why: str) -> InvalidStep:
        return InvalidStep(f"Step 'filter: {self._condition}' {why}")

    # -- conditions ------------------------------------------------------------------------------

    def _truth(self, node: exp.Expr) -> Truth:
        match node:
            case exp.Paren():
                return self._truth(node.this)
            case exp.And():
                return _all(self._truth(node.left), self._truth(node.right))
            case exp.Or():
                return _any(self._truth(node.left), self._truth(node.right))
            case exp.Not():
                return _negated(self._truth(node.this))
            case exp.Is():
                return self._is(node)
            case exp.In():
                return self._in(node)
            case exp.Between() if not node.args.get("symmetric"):
                low = self._compared(exp.GTE, node.this, node.args["low"])
                return _all(low, self._compared(exp.LTE, node.this, node.args["high"]))
            case exp.Like() | exp.ILike():
                return self._like(node)
            case exp.Boolean():
                constant = bool(node.this)
                return lambda row: constant
            case exp.Column():
                # A bare boolean column: `NOT active`
                return self._compared(exp.EQ, node, exp.true())
            case exp.Binary() if type(node) in _COMPARISONS:
                return self._compared(type(node), node.left, node.right)
        raise self._invalid(f"uses {node.sql('postgres')!r}, which isn't supported. There are {_SUPPORTED}.")

    def _compared(self, kind: type[exp.Expr], left: exp.Expr, right: exp.Expr) -> Truth:
        compare = _COMPARISONS[kind]
        a, b = self._operands(left, right, ordering=kind not in (exp.EQ, exp.NEQ))

        def truth(row: Row) -> bool | None:
            x, y = a(row), b(row)
            return None if x is None or y is None else compare(x, y)

        return truth

    def _operands(self, left: exp.Expr, right: exp.Expr, *, ordering: bool) -> tuple[Value, Value]:
        for side in (left, right) if ordering else ():
            if isinstance(_bare(side), exp.Column) and (column := self._column(side)).comparison == ENUM:
                raise self._invalid(f"orders by {column.name!r}, an enum, whose order only Postgres knows.")
        if isinstance(_bare(left), exp.Column) and isinstance(_bare(right), exp.Column):
            one, other = self._column(left), self._column(right)
            a, b = self._comparison(one), self._comparison(other)
            if a and b and a.family != b.family:
                raise self._invalid(f"compares {one.name!r} ({a.family}) with {other.name!r} ({b.family}).")
            return self._value(one), self._value(other)
        if isinstance(_bare(left), exp.Column):
            column = self._column(left)
            return self._value(column), self._constant(column, right)
        if isinstance(_bare(right), exp.Column):
            column = self._column(right)
            return self._constant(column, left), self._value(column)
        raise self._invalid("compares two constants. Name a column on one side.")

    def _is(self, node: exp.Is) -> Truth:
        wanted, negate = node.expression, bool(node.args.get("negate"))
        if isinstance(wanted, exp.Not):  # how older releases of sqlglot write IS NOT
            wanted, negate = wanted.this, True
        if isinstance(wanted, exp.Null):
            name = self._column(node.this).name
            lookup = self._lookup(name)
            return lambda row: (lookup(row) is None) is not negate
        if isinstance(wanted, exp.Boolean):
            truth, expected = self._truth(node.this), bool(wanted.this)
            return lambda row: (truth(row) is expected) is not negate
        raise self._invalid(f"uses {node.sql('postgres')!r}. IS takes NULL, TRUE or FALSE.")

    def _in(self, node: exp.In) -> Truth:
        if not node.expressions:
            raise self._invalid("needs a list of literals after IN, such as status IN ('new', 'old').")
        column = self._column(node.this)
        value = self._value(column)
        keys = [self._constant(column, item)({}) for item in node.expressions]
        wanted = {key for key in keys if key is not None}
        otherwise = None if len(wanted) < len(set(keys)) else False  # x IN (…, NULL) is never false

        def truth(row: Row) -> bool | None:
            key = value(row)
            return None if key is None else (True if key in wanted else otherwise)

        return truth

    def _like(self, node: exp.Like | exp.ILike) -> Truth:
        column = self._column(node.this)
        comparison = self._comparison(column)
        if comparison and comparison.family != "text":
            raise self._invalid(f"uses LIKE on {column.name!r}, which is a {comparison.family}, not text.")
        like = self._literal(node.expression)
        if not isinstance(like, str):
            raise self._invalid("needs a pattern in single quotes after LIKE.")
        negate = bool(node.args.get("negate"))
        folded = str.lower if isinstance(node, exp.ILike) else same
        matches = re.compile(_like_pattern(folded(like)), re.DOTALL).fullmatch
        lookup = self._lookup(column.name)  # not its key: LIKE sees the padding of char(n), which = doesn't

        def truth(row: Row) -> bool | None:
            text = lookup(row)
            return None if text is None else (matches(folded(text)) is not None) is not negate

        return truth

    # -- values ----------------------------------------------------------------------------------

    def _column(self, node: exp.Expr) -> Column:
        """The column a node names: in lower case where SQL folds it and there is one, else exactly."""
        bare = _bare(node)
        if not isinstance(bare, exp.Column) or bare.table:
            raise self._invalid(f"uses {node.sql('postgres')!r} where a column belongs. There are {_SUPPORTED}.")
        name, columns = bare.name, self._columns
        if columns is None:
            return Column(name)
        if not bare.this.quoted and name.lower() in [column.name for column in columns]:
            name = name.lower()
        return require(name, columns, step=f"filter: {self._condition}")

    def _comparison(self, column: Column) -> Comparison | None:
        if column.comparison is None and self._columns is not None:
            raise self._invalid(
                f"compares column {column.name!r}, whose type can't be compared here. Compare it in the query."
            )
        return column.comparison

    def _lookup(self, name: str) -> Value:
        if self._columns is not None:
            return operator.itemgetter(name)

        def value(row: Row) -> Any:
            if name not in row:
                raise UnknownColumn(name, step=f"filter: {self._condition}", available=tuple(row))
            return row[name]

        return value

    def _value(self, column: Column) -> Value:
        comparison = self._comparison(column)
        lookup = self._lookup(column.name)
        if comparison is None or comparison.key is same:
            return lookup
        key = comparison.key

        def value(row: Row) -> Any:
            carried = lookup(row)
            return None if carried is None else key(carried)

        return value

    def _constant(self, column: Column, node: exp.Expr) -> Value:
        literal = self._literal(node)
        comparison = self._comparison(column) or comparison_of(literal)
        if literal is None or comparison is None:
            return lambda row: None
        try:
            key = comparison.literal(literal)
        except ValueError as error:
            raise self._invalid(
                f"compares column {column.name!r}, a {comparison.family}, with {literal!r}: {error}."
            ) from None
        return lambda row: key

    def _literal(self, node: exp.Expr) -> Literal:
        bare = _bare(node)
        if isinstance(bare, exp.Cast) and isinstance(bare.this, exp.Literal) and bare.this.is_string:
            bare = bare.this  # DATE '2026-01-18': the column's own type decides
        match bare:
            case exp.Null():
                return None
            case exp.Boolean():
                return bool(bare.this)
            case exp.Neg(this=exp.Literal(is_string=False) as number):
                positive = _number(number.name)
                return -positive if isinstance(positive, int) else positive.copy_negate()  # - rounds decimals
            case exp.Literal():
                return bare.name if bare.is_string else _number(bare.name)
        raise self._invalid(f"uses {node.sql('postgres')!r} where a literal belongs. There are {_SUPPORTED}.")


def _bare(node: exp.Expr) -> exp.Expr:
    return _bare(node.this) if isinstance(node, exp.Paren) else node


def _number(text: str) -> int | Decimal:
    return int(text) if text.isdigit() else Decimal(text)


def _all(a: Truth, b: Truth) -> Truth:
    def truth(row: Row) -> bool | None:
        x = a(row)
        if x is False:
            return False
        y = b(row)
        return False if y is False else (None if x is None or y is None else True)

    return truth


def _any(a: Truth, b: Truth) -> Truth:
    return _negated(_all(_negated(a), _negated(b)))


def _negated(a: Truth) -> Truth:
    def truth(row: Row) -> bool | None:
        x = a(row)
        return None if x is None else not x

    return truth


def _like_pattern(like: str) -> str:
    """A LIKE pattern as a regular expression: % any text, _ any character, \\ takes the next one literally."""
    pattern, characters = "", iter(like)
    for character in characters:
        if character == "\\":
            pattern += re.escape(next(characters, "\\"))
        else:
            pattern += {"%": ".*", "_": "."}.get(character) or re.escape(character)
    return pattern
