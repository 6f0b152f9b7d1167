"""The parameters and columns of a query, and the query that returns the columns in the form that formats need."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg
import sqlglot
import sqlglot.errors
from asyncpg.types import Type
from sqlglot import TokenType

from pipeline_processing.errors import QueryInvalid
from pipeline_processing.postgres.client import quoted
from pipeline_processing.postgres.errors import cause_of
from pipeline_processing.rows.columns import Columns
from pipeline_processing.sources.postgres.query_columns import without_placeholders
from pipeline_processing.sources.postgres.types import carried_as, column_of, rendered


@dataclass(frozen=True, slots=True)
class Shape:
    """A query, with what it takes and gives as Postgres describes it."""

    query: str
    parameters: tuple[asyncpg.Type, ...]
    names: tuple[str, ...]
    types: tuple[asyncpg.Type, ...]
    enums: frozenset[int]
    """Object ids of the enums among them, which asyncpg doesn't tell apart; not of those with a cast to json."""

    def carried(self, carry: str) -> tuple[Columns, str]:
        """Its columns, and the query that gives each in the form `carry`: the user's own where codecs are enough."""
        carried = [carried_as(pg_type, carry, is_enum=pg_type.oid in self.enums) for pg_type in self.types]
        columns = tuple(column_of(name, how, carry) for name, how in zip(self.names, carried, strict=True))
        if all(carried):
            return Columns(columns), self.query
        expressions = ", ".join(
            f"q.{quoted(name)}" if how else f"{rendered('q.' + quoted(name), carry)} AS {quoted(name)}"
            for name, how in zip(self.names, carried, strict=True)
        )
        aliases = ", ".join(map(quoted, self.names))
        # A subquery with ORDER BY is never flattened into the outer one, so the rows keep its order. Nothing but the
        # user's own query and quoted column names goes into the text.
        query = f"SELECT {expressions} FROM (\n{_without_semicolon(self.query)}\n) AS q ({aliases})"  # noqa: S608 see above
        return Columns(columns), query


_ENUMS = """
SELECT oid FROM pg_type WHERE typtype = 'e' AND oid = ANY ($1)
    AND NOT EXISTS (SELECT FROM pg_cast WHERE castsource = pg_type.oid AND casttarget = 'json'::regtype)
"""


async def shape_of(connection: asyncpg.Connection, query: str) -> Shape:
    """
    Ask Postgres, which plans the query and doesn't run it. The connection has asyncpg's own codecs: with others set,
    asyncpg would refuse some types here, such as ranges of them.

    Raises QueryInvalid.
    """
    with planning():
        try:
            statement = await connection.prepare(query)
            attributes, parameters = statement.get_attributes(), statement.get_parameters()
            names, types = tuple(a.name for a in attributes), tuple(a.type for a in attributes)
        except (asyncpg.UnsupportedClientFeatureError, asyncpg.InternalClientError):
            parameters, names, types = await _described(connection, _without_semicolon(query))
    _check_names(names)
    others = [pg_type.oid for pg_type in types if pg_type.schema != "pg_catalog"]
    enums = await connection.fetch(_ENUMS, others)
    return Shape(
        query=query,
        parameters=parameters,
        names=names,
        types=types,
        enums=frozenset(record[0] for record in enums),
    )


@contextmanager
def planning() -> Iterator[None]:
    """Errors in the block are the query's, or its arguments': asyncpg's own for those are DataErrors too (22000)."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if error.sqlstate[:2] in _CANNOT_PLAN and error.sqlstate != _INSUFFICIENT_PRIVILEGE:
            raise QueryInvalid(
                f"Postgres can't plan the query: {cause_of(error)}. Correct it in the job config."
            ) from error
        raise


_CANNOT_PLAN = ("42", "22", "0A")
"""SQLSTATE classes of a query that Postgres can't parse or plan: syntax, wrong constants, not supported."""
_INSUFFICIENT_PRIVILEGE = "42501"


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise QueryInvalid("The query returns no columns. Make it a SELECT of some.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QueryInvalid(
            f"The query returns two columns named {', '.join(map(repr, twice))}. Give each a name of its own with AS."
        )


def _without_semicolon(query: str) -> str:
    """The query up to a semicolon at its end, which a subquery can't have."""
    try:
        tokens = sqlglot.tokenize(without_placeholders(query), read="postgres")
    except sqlglot.errors.TokenError:
        return query  # Postgres will say what is wrong with it
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        query = query[: tokens.pop().start]
    return query


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
"""Domains are described by their base types, as Postgres does when it prepares a query."""


async def _described(
    connection: asyncpg.Connection, query: str
) -> tuple[tuple[Type, ...], tuple[str, ...], tuple[Type, ...]]:
    """
    Types of a query's parameters; names and types of its columns, described by Postgres in plain SQL.

    For queries that asyncpg refuses to prepare: it builds decoders for all columns, also for types that it would never
    have to decode, such as anyarray, or composites of types that are read as text here.
    """
    # A join on false gives one row of nulls without running the query.
    joined = f"(SELECT) AS nothing LEFT JOIN (\n{query}\n) AS q"  # the user's own query
    statement = await connection.prepare(f"SELECT row_to_json(r)::text FROM (SELECT q.* FROM {joined} ON false) AS r")  # noqa: S608
    parameters = statement.get_parameters()
    nulls = [None] * len(parameters)
    names: Sequence[str] = json.loads(await statement.fetchval(*nulls), object_pairs_hook=_keys)
    aliases = [quoted(f"column {number}") for number in range(len(names))]
    typeofs = ", ".join(f"pg_typeof(q.{alias})::oid" for alias in aliases)
    oids = await connection.fetchrow(f"SELECT {typeofs} FROM {joined} ({', '.join(aliases)}) ON false", *nulls)  # noqa: S608
    types = await connection.fetch(_BASE_TYPES, list(oids))
    return tuple(parameters), tuple(names), tuple(Type(oid, name, "", schema) for oid, name, schema in types)


def _keys(items: list[tuple[str, None]]) -> list[str]:
    return [key for key, _ in items]
