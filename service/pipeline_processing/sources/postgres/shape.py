"""Describes a query's parameters and columns, and rewrites it to return carried values."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from asyncpg.types import Type

from pipeline_processing.errors import QueryInvalid
from pipeline_processing.postgres.errors import cause_of
from pipeline_processing.postgres.identifiers import quoted
from pipeline_processing.postgres.query_text import without_semicolon
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.tap import Descriptions
from pipeline_processing.sources.postgres.types import carried_as, column_of, rendered


@dataclass(frozen=True, slots=True)
class Shape:
    """A query, with its parameters and columns as Postgres describes them."""

    query: str
    parameters: tuple[asyncpg.Type, ...]
    names: tuple[str, ...]
    types: tuple[asyncpg.Type, ...]
    enums: frozenset[int]
    """OIDs of the enums in `types`, which asyncpg doesn't distinguish; without those that have a cast to json."""
    modifiers: tuple[int, ...] = ()
    """Type modifiers of `types`; empty if they are unknown."""
    _carried: dict[str, tuple[Columns, str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def is_like(self, other: "Shape") -> bool:
        """Whether parameters and columns are the same, by the types' OIDs: asyncpg's descriptions depend on codecs."""

        def described(shape: Shape) -> tuple[object, ...]:
            oids = [t.oid for t in shape.types]
            return [t.oid for t in shape.parameters], shape.names, oids, shape.enums, shape.modifiers

        return described(self) == described(other)

    def carried(self, carry: str) -> tuple[Columns, str]:
        """Return the columns, and a query for values in the form `carry`: the original one if codecs suffice."""
        if carry not in self._carried:
            self._carried[carry] = self._in_form(carry)
        return self._carried[carry]

    def _in_form(self, carry: str) -> tuple[Columns, str]:
        carried = [carried_as(pg_type, carry, is_enum=pg_type.oid in self.enums) for pg_type in self.types]
        columns = tuple(
            column_of(name, how, carry, type_name=pg_type.name, modifier=modifier)
            for name, how, pg_type, modifier in zip(
                self.names, carried, self.types, self.modifiers or repeat(-1), strict=False
            )
        )
        if all(carried):
            return Columns(columns), self.query
        expressions = ", ".join(
            f"q.{quoted(name)}" if how else f"{rendered('q.' + quoted(name), carry)} AS {quoted(name)}"
            for name, how in zip(self.names, carried, strict=True)
        )
        aliases = ", ".join(map(quoted, self.names))
        # Postgres never flattens a subquery with ORDER BY into the outer query, so the rows keep their order. The text
        # contains only the user's query and quoted column names.
        query = f"SELECT {expressions} FROM (\n{without_semicolon(self.query)}\n) AS q ({aliases})"  # noqa: S608 see above
        return Columns(columns), query


_ENUMS = """
SELECT oid FROM pg_type WHERE typtype = 'e' AND oid = ANY ($1)
    AND NOT EXISTS (SELECT FROM pg_cast WHERE castsource = pg_type.oid AND casttarget = 'json'::regtype)
"""


async def shape_of(
    connection: asyncpg.Connection, query: str, *, known: Shape | None = None, doing: str = "plan the query"
) -> tuple[Shape, PreparedStatement | None]:
    """
    Let Postgres describe a query, which plans it without running it. Returns its shape, which is `known` if nothing has
    changed since, and the statement that was prepared for it, if asyncpg can. `doing` is for messages.

    Raises QueryInvalid.
    """
    statement = None
    modifiers: tuple[int, ...] = ()
    with planning(doing=doing):
        try:
            with Descriptions.of(connection) as heard:
                statement = await connection.prepare(query)
            modifiers = tuple(heard.modifiers())
            attributes, parameters = statement.get_attributes(), statement.get_parameters()
            names, types = tuple(a.name for a in attributes), tuple(a.type for a in attributes)
        except (asyncpg.UnsupportedClientFeatureError, asyncpg.InternalClientError):
            parameters, names, types = await _described(connection, without_semicolon(query))
    _check_names(names)
    others = [pg_type.oid for pg_type in types if pg_type.schema != "pg_catalog"]
    # Asked for each time, as somebody may have made a cast.
    enums = frozenset(record[0] for record in await connection.fetch(_ENUMS, others)) if others else frozenset[int]()
    shape = Shape(query=query, parameters=parameters, names=names, types=types, enums=enums, modifiers=modifiers)
    return (known if known is not None and known.is_like(shape) else shape), statement


@contextmanager
def planning(*, written_in: str = "the job config", doing: str = "plan the query") -> Iterator[None]:
    """
    Translate errors of planning and of binding arguments: asyncpg's own errors for those are DataErrors (22000).

    `written_in` is where the query stands, and `doing` what Postgres is asked to do, for messages.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        if cannot_plan(error):
            hint = _KIND_OF_KEY if error.sqlstate == _INVALID_TEXT else ""
            raise QueryInvalid(
                f"Postgres can't {doing}: {cause_of(error)}. Correct it in {written_in}.{hint}"
            ) from error
        raise


def cannot_plan(error: asyncpg.PostgresError) -> bool:
    """Whether an error of planning is the query's fault."""
    return error.sqlstate[:2] in _CANNOT_PLAN and error.sqlstate != _INSUFFICIENT_PRIVILEGE


_CANNOT_PLAN = ("42", "22", "0A")
"""SQLSTATE classes of errors in a query: syntax, invalid constants, unsupported features."""
_INSUFFICIENT_PRIVILEGE = "42501"
_INVALID_TEXT = "22P02"
_KIND_OF_KEY = (
    " If the value is an agency's id, `agency_key` must be of the column's type: `integer`, `uuid` or `text`."
)


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise QueryInvalid("The query returns no columns. Make it a SELECT with some.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QueryInvalid(
            f"The query returns two columns named {', '.join(map(repr, twice))}. Give them different names with AS."
        )


_BASE_TYPES = """
WITH RECURSIVE base AS (
    SELECT nr, oid, typname, typnamespace, typtype, typbasetype
    FROM unnest($1::oid[]) WITH ORDINALITY AS of_column (type, nr) JOIN pg_type ON oid = type
    UNION ALL
    SELECT nr, t.oid, t.typname, t.typnamespace, t.typtype, t.typbasetype
    FROM base JOIN pg_type t ON t.oid = base.typbasetype
    WHERE base.typtype = 'd'
)
SELECT base.oid, typname, nspname FROM base JOIN pg_namespace n ON n.oid = typnamespace WHERE typtype <> 'd' ORDER BY nr
"""
"""Replaces domains by their base types, as Postgres does when it prepares a query."""


async def _described(
    connection: asyncpg.Connection, query: str
) -> tuple[tuple[Type, ...], tuple[str, ...], tuple[Type, ...]]:
    """
    Describe a query by SQL alone. Returns its parameters' types, and its columns' names and types.

    For queries that asyncpg can't prepare, because it builds decoders for all columns, even for types that it would
    never decode here, such as anyarray, or composites of types that are read as text.
    """
    # A join on false returns one row of nulls without running the query.
    joined = f"(SELECT) AS nothing LEFT JOIN (\n{query}\n) AS q"  # the user's query
    statement = await connection.prepare(f"SELECT row_to_json(r)::text FROM (SELECT q.* FROM {joined} ON false) AS r")  # noqa: S608
    parameters = statement.get_parameters()
    nulls = [None] * len(parameters)
    row = await statement.fetchval(*nulls)
    names: Sequence[str] = json.loads(row, object_pairs_hook=lambda items: [key for key, _ in items])
    aliases = [quoted(f"column {number}") for number in range(len(names))]
    typeofs = ", ".join(f"pg_typeof(q.{alias})::oid" for alias in aliases)
    oids = await connection.fetchrow(f"SELECT {typeofs} FROM {joined} ({', '.join(aliases)}) ON false", *nulls)  # noqa: S608
    types = await connection.fetch(_BASE_TYPES, list(oids))
    return tuple(parameters), tuple(names), tuple(Type(oid, name, "", schema) for oid, name, schema in types)
