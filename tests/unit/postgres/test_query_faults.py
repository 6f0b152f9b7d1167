"""What a query's text alone says to be wrong."""

import re

import pytest

from pipeline_processing.postgres.query_faults import lookup_faults, query_faults

FAULTS: dict[str, tuple[str, tuple[str, ...], list[str]]] = {
    "a misspelt start": ("SELEC * FROM a WHERE b = $1", ("x",), ["begins with SELEC: did you mean SELECT?"]),
    "no SQL": ("records", (), ["begins with records, but a query begins with SELECT, WITH"]),
    "a statement that writes": ("delete FROM a", (), ["begins with DELETE, but it can only read"]),
    "no statement": ("-- SELECT 1\n;", (), ["has no statement"]),
    "two statements": ("SELECT 1 AS a; SELECT 2 AS b;", (), ["has two statements"]),
    "a parameter without a value": (
        "SELECT $1, $3", ("a", "b"), [r"uses \$3, but `args` names 2 values: a, b\.", r"names b for \$2, which"],
    ),
    "parameters, and no values": ("SELECT $1", (), [r"uses \$1, but `args` names none\. Name the value of \$1"]),
    "no parameter has this number": ("SELECT $0, $1", ("a",), [r"uses \$0"]),
    "a parameter in a comment": ("SELECT 1 AS a -- $1", ("a",), [r"names a for \$1, which the query doesn't use"]),
    "a longer number": ("SELECT $12", ("a",), [r"uses \$12", r"names a for \$1,"]),
    "a text without an end": ("SELECT 'a, $1 FROM\n b", ("a",), ["without an end: 'a, \\$1 FROM b …"]),
    "a comment without an end": ("SELECT $1 /* /* a */", ("a",), [r"without an end: /\* /\* a \*/ …"]),
    "several": ("SELEC $2; SELECT 1", ("a",), ["did you mean", "two statements", r"uses \$2", r"a for \$1"]),
}  # fmt: skip


@pytest.mark.parametrize(("query", "args", "expected"), FAULTS.values(), ids=FAULTS)
def test_faults(query: str, args: tuple[str, ...], expected: list[str]):
    """All of them, in the query's own words."""
    found = list(query_faults(query, args=args))

    assert len(found) == len(expected)
    for fault, words in zip(found, expected, strict=True):
        assert re.search(words, fault)


@pytest.mark.parametrize(
    "query",
    [
        "select $1;",
        "WITH a AS (SELECT $1 AS b) SELECT * FROM a WHERE b <> ';' ;;",
        "(SELECT $1) UNION (SELECT 2)",
        "VALUES ($1, $$;$$)",
        ";; SELECT $1; -- nothing more",
        "SELECT E'a\\''-- it goes on\n 'b;\\'', $1",
        "EXPLAIN SELECT $1",
        "/* a */ SELECT 1 FORM nonsense WHERE $1",
    ],
)
def test_what_may_be_right(query: str):
    """Postgres decides."""
    assert list(query_faults(query, args=("a",))) == []


@pytest.mark.parametrize("query", ["SELECT 1 AS a", "SELECT a FROM b WHERE c = $1 AND d = $2"])
def test_a_lookup_has_one_parameter(query: str):
    """The list of keys."""
    (fault,) = lookup_faults(query)

    assert "exactly one parameter, $1" in fault
    assert list(lookup_faults("SELECT a, b FROM c WHERE a = ANY($1)")) == []
