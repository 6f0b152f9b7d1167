"""The types of expressions, their SQL names, and the two errors of expressions."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Column, Kind


class Refused(Exception):
    """
    The expression can't be used.

    `at` is the position in its text, from 0; None means the part that is being compiled. With `unsupported`, the
    message also lists the supported syntax.
    """

    def __init__(self, why: str, at: int | None = None, *, unsupported: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.at = at
        self.unsupported = unsupported


class RowFault(Exception):
    """The expression can't be computed for one row. `reason` says why, without values of the row."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Type(StrEnum):
    """The type of a part of an expression; the value is its name in messages."""

    TEXT = "text"
    CHAR = "char(n)"
    """Trailing spaces are ignored, except by LIKE."""
    INTEGER = "integer"
    """64 bits, regardless of the column's width."""
    NUMBER = "numeric"
    FLOAT = "double precision"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    UUID = "uuid"
    JSON = "json"
    OTHER = "a type that only Postgres knows"
    LITERAL = "a literal"
    """Quoted text that has no type yet."""
    NULL = "null"
    """NULL, or an untyped column that is null in a row: takes any type."""
    ANY = "a type known only at run time"
    """An untyped column before the first row."""


NUMERIC = (Type.INTEGER, Type.NUMBER, Type.FLOAT)
"""Each type converts implicitly to those after it."""
TEMPORAL = (Type.DATE, Type.TIMESTAMP, Type.TIMESTAMPTZ)
"""Each type converts implicitly to those after it."""
UNTYPED = (Type.LITERAL, Type.NULL, Type.ANY)
"""These take the type that the context needs."""

TYPE_OF_KIND: Mapping[Kind, Type] = {kind: Type[kind.name] for kind in Kind}
KIND_OF_TYPE: Mapping[Type, Kind] = {type_: kind for kind, type_ in TYPE_OF_KIND.items()}


def type_of(column: Column) -> Type:
    """Return the type of a column in an expression."""
    if not column.typed:
        return Type.ANY
    if column.kind is None:
        return Type.OTHER
    if column.kind is Kind.TEXT and column.comparison == values.PADDED_TEXT:
        return Type.CHAR
    return TYPE_OF_KIND[column.kind]


def widens(source: Type, to: Type) -> bool:
    """Return whether one type converts implicitly to another."""
    return (source, to) == (Type.CHAR, Type.TEXT) or any(
        source in widening and to in widening[widening.index(source) :] for widening in (NUMERIC, TEMPORAL)
    )


@dataclass(frozen=True, slots=True)
class Target:
    """The target type of a cast, with the precision and scale of numeric(p, s)."""

    type: Type
    precision: int | None = None
    scale: int = 0

    def __str__(self) -> str:
        return str(self.type) if self.precision is None else f"{self.type}({self.precision},{self.scale})"


TYPE_NAMES: Mapping[str, Type] = {
    **dict.fromkeys(("text", "varchar", "character varying"), Type.TEXT),
    **dict.fromkeys(("integer", "int", "bigint", "int8"), Type.INTEGER),
    **dict.fromkeys(("numeric", "decimal", "dec"), Type.NUMBER),
    **dict.fromkeys(("double precision", "float8", "float"), Type.FLOAT),
    **dict.fromkeys(("boolean", "bool"), Type.BOOLEAN),
    "date": Type.DATE,
    **dict.fromkeys(("timestamp", "timestamp without time zone"), Type.TIMESTAMP),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), Type.TIMESTAMPTZ),
    "uuid": Type.UUID,
    "json": Type.JSON,
}
"""Names of types in casts."""

TYPE_LIST = (
    "text, integer, bigint, numeric[(p[, s])], double precision, boolean, date, timestamp, timestamptz, uuid, json"
)
"""For messages."""
