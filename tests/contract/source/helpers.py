"""Exports as the service does them, what Postgres itself says of the same rows, and strict parsers for both."""

import json
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg

from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.processor import AgencyProcessor
from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.model import JobRequest
from pipeline_processing.plan import Artifact, InlineContent, UploadRef
from pipeline_processing.ports import LastSuccess
from pipeline_processing.sources.postgres.source import PostgresSource
from pipeline_processing.sources.several import Sources
from pipeline_processing.telemetry.masking import Mask
from tests.memory.destination import MemoryDestination
from tests.unit.steps.step_context import NoServices

GIB = 1024**3


# -- exports -------------------------------------------------------------------------------------


def dataset(query: str, *, name: str = "records", **options: Any) -> dict[str, Any]:
    """A dataset as a job config writes it; `args` and `statement_timeout` go to the query."""
    postgres = {key: options.pop(key) for key in ("args", "statement_timeout") if key in options}
    return {"name": name, "source": {"postgres": {"query": query, **postgres}}, **options}


async def export_all(
    source: PostgresSource, datasets: Sequence[Mapping[str, Any]], *, request: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The artifacts' bytes of several datasets, made by the processor in one snapshot."""
    asked = JobRequest.model_validate({"agency_id": 7, **(request or {})})
    run = RunContext(run_id="run-1", attempt=1, trace_id="0" * 32, request=asked)
    processor = AgencyProcessor(
        run=run,
        source=Sources({"postgres": source}, clock=SystemClock()),
        services=NoServices(),  # type: ignore[arg-type]  # it opens nothing
        outlet=Outlet(
            run=run,
            destinations=Destinations([MemoryDestination(inline_limit=GIB)]),
            on_upload=_no_upload,
            mask=Mask(),
            max_row_bytes=GIB,
        ),
        last_success=_never,
        on_progress=lambda counts, *, stage, bytes_written: None,
    )
    export = await processor.process_agency(asked.agency_id, AgencyJobConfig.model_validate({"datasets": datasets}))
    return {exported.counts.name: _content(*exported.artifacts) for exported in export.datasets}


async def export(
    source: PostgresSource,
    query: str,
    format: str,  # noqa: A002 - the word of the job config
    steps: Sequence[Mapping[str, Any]] = (),
    *,
    args: Sequence[str] = (),
    request: Mapping[str, Any] | None = None,
) -> bytes:
    """The artifact's bytes of one query."""
    one = dataset(query, args=args, format=format, steps=steps)
    return (await export_all(source, [one], request=request))["records"]


async def _never(agency_id: int | str, name: str) -> LastSuccess | None:
    return None


async def _no_upload(upload: UploadRef) -> None:
    raise AssertionError("small artifacts start no upload")


def _content(artifact: Artifact) -> bytes:
    assert isinstance(artifact.staged, InlineContent)
    return b64decode(artifact.staged.content)


# -- what Postgres says --------------------------------------------------------------------------


async def rows_to_json(connection: asyncpg.Connection, query: str, *arguments: Any) -> list[Any]:
    """Each row as Postgres's row_to_json has it, parsed."""
    rows = await connection.fetch(f'SELECT row_to_json("the row")::text FROM (\n{query}\n) "the row"', *arguments)
    return [parsed_json(row[0]) for row in rows]


async def copied_csv(connection: asyncpg.Connection, query: str) -> bytes:
    """What COPY writes."""
    written = bytearray()
    await connection.execute("SET client_encoding TO 'UTF8'")
    await connection.copy_from_query(query, output=_appending(written), format="csv", header=True)
    return bytes(written)


async def copied_text(connection: asyncpg.Connection, table: str) -> bytes:
    """All rows of a table in COPY's own text form."""
    written = bytearray()
    await connection.copy_from_query(f"SELECT * FROM {table}", output=_appending(written))
    return bytes(written)


async def reimported(connection: asyncpg.Connection, table: str, csv: bytes) -> bytes | str:
    """
    The rows in COPY's text form after COPY FROM has read `csv` into an empty table like `table`.

    The SQLSTATE where it can't: some types, such as pg_node_tree, refuse all input, Postgres's own CSV too.
    """
    async with _rolled_back(connection):
        await connection.execute(f"CREATE TABLE pg_temp.again (LIKE {table})")
        try:
            await connection.copy_to_table(
                "again", schema_name="pg_temp", source=_chunks(csv), format="csv", header=True
            )
        except asyncpg.PostgresError as error:
            return str(error.sqlstate)
        return await copied_text(connection, "pg_temp.again")


@asynccontextmanager
async def _rolled_back(connection: asyncpg.Connection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


def _appending(written: bytearray) -> Any:
    async def append(data: bytes) -> None:
        written.extend(data)

    return append


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


# -- strict parsers ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """A number by its exact value; 0 and -0 differ, and it is never equal to a boolean or a string."""

    value: Decimal
    negative: bool


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object with its keys in order, repeated ones too."""

    items: tuple[tuple[str, Any], ...]

    def __getitem__(self, key: str) -> Any:
        return dict(self.items)[key]


def parsed_json(line: str | bytes) -> Any:
    """JSON that loses nothing: exact numbers, repeated keys. Refuses NaN and Infinity, which aren't JSON."""
    return json.loads(
        line,
        parse_int=_number,
        parse_float=_number,
        parse_constant=_not_json,
        object_pairs_hook=lambda items: Object(tuple(items)),
    )


def _number(text: str) -> Number:
    return Number(Decimal(text), text.startswith("-"))


def _not_json(text: str) -> Any:
    raise ValueError(f"{text} isn't JSON")


def parsed_ndjson(data: bytes) -> list[Any]:
    """One document a physical line."""
    if not data:
        return []
    assert data.endswith(b"\n"), "the last line has no end"
    assert b"\r" not in data, "line ends are \\n"
    return [parsed_json(line.decode()) for line in data[:-1].split(b"\n")]


_CSV_FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n]*))([,\n])')


def parsed_csv(data: bytes) -> list[list[str | None]]:
    """CSV as COPY reads it: an empty field is null, a quoted one text. Refuses anything that isn't strictly that."""
    text, at = data.decode(), 0
    rows: list[list[str | None]] = []
    row: list[str | None] = []
    while at < len(text):
        field = _CSV_FIELD.match(text, at)
        assert field, f"not CSV: {text[at : at + 80]!r}"
        quoted, plain, end = field.groups()
        row.append((plain or None) if quoted is None else quoted.replace('""', '"'))
        if end == "\n":
            rows.append(row)
            row = []
        at = field.end()
    assert not row, "the last line has no end"
    return rows
