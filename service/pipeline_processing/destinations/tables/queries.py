"""
The SQL of loading rows into tables: named queries. `{parts}` stand for what Postgres can't bind: names of tables and
columns.
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
    The SQL and its arguments, as asyncpg's methods take them.

    `parts` are put into the text once, unchanged: quoted identifiers, and literals made here.
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
    """An agency's id as an untyped literal, which takes the type of the column that it is compared with."""
    return f"'{int(agency_id)}'"
