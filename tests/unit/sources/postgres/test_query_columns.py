"""The columns of a query as far as they can be told without a server."""

import pytest

from pipeline_processing.rows.columns import UNKNOWN_COLUMNS
from pipeline_processing.sources.postgres.query_columns import names_of_query, placeholders_of_query


@pytest.mark.parametrize(
    ("query", "names", "complete"),
    [
        ('SELECT id, t.Name, t."Name", 1 AS One, sum(x) total FROM t', ("id", "name", "Name", "one", "total"), True),
        ("SELECT a UNION ALL SELECT *", ("a",), True),
        ("WITH x AS (SELECT * FROM t) SELECT a, b FROM x;", ("a", "b"), True),
        ("SELECT *, a + 1 AS next FROM t", ("next",), False),
        ("SELECT f($1,$2) AS a, g($1,$2) AS b FROM t", ("a", "b"), True),
        ('SELECT a AS "$1,$", b AS "$2" FROM t', ("$1,$", "$2"), True),
        ("SELECT t.*, a FROM t", ("a",), False),
        ('select A.B, a.c as "d""e", f G from a -- $1\n;', ("b", 'd"e', "g"), True),
        ("SELECT a, current_date, b isnull, DISTINCT FROM t", (), False),
        ("SELECT a, current_user, b isnull FROM t", ("a",), False),
        ("SELECT a, count(*), 1, b::int, CASE WHEN c THEN d END FROM t", ("a",), False),
    ],
)
def test_plain_names_are_told(query: str, names: tuple[str, ...], complete: bool) -> None:
    """Columns and aliases; what has another name, which only Postgres works out, leaves the columns incomplete."""
    columns = names_of_query(query)

    assert (columns.names, columns.complete) == (names, complete)


@pytest.mark.parametrize(
    "query",
    [
        "",
        ";",
        "nonsense",
        "SELEC a",
        "SELECT 'a",
        "SELECT a FROM",
        "SELECT a; SELECT b",
        "SELECT FROM t",
        "SELECT *",
        "SELECT 1",
        "SELECT a, b AS a FROM t",
        "SELECT 0o17",
        "SHOW server_version",
        "EXPLAIN SELECT a FROM t",
        "DELETE FROM t RETURNING a",
        "VALUES (1, 2)",
        "\0",
        "(" * 5000,
    ],
)
def test_what_cannot_be_told_is_unknown(query: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is raised or logged: Postgres will say what is wrong, if anything is."""
    assert names_of_query(query) == UNKNOWN_COLUMNS
    assert caplog.records == []


def test_a_columns_origin_is_known_and_its_type_is_not() -> None:
    """So that steps can be checked against it, as far as names go."""
    [column] = names_of_query("SELECT Id FROM t")

    assert column.origins == {"id"}
    assert column.unchanged
    assert not column.typed
    assert column.kind is None


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("SELECT * FROM t WHERE id = $1", {1}),
        ("SELECT * FROM t WHERE ts <@ tstzrange($2,$3) AND agency_id=$1 AND u <@ tstzrange($2,$3)", {1, 2, 3}),
        ("SELECT * FROM report($1,$2) UNION ALL SELECT * FROM old_report($1,$2)", {1, 2}),
        ("SELECT $10, '$1', \"$2\", $$ $3 $$, $tag$ $4 $tag$ -- $5", {10}),
        ("EXPLAIN SELECT $1", {1}),
        ("SELECT $1, '", None),
    ],
)
def test_placeholders_are_found(query: str, numbers: set[int] | None) -> None:
    """Not those in comments, literals and names; and two beside each other are no dollar quote."""
    assert placeholders_of_query(query) == numbers
