"""
What a query takes and gives, told by Postgres in plain SQL.

asyncpg describes nearly every query by preparing it, but builds decoders on the way, and so refuses some that it
would never have to decode: composites of types that it reads as text, composites without fields, anyarray.
"""

import json
from collections.abc import Sequence

import asyncpg
from asyncpg.types import Type

from pipeline_processing.postgres.client import quoted

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
"""Domains are described as what they are made of, as in a query's own description."""


async def described(
    connection: asyncpg.Connection, query: str
) -> tuple[tuple[Type, ...], tuple[str, ...], tuple[Type, ...]]:
    """Types of a query's parameters; names and types of its columns. The connection has asyncpg's own codecs."""
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
