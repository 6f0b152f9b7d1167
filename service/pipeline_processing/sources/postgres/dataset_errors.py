"""Errors of reading one dataset: they name it, the last row read, and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import asyncpg

from pipeline_processing.errors import PipelineError, StandbyConflict, TransientError
from pipeline_processing.options.durations import format_duration
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.postgres.errors import STANDBY_REMEDY

_QUERY_CANCELLED = "57014"
_SESSION_ENDED = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The connection is closed, or will be as soon as the end of the stream arrives."""


class DatasetErrors:
    """
    Translates asyncpg's errors into this service's, for one dataset. `standby` says whether the server is one;
    `statement_timeout` is the dataset's own.
    """

    def __init__(
        self, dataset: str, *, database: DatabaseClient, statement_timeout: timedelta | None, standby: bool
    ) -> None:
        self._dataset = dataset
        self._database = database
        self._standby = standby
        self._remedies = {_QUERY_CANCELLED: _remedy_of_a_cancelled_query(statement_timeout)}

    @contextmanager
    def located(self, rows_read: int | None = None) -> Iterator[None]:
        """Errors in the block name the dataset and, once its query runs, the last row read."""
        how_far = "" if rows_read is None else f", after row {rows_read:,}" if rows_read else ", before its first row"
        place = f"Dataset {self._dataset!r}{how_far}"
        try:
            with self._database.translated(remedies=self._remedies):
                yield
        except TransientError as error:
            if self._standby and isinstance(error.__cause__, _SESSION_ENDED):
                # The session was ended while it was idle: asyncpg drops the server's message then.
                raise StandbyConflict(
                    f"The standby {self._database.where} ended the session between two commands, as it does where "
                    f"replay needs what the snapshot sees. {STANDBY_REMEDY}"
                ).at(place) from error.__cause__
            error.at(place)
            raise
        except PipelineError as error:
            error.at(place)
            raise


def _remedy_of_a_cancelled_query(timeout: timedelta | None) -> str:
    if timeout is None:
        return "The dataset sets no `statement_timeout`: the limit is the server's, or somebody cancelled the query."
    return f"The dataset's `statement_timeout` is {format_duration(timeout)}: make the query faster, or raise it."
