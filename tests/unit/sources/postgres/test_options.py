"""The options of the Postgres source: a table, or a query."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_processing.sources.postgres.options import PostgresSourceConfig


def options(**given: Any) -> PostgresSourceConfig:
    return PostgresSourceConfig.model_validate(given)


TABLES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "all rows": ({"table": "statuses"}, 'SELECT * FROM "statuses"', ()),
    "an agency's": (
        {"table": "sales.orders", "agency_column": "tenant", "key": "id"},
        'SELECT * FROM "sales"."orders" WHERE "tenant" = $1 ORDER BY "id"',
        ("agency_id",),
    ),
    "what changed": (
        {
            "table": "orders",
            "columns": ["id", "Total"],
            "agency_column": "a",
            "updated_column": "u",
            "key": ["id", "n"],
        },
        'SELECT "id", "Total" FROM "orders" WHERE "a" = $1 AND "u" >= $2::timestamptz AND "u" < $3::timestamptz '
        'ORDER BY "id", "n"',
        ("agency_id", "since", "until"),
    ),
    "a name of any characters": ({"table": 'a"; DROP TABLE b'}, 'SELECT * FROM "a""; DROP TABLE b"', ()),
}


@pytest.mark.parametrize(("given", "sql", "args"), TABLES.values(), ids=TABLES)
def test_a_table_is_a_query(given: dict[str, Any], sql: str, args: tuple[str, ...]):
    """With its names quoted and its values as parameters."""
    read = options(**given)

    assert (read.sql, read.sql_args, read.names) == (sql, args, frozenset(args))
    assert read.uses_agency is ("agency_id" in args)


def test_columns_of_a_table_are_known_without_a_server():
    """So that steps can be checked."""
    assert options(table="orders", columns=["id", "Total"]).columns_in("json").names == ("id", "Total")
    assert not options(table="orders").columns_in("json").complete


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "needs one of `table`, `query` and `query_file`"),
        ({"table": "orders", "query": "SELECT 1 AS a"}, "needs one of .*, and has `table` and `query`"),
        ({"table": "orders", "query_file": "a.sql"}, "needs one of .*, and has `table` and `query_file`"),
        ({"query_file": "a.sql", "query": "SELECT 1 AS a"}, "needs one of `table`, `query` and `query_file`"),
        ({"table": "orders", "args": ["agency_id"]}, "`args` doesn't go with `table`"),
        ({"query": "SELECT 1 AS a", "key": "id"}, "`key` doesn't go with `query`"),
        ({"table": "db.sales.orders"}, "the name of a table or view, or `schema.name`, without quotes"),
        ({"table": "orders", "agency_column": ""}, "a name as Postgres has it, without quotes"),
    ],
)
def test_options_that_do_not_fit(given: dict[str, Any], fault: str):
    """The message says which."""
    with pytest.raises(ValidationError, match=fault):
        options(**given)
