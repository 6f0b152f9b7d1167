"""Named queries: found, described, numbered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline_processing.history import postgres
from pipeline_processing.postgres.queries import load_queries, parse_queries

FOLDER = Path(postgres.__file__).parent


def test_named_parameters_become_numbers() -> None:
    """In the order of their first use; a cast isn't a parameter."""
    query = parse_queries("-- name: q\n-- Why.\nSELECT :b::text, :a, :b;\n")["q"]

    assert query(a=1, b=2) == ("SELECT $1::text, $2, $1;", 2, 1)
    assert query.description == "Why."


@pytest.mark.parametrize("values", [{}, {"a": 1, "c": 2}])
def test_a_query_takes_exactly_its_parameters(values: dict[str, int]) -> None:
    """A forgotten or a misspelt one is an error before anything is sent."""
    query = parse_queries("-- name: q\n-- Why.\nSELECT :a;\n")["q"]

    with pytest.raises(TypeError, match="takes"):
        query(**values)


@pytest.mark.parametrize("text", ["-- name: q\nSELECT 1;\n", "-- name: q\n-- A.\nSELECT 1;\n" * 2])
def test_a_query_needs_a_description_and_a_name_of_its_own(text: str) -> None:
    """So says the style guide, and a name that is used twice hides a query."""
    with pytest.raises(ValueError, match="needs"):
        parse_queries(text)


@pytest.mark.parametrize("sql", sorted(FOLDER.glob("*.sql")), ids=lambda path: path.stem)
def test_every_query_is_used(sql: Path) -> None:
    """Each SQL file belongs to the module of its name, which uses all its queries and no others."""
    code = sql.with_suffix(".py").read_text()
    named = set(re.findall(r'QUERIES\["(\w+)"\]', code))
    named |= set(re.findall(r'_end_lease\(\s*connection, claim, "(\w+)"', code))

    assert named == set(load_queries(postgres.__name__, sql.name))
