"""What an error of reading a dataset says of where it happened, and why."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from pipeline_processing.errors import QueryFailed, SourceUnavailable, StandbyConflict
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.sources.postgres.dataset_errors import DatasetErrors

ENDED_WHILE_IDLE = [
    asyncpg.InterfaceError("connection is closed"),
    # What a fetch gets between the server's last message and the end of the stream.
    asyncpg.InternalClientError("cannot switch to state 16; another operation (2) is in progress"),
]


def dataset_errors(*, standby: bool = False, statement_timeout: timedelta | None = None) -> DatasetErrors:
    database = DatabaseClient(
        dsn="postgresql://me:secret@db.example:5432/agencies", unavailable=SourceUnavailable, application_name="tests"
    )
    return DatasetErrors("records", database=database, statement_timeout=statement_timeout, standby=standby)


@pytest.mark.parametrize("error", ENDED_WHILE_IDLE, ids=["closed", "closing"])
def test_a_standby_that_ends_an_idle_session(error: Exception) -> None:
    """It is a conflict with replay, however far the end of the session has come to the client."""
    with (
        pytest.raises(
            StandbyConflict, match=r"^Dataset 'records', after row 1,020: The standby db\.example:5432"
        ) as told,
        dataset_errors(standby=True).located(1020),
    ):
        raise error

    assert told.value.__cause__ is error
    assert "hot_standby_feedback" in str(told.value)


@pytest.mark.parametrize("error", ENDED_WHILE_IDLE, ids=["closed", "closing"])
def test_a_primary_that_ends_an_idle_session(error: Exception) -> None:
    """It can't be reached, and nothing is said of replay."""
    with (
        pytest.raises(SourceUnavailable, match=r"^Dataset 'records', before its first row: Postgres at db\.ex") as told,
        dataset_errors().located(0),
    ):
        raise error

    assert not isinstance(told.value, StandbyConflict)


@pytest.mark.parametrize(
    ("timeout", "remedy"),
    [
        (timedelta(seconds=90), "`statement_timeout` is 90s: make the query faster"),
        (None, "sets no `statement_timeout`"),
    ],
    ids=["the dataset's", "none"],
)
def test_whose_limit_cancelled_the_query(timeout: timedelta | None, remedy: str) -> None:
    """The dataset's own limit is named, or that it has none."""
    with (
        pytest.raises(QueryFailed, match=r"^Dataset 'records': The query failed") as told,
        dataset_errors(statement_timeout=timeout).located(),
    ):
        raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")

    assert remedy in str(told.value)
