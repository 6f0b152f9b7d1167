"""The types of expressions, their names in SQL, and which of them stands for which kind of column."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline_processing.rows import values
from pipeline_processing.rows.columns import Column, Kind


class Type(StrEnum):
    """What a part of an expression is; the value is how messages call it."""

    TEXT = "text"
    CHAR = "char(n)"
    """Its trailing spaces mean nothing, except to LIKE."""
    INTEGER = "integer"
    """64 bits, whatever the column has."""
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
    """Text in quotes, or NULL, as long as nothing has given it a type."""
    NULL = "null"
    """What only the rows tell the type of, in a row where it is null: it goes with any type."""
    ANY = "a type that only the rows tell"


NUMERIC = (Type.INTEGER, Type.NUMBER, Type.FLOAT)
"""Each can be had from those before it."""
TEMPORAL = (Type.DATE, Type.TIMESTAMP, Type.TIMESTAMPTZ)
"""Each can be had from those before it."""

UNTYPED = (Type.LITERAL, Type.NULL, Type.ANY)
"""What may be of the type that its place needs."""

TYPE_OF_KIND: Mapping[Kind, Type] = {
    Kind.TEXT: Type.TEXT,
    Kind.INTEGER: Type.INTEGER,
    Kind.NUMBER: Type.NUMBER,
    Kind.FLOAT: Type.FLOAT,
    Kind.BOOLEAN: Type.BOOLEAN,
    Kind.DATE: Type.DATE,
    Kind.TIMESTAMP: Type.TIMESTAMP,
    Kind.TIMESTAMPTZ: Type.TIMESTAMPTZ,
    Kind.UUID: Type.UUID,
    Kind.JSON: Type.JSON,
}
KIND_OF_TYPE: Mapping[Type, Kind] = {type_: kind for kind, type_ in TYPE_OF_KIND.items()}


def type_of(column: Column) -> Type:
    """What a column is in an expression."""
    if not column.typed:
        return Type.ANY
    if column.kind is None:
        return Type.OTHER
    if column.kind is Kind.TEXT and column.comparison == values.PADDED_TEXT:
        return Type.CHAR
    return TYPE_OF_KIND[column.kind]


@dataclass(frozen=True, slots=True)
class Target:
    """What a cast leads to. `precision` and `scale` are those of numeric(p, s)."""

    type: Type
    precision: int | None = None
    scale: int = 0

    def __str__(self) -> str:
        return str(self.type) if self.precision is None else f"{self.type}({self.precision},{self.scale})"


TYPE_NAMES: Mapping[str, Type] = {
    "text": Type.TEXT,
    "varchar": Type.TEXT,
    "character varying": Type.TEXT,
    "integer": Type.INTEGER,
    "int": Type.INTEGER,
    "bigint": Type.INTEGER,
    "int8": Type.INTEGER,
    "numeric": Type.NUMBER,
    "decimal": Type.NUMBER,
    "dec": Type.NUMBER,
    "double precision": Type.FLOAT,
    "float8": Type.FLOAT,
    "float": Type.FLOAT,
    "boolean": Type.BOOLEAN,
    "bool": Type.BOOLEAN,
    "date": Type.DATE,
    "timestamp": Type.TIMESTAMP,
    "timestamp without time zone": Type.TIMESTAMP,
    "timestamptz": Type.TIMESTAMPTZ,
    "timestamp with time zone": Type.TIMESTAMPTZ,
    "uuid": Type.UUID,
    "json": Type.JSON,
}
"""Names by which a cast may call a type. Integers have 64 bits under any of their names."""

TYPE_LIST = (
    "text, integer, bigint, numeric[(p[, s])], double precision, boolean, date, timestamp, timestamptz, uuid, json"
)
"""For messages."""
