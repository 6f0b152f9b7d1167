"""Reads the ids of agencies by a query, for the schedules of triggers."""

from collections.abc import Sequence
from typing import Any

from pipeline_processing.errors import QueryInvalid
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.sources.postgres.shape import planning

_LIMIT = "SET LOCAL statement_timeout TO '60s'"
_FILE = "the triggers file"
_INTEGERS = ("int2", "int4", "int8")


class PostgresAgencyIds:
    """Runs queries of schedules on the source database, each in its own read-only transaction of a minute at most."""

    def __init__(self, *, database: DatabaseClient) -> None:
        self._database = database

    async def listed(self, query: str) -> Sequence[int]:
        """
        Return the ids, each once, in the order of the query.

        Raises QueryInvalid, QueryFailed, AccessDenied, DatabaseMisconfigured or a TransientError.
        """
        async with self._database.connection() as connection, connection.transaction(readonly=True):
            await connection.execute(_LIMIT)
            with planning(written_in=_FILE):
                statement = await connection.prepare(query)
            columns, parameters = statement.get_attributes(), statement.get_parameters()
            if parameters or [column.type.name in _INTEGERS for column in columns] != [True]:
                raise QueryInvalid(
                    "The query of a schedule must return agency ids as its only column, of type integer or bigint, and "
                    f"take no parameters. This one returns {_described(columns)}. Correct it in {_FILE}."
                )
            values = [record[0] for record in await statement.fetch()]
        if unusable := [value for value in values if value is None or value < 1]:
            raise QueryInvalid(
                f"The query of a schedule must return agency ids, which are integers from 1 on, and returned "
                f"{'null' if unusable[0] is None else unusable[0]}. Correct it in {_FILE}."
            )
        return list(dict.fromkeys(values))


def _described(columns: Sequence[Any]) -> str:
    return ", ".join(f"{column.name} ({column.type.name})" for column in columns) or "nothing"
