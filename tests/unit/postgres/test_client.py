"""What messages say about a server."""

from __future__ import annotations

import pytest

from pipeline_processing.errors import SourceUnavailable
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.identifiers import quoted


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("postgresql://me:secret@db.example:5432/agencies?sslmode=require", "db.example:5432/agencies"),
        ("postgresql://me:se%40cret@[::1]:5432/agencies", "[::1]:5432/agencies"),
        ("postgresql://me:se@cret@one:1,two:2/agencies", "one:1,two:2/agencies"),
        ("postgresql:///agencies", "the default host/agencies"),
        ("postgresql://me:sec/ret@db.example/agencies", "the configured address"),
        ("postgresql://me:sec?ret@db.example/agencies", "the configured address"),
        ("postgresql://me:123#secret@db.example/agencies", "the configured address"),
        ("postgresql://me:secret/agencies", "the configured address"),
        ("postgresql://db.example/agencies?password=se@cret", "the configured address"),
        ("postgresql://[db.example/secret", "the configured address"),
    ],
)
def test_an_address_never_shows_a_password(dsn: str, where: str) -> None:
    """Where a DSN is odd enough that it might, it shows nothing."""
    client = DatabaseClient(dsn=dsn, unavailable=SourceUnavailable, application_name="tests")

    assert client.where == where
    assert "secret" not in repr(client)


def test_identifiers_are_quoted() -> None:
    """Whatever is in them."""
    assert quoted('a "b"; c') == '"a ""b""; c"'
