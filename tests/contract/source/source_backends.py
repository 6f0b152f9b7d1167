"""One small table of rows at each kind of source, for what all of them have to do alike."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg
from pydantic import SecretStr

from pipeline_processing.aio.clock import Clock, SystemClock
from pipeline_processing.http.client import HttpUpstream
from pipeline_processing.http.options import UpstreamOptions
from pipeline_processing.http.pace import Paces
from pipeline_processing.ports import Source
from pipeline_processing.sources.http.options import HttpSourceConfig
from pipeline_processing.sources.http.source import HttpSource
from pipeline_processing.sources.postgres.options import PostgresSourceConfig
from tests.contract.source.reading import RowBatches, postgres, postgres_source
from tests.upstream_api import Asked, Handler, UpstreamApi

COLUMNS = {
    "id": ("bigint", "integer"),
    "agency": ("bigint", "integer"),
    "name": ("text", "text"),
    "amount": ("numeric", "number"),
    "ratio": ("float8", "float"),
    "active": ("boolean", "boolean"),
    "day": ("date", "date"),
    "at": ("timestamp", "timestamp"),
    "seen": ("timestamptz", "timestamptz"),
    "ref": ("uuid", "uuid"),
    "attributes": ("jsonb", "json"),
}
"""Name → type in Postgres, kind."""

Values = Sequence[str | None]
"""A row of the table, in COPY's text, in the order of the columns."""


class Backend(Protocol):
    """A source with the table in it."""

    source: Source

    async def fill(self, rows: Sequence[Values]) -> None:
        """The table holds just these rows."""

    def options(self, *, where: str | None = None) -> Any:
        """
        Options to read all rows of the agency of the request, in order; and, with `where`, only those whose name equals
        the argument of that name.
        """

    async def intact(self) -> bool:
        """Whether all is still there as it was filled in, and nothing but it was asked for."""


class PostgresBackend:
    def __init__(self, connection: asyncpg.Connection, source: Source) -> None:
        self.source = source
        self._connection = connection
        self._rows = 0

    async def fill(self, rows: Sequence[Values]) -> None:
        columns = ", ".join(f"{name} {pg_type}" for name, (pg_type, _) in COLUMNS.items())
        await self._connection.execute(f"DROP TABLE IF EXISTS kept; CREATE TABLE kept ({columns})")
        texts = ", ".join(f"${n}::text::{pg_type}" for n, (pg_type, _) in enumerate(COLUMNS.values(), 1))
        await self._connection.executemany(f"INSERT INTO kept VALUES ({texts})", rows)
        self._rows = len(rows)

    def options(self, *, where: str | None = None) -> PostgresSourceConfig:
        condition, args = ("", ("agency_id",)) if where is None else ("AND name = $2", ("agency_id", where))
        query = f"SELECT * FROM kept WHERE agency = $1 {condition} ORDER BY id"
        return PostgresSourceConfig(query=query, args=args)

    async def intact(self) -> bool:
        return bool(await self._connection.fetchval("SELECT count(*) FROM kept") == self._rows)


class HttpBackend:
    def __init__(self, api: UpstreamApi, source: Source, *, size: int = 1500) -> None:
        self.source = source
        self._api = api
        self._size = size
        self._rows: list[Values] = []

    async def fill(self, rows: Sequence[Values]) -> None:
        self._rows = list(rows)
        self._api.asked.clear()
        self._paths = {f"/agencies/{agency}/rows": agency for agency in {"7", *(row[1] for row in rows)}}
        for path, agency in self._paths.items():
            self._api.on(path, self._handler([row for row in rows if row[1] == agency]))

    def _handler(self, rows: Sequence[Values]) -> Handler:
        def answer(asked: Asked) -> Any:
            found = [row for row in rows if asked.query.get("name") in (None, row[2])]
            start = int(asked.query.get("from", "0"))
            page = {"rows": [_record(row) for row in found[start : start + self._size]]}
            return page | ({"next": start + self._size} if start + self._size < len(found) else {})

        return answer

    def options(self, *, where: str | None = None) -> HttpSourceConfig:
        return HttpSourceConfig.model_validate(
            {
                "url": self._api.url("/agencies/{agency_id}/rows"),
                "query": {} if where is None else {"name": f"{{{where}}}"},
                "records": "rows",
                "pages": {"cursor": {"path": "next", "param": "from"}, "optional": True},
                "columns": {name: kind for name, (_, kind) in COLUMNS.items()},
            }
        )

    async def intact(self) -> bool:
        return all(asked.path in self._paths and set(asked.query) <= {"name", "from"} for asked in self._api.asked)


def _record(row: Values) -> dict[str, Any]:
    """As an API would write it: numbers, booleans and documents as such, times as RFC 3339 has them."""

    def written(text: str | None, kind: str) -> Any:
        if text is None:
            return b"null"
        match kind:
            case "integer" | "number" | "float" | "json":
                return text.encode()
            case "boolean":
                return b"true" if text == "t" else b"false"
            case "timestamp":
                return text.replace(" ", "T")
            case "timestamptz":
                return text.replace(" ", "T").replace("+00", "Z")
            case _:
                return text

    return {name: written(text, kind) for (name, (_, kind)), text in zip(COLUMNS.items(), row, strict=True)}


def http_source(*, clock: Clock | None = None, secret: Callable[[str], SecretStr] | None = None) -> HttpSource:
    """A source as the service opens it."""
    time = clock or SystemClock()
    paces = Paces(clock=time)

    def upstream(access: UpstreamOptions) -> HttpUpstream:
        return HttpUpstream(options=access, secret=secret or _secret, paces=paces, clock=time, jitter=lambda: 1)

    return HttpSource(upstream=upstream, clock=time)


def _secret(name: str) -> SecretStr:
    return SecretStr(f"s3cret of {name}")


@asynccontextmanager
async def postgres_backend(dsn: str) -> AsyncIterator[Backend]:
    async with postgres(dsn) as connection, postgres_source(dsn) as source:
        yield PostgresBackend(connection, source)


@asynccontextmanager
async def http_backend() -> AsyncIterator[Backend]:
    async with UpstreamApi() as api:
        yield HttpBackend(api, http_source())


@asynccontextmanager
async def reading(
    source: Source, options: Any, arguments: Mapping[str, Any] | None = None, *, carry: str = "json"
) -> AsyncIterator[RowBatches]:
    """The batches of dataset `records`, in a snapshot of its own."""
    async with (
        source.snapshot({"records": options}) as snapshot,
        snapshot.records("records", arguments or {}, carry=carry) as batches,
    ):
        yield RowBatches(batches)


async def read(
    source: Source, options: Any, arguments: Mapping[str, Any] | None = None, *, carry: str = "json"
) -> list[Any]:
    """All rows."""
    async with reading(source, options, arguments, carry=carry) as batches:
        return [row async for batch in batches for row in batch]
