"""
Named queries that load rows into tables. `{parts}` are placeholders for what Postgres can't bind: names of tables and
columns.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pipeline_processing.postgres.identifiers import quoted
from pipeline_processing.postgres.queries import load_queries

QUERIES = load_queries(__package__, "queries.sql")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def statement(name: str, values: Mapping[str, Any] = _NOTHING, /, **parts: str) -> tuple[Any, ...]:
    """
    Return the SQL and its arguments, as asyncpg's methods take them.

    `parts` are inserted unchanged, so they must be quoted identifiers, or literals made here.
    """
    sql, *arguments = QUERIES[name](**values)
    return (sql.format_map(parts), *arguments)


def table_name(schema: str, name: str) -> str:
    """Return a table's qualified name, quoted."""
    return f"{quoted(schema)}.{quoted(name)}"


def column_list(columns: Iterable[str]) -> str:
    """Return the column names, quoted and comma-separated."""
    return ", ".join(map(quoted, columns))
