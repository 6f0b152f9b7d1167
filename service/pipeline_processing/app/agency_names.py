"""Look up the names of agencies, for people. Part of the composition root."""

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline_processing.agency_keys import AgencyId, AgencyKey, number_of
from pipeline_processing.errors import SourceUnavailable
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.settings.settings import Settings

_SECONDS = 3.0
"""Longest wait for the source to be reached, and for its answer: a list without names is better than none."""


async def agency_names(settings: Settings, agency_ids: Iterable[AgencyId]) -> dict[AgencyId, str]:
    """
    Return the names of these agencies that the settings' query finds. Without a query, there are none.

    Raises PipelineError if the source can't be reached, or refuses the query.
    """
    query, keys = settings.source.agency_names, list(dict.fromkeys(agency_ids))
    if query is None or settings.source.dsn is None or not keys:
        return {}
    source = DatabaseClient(
        dsn=settings.source.dsn.get_secret_value(),
        unavailable=SourceUnavailable,
        max_size=1,
        server_settings={"transaction_read_only": "on"},
        connect_seconds=_SECONDS,
        command_seconds=_SECONDS,
    )
    async with source as client, client.connection() as connection, connection.transaction(readonly=True):
        statement = await connection.prepare(query)
        types = [parameter.name for parameter in statement.get_parameters()]
        rows = await statement.fetch(_fitting(keys, types[0] if types else ""))
    # By text, because a UUID in the query is one in Python, too.
    names = {str(row[0]): str(row[-1]) for row in rows}
    return {key: names[str(key)] for key in keys if str(key) in names}


def _fitting(keys: Sequence[AgencyId], array: str) -> list[Any]:
    """Return the keys that an array of this type can hold: a history may have those of an earlier `agency_key`, too."""
    if array.startswith("int"):
        return [number for number in map(number_of, keys) if number > 0]
    texts = [str(key) for key in keys]
    return [key for key in texts if not AgencyKey.UUID.fault(key)] if array == "uuid[]" else texts
