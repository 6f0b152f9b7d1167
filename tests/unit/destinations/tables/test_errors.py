"""Refusals are told in Postgres's conditions and names, and never in values."""

from __future__ import annotations

import inspect
from typing import Any

import asyncpg
import pytest
from asyncpg import exceptions

from pipeline_processing.destinations.tables.errors import Refused, TableConflict, is_refusal
from pipeline_processing.errors import ConflictingObjects, DataError

PRIVATE = "a-private-value"
OF_THE_SERVER = [
    error
    for _, error in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(error, asyncpg.PostgresError) and error.sqlstate
]


def error(sqlstate: str, **fields: str) -> asyncpg.PostgresError:
    """As the server sends it, with values wherever it may have some."""
    texts = dict.fromkeys("MDHWpq", f'something about "{PRIVATE}"')
    made: asyncpg.PostgresError = asyncpg.PostgresError.new({"C": sqlstate, **texts, **fields})
    return made


@pytest.mark.parametrize("kind", OF_THE_SERVER, ids=lambda kind: f"{kind.sqlstate} {kind.__name__}")
def test_no_message_quotes_a_value(kind: Any) -> None:
    """Whatever Postgres says of any error."""
    message = str(Refused(error(kind.sqlstate)))
    assert PRIVATE not in message
    assert f"(SQLSTATE {kind.sqlstate})" in message
    assert message.split(" (SQLSTATE")[0].replace(" ", "").islower()


@pytest.mark.parametrize(
    ("sqlstate", "fields", "message"),
    [
        ("22P02", {}, "invalid text representation (SQLSTATE 22P02)"),
        ("25006", {}, "read only sql transaction (SQLSTATE 25006)"),
        ("23502", {"c": "id", "t": "_pp_1"}, "not null violation (SQLSTATE 23502) in column 'id'"),
        ("23505", {"n": "records_pkey"}, "unique violation (SQLSTATE 23505) in constraint 'records_pkey'"),
        (
            "23514",
            {"d": "positive", "n": "positive_check"},
            "check violation (SQLSTATE 23514) in constraint 'positive_check', type 'positive'",
        ),
    ],
)
def test_a_refusal_names_what_was_broken(sqlstate: str, fields: dict[str, str], message: str) -> None:
    """The condition, and the names that Postgres gives."""
    assert str(Refused(error(sqlstate, **fields))) == message


def test_a_column_that_was_found_otherwise_is_named() -> None:
    """Postgres doesn't tell it of values of JSON."""
    refused = Refused(error("22P02"), column="amount")
    assert (refused.column, str(refused)) == (
        "amount",
        "invalid text representation (SQLSTATE 22P02) in column 'amount'",
    )
    assert isinstance(refused, DataError)


@pytest.mark.parametrize(
    ("sqlstate", "refusal"),
    [
        ("22P02", True),
        ("23505", True),
        ("0A000", True),
        ("42P01", True),
        ("54000", True),
        ("P0001", True),
        ("ZZ123", True),
        ("25006", False),
        ("40P01", False),
        ("42501", False),
        ("53100", False),
        ("55P03", False),
        ("57014", False),
        ("57P01", False),
        ("58030", False),
        ("XX001", False),
        ("08006", False),
    ],
)
def test_what_may_pass_is_no_refusal(sqlstate: str, refusal: bool) -> None:
    """A state of the server says nothing about rows; what a function raises does."""
    assert is_refusal(error(sqlstate)) is refusal


def test_a_conflict_is_final() -> None:
    """The core gives such a run up; the message is about the table."""
    conflict = TableConflict("postgresql://host/db/public/records", why="it took 0 of 1 rows")
    assert isinstance(conflict, ConflictingObjects)
    assert not conflict.retryable
    assert str(conflict).startswith(
        "postgresql://host/db/public/records can't take the run's rows: it took 0 of 1 rows."
    )
