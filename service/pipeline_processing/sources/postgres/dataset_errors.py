"""Adds the dataset, the last row read and the remedy to errors of reading."""

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
"""The connection is closed, or about to be."""


class DatasetErrors:
    """
    Translates asyncpg's errors for one dataset. `standby` says whether the server is a standby; `statement_timeout` is
    the dataset's.
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
        """Prefix errors of the block with the dataset and, once its query runs, the last row read."""
        how_far = "" if rows_read is None else f", after row {rows_read:,}" if rows_read else ", before its first row"
        place = f"Dataset {self._dataset!r}{how_far}"
        try:
            with self._database.translated(remedies=self._remedies):
                yield
        except TransientError as error:
            if self._standby and isinstance(error.__cause__, _SESSION_ENDED):
                # asyncpg drops the server's message if the session was idle when it was ended.
                raise StandbyConflict(
                    f"The standby {self._database.where} ended the session between two commands, as it does if "
                    f"replay conflicts with the snapshot. {STANDBY_REMEDY}"
                ).at(place) from error.__cause__
            error.at(place)
            raise
        except PipelineError as error:
            error.at(place)
            raise


def _remedy_of_a_cancelled_query(timeout: timedelta | None) -> str:
    if timeout is None:
        return "The dataset sets no `statement_timeout`: the limit is the server's, or the query was cancelled."
    return f"The dataset's `statement_timeout` is {format_duration(timeout)}: make the query faster, or raise it."
