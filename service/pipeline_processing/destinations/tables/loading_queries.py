"""
The SQL of loading rows into tables: named queries, some with `{parts}` for what Postgres can't bind, which are names
of tables and columns.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pipeline_processing.postgres.client import quoted
from pipeline_processing.postgres.queries import load_queries

QUERIES = load_queries(__package__, "queries.sql")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def statement(name: str, values: Mapping[str, Any] = _NOTHING, /, **parts: str) -> tuple[Any, ...]:
    """
    What asyncpg's methods take: the SQL and its arguments.

    `parts` go into the text, once and as they are: quoted identifiers, and literals made here.
    """
    sql, *arguments = QUERIES[name](**values)
    return (sql.format_map(parts), *arguments)


def table_name(schema: str, name: str) -> str:
    """A table's full name, quoted."""
    return f"{quoted(schema)}.{quoted(name)}"


def column_list(columns: Iterable[str]) -> str:
    """Names of columns, quoted."""
    return ", ".join(map(quoted, columns))


def agency_literal(agency_id: int) -> str:
    """An agency's id as a literal without a type: it takes that of the column that it is compared with."""
    return f"'{int(agency_id)}'"
