"""Reads the ids of agencies by a query, for the schedules of triggers."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pipeline_processing.agency_keys import AgencyId, AgencyKey
from pipeline_processing.errors import QueryInvalid
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.sources.postgres.shape import planning

_LIMIT = "SET LOCAL statement_timeout TO '60s'"
_FILE = "the triggers file"
_TYPES = {
    AgencyKey.INTEGER: ("int2", "int4", "int8"),
    AgencyKey.UUID: ("uuid",),
    AgencyKey.TEXT: ("text", "varchar"),
}
_NAMES = {
    AgencyKey.INTEGER: "integer or bigint",
    AgencyKey.UUID: "uuid, as the job config's `agency_key` says",
    AgencyKey.TEXT: "text, as the job config's `agency_key` says",
}


class PostgresAgencyIds:
    """Runs queries of schedules on the source database, each in its own read-only transaction of a minute at most."""

    def __init__(self, *, database: DatabaseClient, agency_key: AgencyKey = AgencyKey.INTEGER) -> None:
        self._database = database
        self._key = agency_key

    async def listed(self, query: str) -> Sequence[AgencyId]:
        """
        Return the ids, each once, in the order of the query.

        Raises QueryInvalid, QueryFailed, AccessDenied, DatabaseMisconfigured or a TransientError.
        """
        async with self._database.connection() as connection, connection.transaction(readonly=True):
            await connection.execute(_LIMIT)
            with planning(written_in=_FILE):
                statement = await connection.prepare(query)
            columns, parameters = statement.get_attributes(), statement.get_parameters()
            if parameters or [column.type.name in _TYPES[self._key] for column in columns] != [True]:
                returned = ", ".join(f"{column.name} ({column.type.name})" for column in columns) or "nothing"
                raise QueryInvalid(
                    f"The query of a schedule must return agency ids as its only column, of type {_NAMES[self._key]}, "
                    f"and take no parameters. This one returns {returned}. Correct it in {_FILE}."
                )
            values = [record[0] for record in await statement.fetch()]
        return list(dict.fromkeys(map(self._agency, values)))

    def _agency(self, value: Any) -> AgencyId:
        try:
            return self._key.key_of(str(value) if isinstance(value, UUID) else value)
        except ValueError as error:
            which = "integers from 1 on" if self._key is AgencyKey.INTEGER else error
            raise QueryInvalid(
                f"The query of a schedule must return agency ids, which are {which}, and returned "
                f"{'null' if value is None else value}. Correct it in {_FILE}."
            ) from None
