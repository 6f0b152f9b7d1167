"""
The data path, held by what it asks of Postgres and of S3.

The clients themselves are mocks that accept only calls which the real ones have; everything between them, from the
source to the destination, is the real thing.
"""

import asyncio
import hashlib
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from unittest.mock import ANY, AsyncMock, Mock, call, create_autospec

import asyncpg
import pytest
from asyncpg.types import Attribute, Type

from pipeline_processing.agency_data_job.chain import Chain
from pipeline_processing.agency_data_job.config import AgencyJobConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.processor import AgencyProcessor, Export
from pipeline_processing.aio.budget import ByteBudget
from pipeline_processing.aio.clock import SystemClock
from pipeline_processing.destinations.null.destination import NullDestination
from pipeline_processing.destinations.s3.client import NewUpload, S3Client
from pipeline_processing.destinations.s3.destination import S3Destination
from pipeline_processing.destinations.s3.objects import AS_THE_BUCKET_HAS_IT
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import (
    DestinationUnavailable,
    ExpectationFailed,
    InvalidStep,
    QueryInvalid,
    RowsUnaccounted,
    RowTooLarge,
    StepAddedRows,
    StepFailed,
    UnknownColumn,
)
from pipeline_processing.model import DatasetCounts, JobRequest
from pipeline_processing.plan import Artifact, InlineContent, MultipartUpload, UploadedPart, UploadRef
from pipeline_processing.ports import Destination
from pipeline_processing.postgres.client import DatabaseClient
from pipeline_processing.sources.postgres.source import PostgresSource
from pipeline_processing.sources.several import Sources
from pipeline_processing.steps.step import Batch
from pipeline_processing.telemetry.masking import Mask
from tests.unit.in_memory import NoServices

MIB = 1024 * 1024
NOW = datetime(2026, 1, 18, 10, tzinfo=UTC)
HOOKS = "tests.unit.steps.hooks"
KEY = "agency_id=7/run_id=run-1/records/part-00000"
METADATA = {"run-id": "run-1", "agency-id": "7", "attempt": "2", "trace-id": "0" * 32}

INT8 = Type(20, "int8", "scalar", "pg_catalog")
TEXT = Type(25, "text", "scalar", "pg_catalog")


@dataclass
class Table:
    """What the mocked Postgres answers to one query."""

    rows: Sequence[tuple[Any, ...]]
    columns: tuple[Attribute, ...] = (Attribute("id", INT8), Attribute("name", TEXT))
    parameters: tuple[Type, ...] = (INT8,)
    fails_at: int | None = None
    may_fail: asyncio.Event = field(default_factory=asyncio.Event)
    """What is waited for before the failure."""


class FakeCursor:
    """A portal: hands out rows in the order of the table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows = iter(table.rows)
        self._given = 0

    async def fetch(self, count: int) -> list[tuple[Any, ...]]:
        rows = list(islice(self._rows, min(count, 4)))  # as if the meter had ended the fetch
        self._given += len(rows)
        if self._table.fails_at is not None and self._given >= self._table.fails_at:
            async with asyncio.timeout(10):
                await self._table.may_fail.wait()
            raise asyncpg.DivisionByZeroError("division by zero")
        return rows


class Connection:
    """The methods of a connection that reading uses. Inspecting all the others takes longer than a run."""

    is_closed = asyncpg.Connection.is_closed
    execute = asyncpg.Connection.execute
    fetch = asyncpg.Connection.fetch
    fetchrow = asyncpg.Connection.fetchrow
    prepare = asyncpg.Connection.prepare
    reset_type_codec = asyncpg.Connection.reset_type_codec
    set_type_codec = asyncpg.Connection.set_type_codec
    terminate = asyncpg.Connection.terminate
    _transport = asyncpg.Connection._transport


@dataclass
class World:
    """A processor, its mocked clients, and everything that they were asked in one list."""

    tables: dict[str, Table] = field(default_factory=dict)
    calls: Mock = field(default_factory=Mock)
    progress: list[DatasetCounts] = field(default_factory=list)
    budget: ByteBudget = field(default_factory=lambda: ByteBudget(64 * MIB))
    destination: Destination | None = None
    max_row_bytes: int = 16 * MIB

    def __post_init__(self) -> None:
        self.connection = create_autospec(Connection, instance=True)
        self.connection.is_closed.return_value = False
        self.connection.kept = {}
        self.connection.fetchrow.return_value = (str(NOW), "false")
        self.connection.fetch.return_value = []
        self.connection.execute.side_effect = self._execute
        self.connection.prepare.side_effect = self._prepare
        self.database = create_autospec(DatabaseClient, instance=True)
        self.database.connection.side_effect = self._acquired
        self.database.translated.side_effect = lambda **_: nullcontext()
        self.s3 = create_autospec(S3Client, instance=True)
        self.s3.create_multipart_upload.side_effect = [NewUpload(f"upload-{number}") for number in range(1, 9)]
        self.s3.upload_part.side_effect = _uploaded
        self.on_upload = AsyncMock()
        self.calls.attach_mock(self.connection, "postgres")
        self.calls.attach_mock(self.s3, "s3")
        self.calls.attach_mock(self.on_upload, "on_upload")

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Mock]:
        self.calls.acquired()
        yield self.connection
        self.calls.released()

    async def _execute(self, query: str) -> str:
        for begins, told in {"BEGIN": "begin", "SAVEPOINT": "savepoint", "ROLLBACK TO": "roll_back"}.items():
            if query.startswith(begins):
                getattr(self.calls, told)(query)
                return begins
        assert query.startswith("ROLLBACK;"), query
        self.calls.end()
        return "SELECT 1"  # nothing is left in the session

    async def _prepare(self, query: str) -> Any:
        table = self.tables[query]
        statement = create_autospec(asyncpg.prepared_stmt.PreparedStatement, instance=True)
        statement.get_attributes.return_value = table.columns
        statement.get_parameters.return_value = table.parameters

        async def cursor(*arguments: Any) -> FakeCursor:
            self.calls.bound(query, *arguments)
            return FakeCursor(table)

        statement.cursor.side_effect = cursor
        return statement

    async def run(self, *datasets: dict[str, Any], request: JobRequest | None = None) -> Export:
        """One run of agency 7 over datasets, each of which reads the table of its name."""
        context = RunContext(run_id="run-1", attempt=2, trace_id="0" * 32, request=request or JobRequest(agency_id=7))
        s3 = S3Destination(client=self.s3, bucket="exports", prefix="agencies", budget=self.budget, part_size=5 * MIB)
        processor = AgencyProcessor(
            run=context,
            source=Sources({"postgres": PostgresSource(database=self.database)}, clock=SystemClock()),
            services=NoServices(),
            outlet=Outlet(
                run=context,
                destinations=Destinations([self.destination or s3]),
                on_upload=self.on_upload,
                mask=Mask(),
                max_row_bytes=self.max_row_bytes,
            ),
            last_success=AsyncMock(return_value=None),
            on_progress=lambda counts, *, stage, bytes_written: self.progress.append(counts),
        )
        config = AgencyJobConfig.model_validate({"datasets": [_dataset(**each) for each in datasets]})
        return await processor.process_agency(7, config)

    def names(self) -> list[str]:
        """The calls that tell the story, in order."""
        told = (
            "acquired",
            "begin",
            "postgres.fetchrow",
            "savepoint",
            "bound",
            "roll_back",
            "end",
            "released",
            "on_upload",
        )
        return [each[0] for each in self.calls.mock_calls if each[0] in told or each[0].startswith("s3.")]


def _dataset(name: str = "records", **options: Any) -> dict[str, Any]:
    source = {"postgres": {"query": f"SELECT * FROM {name} WHERE agency_id = $1", "args": ["agency_id"]}}
    return {"name": name, "source": source, **options}


async def _uploaded(
    *, bucket: str, key: str, upload_id: str, number: int, body: bytes, crc32: str, sha256: str | None
) -> UploadedPart:
    return UploadedPart(number=number, etag=f"etag-{number}", crc32=crc32)


def artifact_of(export: Export, index: int = 0) -> Artifact:
    """The only one of a dataset."""
    (artifact,) = export.datasets[index].artifacts
    return artifact


def content(export: Export, index: int = 0) -> bytes:
    staged = artifact_of(export, index).staged
    assert isinstance(staged, InlineContent)
    return b64decode(staged.content)


@pytest.fixture
def world() -> World:
    return World(tables={"SELECT * FROM records WHERE agency_id = $1": Table([(1, "a"), (2, None), (3, "c")])})


@pytest.fixture
def large(world: World) -> World:
    """Some 14 MiB: two parts and a rest."""
    _of(world).rows = [(number, "x" * MIB) for number in range(14)]
    return world


def _of(world: World, name: str = "records") -> Table:
    return world.tables.setdefault(f"SELECT * FROM {name} WHERE agency_id = $1", Table([]))


# -- the story -----------------------------------------------------------------------------------


async def test_a_small_artifact_makes_no_call_to_s3(world: World):
    """It travels in the plan, and nothing is left behind if the run ends here."""
    export = await world.run({})

    assert world.names() == [
        *("acquired", "begin", "postgres.fetchrow"),
        *("savepoint", "bound"),
        *("end", "released"),
    ]
    assert content(export) == b'{"id":1,"name":"a"}\n{"id":2,"name":null}\n{"id":3,"name":"c"}\n'
    assert world.s3.mock_calls == []


async def test_one_read_only_snapshot_for_all_datasets(world: World):
    """One session, one transaction, which sees one moment, with the agency bound to $1 of every query."""
    _of(world, "second").rows = [(9, "z")]
    export = await world.run({}, {"name": "second"})

    assert world.calls.begin.mock_calls == [call("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;")]
    assert world.names().count("acquired") == 1
    assert world.calls.bound.mock_calls == [
        call("SELECT * FROM records WHERE agency_id = $1", 7),
        call("SELECT * FROM second WHERE agency_id = $1", 7),
    ]
    assert export.snapshot_at == NOW
    assert [content(export, index) for index in (0, 1)] == [ANY, b'{"id":9,"name":"z"}\n']


async def test_nothing_goes_into_the_text_of_a_query(world: World):
    """Postgres gets the config's own text, and the request's values beside it."""
    query = "SELECT * FROM records WHERE agency_id = $1"
    await world.run({}, request=JobRequest(agency_id=7, params={"x": "'; DROP TABLE records; --"}))

    for prepared in world.connection.prepare.mock_calls:
        assert prepared.args == (query,)
    assert all("DROP" not in str(executed) for executed in world.connection.execute.mock_calls)


async def test_a_large_artifact_is_uploaded_in_parts(large: World):
    """The upload is recorded before its first byte is sent, and never completed here: that is a later decision."""
    export = await large.run({})

    names = [name for name in large.names() if name.startswith(("s3", "on_upload"))]
    assert names[:2] == ["s3.create_multipart_upload", "on_upload"]
    assert names[2:] == ["s3.upload_part"] * 3
    large.on_upload.assert_awaited_once_with(
        UploadRef(key=f"{KEY}.ndjson", upload_id="upload-1", destination="s3://exports/agencies")
    )
    large.s3.create_multipart_upload.assert_awaited_once_with(
        bucket="exports",
        key=f"agencies/{KEY}.ndjson",
        content_type="application/x-ndjson",
        metadata=METADATA,
        options=AS_THE_BUCKET_HAS_IT,
    )

    parts = sorted((each.kwargs for each in large.s3.upload_part.mock_calls), key=lambda part: part["number"])
    body = b"".join(bytes(part["body"]) for part in parts)
    assert [part["number"] for part in parts] == [1, 2, 3]
    assert [len(part["body"]) for part in parts[:2]] == [5 * MIB, 5 * MIB]
    assert {(part["bucket"], part["key"], part["upload_id"]) for part in parts} == {
        ("exports", f"agencies/{KEY}.ndjson", "upload-1")
    }
    artifact = artifact_of(export)
    assert artifact.staged == MultipartUpload(
        upload_id="upload-1",
        parts=tuple(UploadedPart(number=n, etag=f"etag-{n}", crc32=parts[n - 1]["crc32"]) for n in (1, 2, 3)),
    )
    assert (artifact.size, artifact.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert body.count(b"\n") == 14
    assert large.budget.reserved == 0


@pytest.mark.parametrize(
    ("form", "compression", "suffix", "content_type"),
    [
        ("csv", "none", "csv", "text/csv; charset=utf-8"),
        ("ndjson", "none", "ndjson", "application/x-ndjson"),
        ("csv", "gzip", "csv.gz", "application/gzip"),
        ("ndjson", "zstd", "ndjson.zst", "application/zstd"),
    ],
)
async def test_names_and_types_of_objects(world: World, form: str, compression: str, suffix: str, content_type: str):
    """Readers know format and compression by the key; both stand in the artifact."""
    _of(world).rows = [(n, hashlib.shake_128(bytes([n])).hexdigest(500_000)) for n in range(4)]
    export = await world.run({"format": form, "compression": compression})

    artifact = artifact_of(export)
    assert artifact.key == f"{KEY}.{suffix}"
    assert (artifact.format, artifact.compression, artifact.rows) == (form, compression, 4)
    assert world.s3.create_multipart_upload.await_args.kwargs["content_type"] == content_type


async def test_steps_are_applied_and_counted(world: World):
    """Read at the source, filtered in the steps, written in the format."""
    export = await world.run(
        {"steps": [{"filter": "name IS NOT NULL"}, {"rename": {"name": "label"}}, {"add": {"by": "{run_id}"}}]}
    )

    assert content(export) == b'{"id":1,"label":"a","by":"run-1"}\n{"id":3,"label":"c","by":"run-1"}\n'
    assert export.datasets[0].counts == DatasetCounts(
        name="records", rows_read=3, rows_written=2, rows_filtered=1, rows_rejected=0
    )
    assert artifact_of(export).rows == 2


async def test_progress_after_every_batch(large: World):
    """Counts only rise, and end at the totals."""
    await large.run({"steps": [{"filter": "id < 10"}]})

    assert len(large.progress) > 3
    assert [each.rows_read for each in large.progress] == sorted({each.rows_read for each in large.progress})
    assert (large.progress[-1].rows_read, large.progress[-1].rows_filtered) == (14, 4)


@pytest.mark.parametrize(("form", "expected"), [("ndjson", b""), ("csv", b"id,name\n")])
@pytest.mark.parametrize("steps", [[], [{"filter": "id > 100"}], [{"python": f"{HOOKS}:drop_odd"}]])
async def test_no_rows(world: World, form: str, expected: bytes, steps: list[dict[str, str]]):
    """An artifact all the same: of CSV the header."""
    _of(world).rows = [(1, "a"), (3, "b")] if steps else []
    export = await world.run({"format": form, "steps": steps})

    assert content(export) == expected
    assert artifact_of(export).rows == 0
    assert artifact_of(export).sha256 == hashlib.sha256(expected).hexdigest()


async def test_a_dry_run_writes_nowhere(large: World):
    """With the null destination everything is read and transformed, and no upload starts."""
    large.destination = NullDestination()
    export = await large.run({})

    assert export.datasets[0].counts.rows_written == 14
    assert artifact_of(export).size > 14 * MIB
    assert large.s3.mock_calls == large.on_upload.mock_calls == []


# -- failures ------------------------------------------------------------------------------------


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage with a bug: the last row of each batch is gone, and no step says so."""

    through = Chain.__call__

    async def losing(self: Chain, batch: Batch) -> Batch:
        left = await through(self, batch)
        return left.changed(left.rows[:-1])

    monkeypatch.setattr(Chain, "__call__", losing)


async def test_rows_that_get_lost_between_two_stages(large: World, losing: None):
    """Each stage counts for itself, so silence is noticed, and nothing is left to be published."""
    with pytest.raises(RowsUnaccounted, match=r"14 rows read, but \d+ written, 0 filtered"):
        await large.run({"steps": [{"python": f"{HOOKS}:watch"}]})

    _nothing_is_left(large)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"steps": [{"python": f"{HOOKS}:add_rows"}]}, StepAddedRows),
        ({"steps": [{"python": f"{HOOKS}:fail"}]}, StepFailed),
        ({"expect": {"min_rows": 15}}, ExpectationFailed),
        ({"expect": {"max_rows": 13}}, ExpectationFailed),
        ({"expect": {"min_rows": 14}, "steps": [{"filter": "id > 0"}]}, ExpectationFailed),
    ],
)
async def test_a_run_that_fails_leaves_nothing(large: World, options: dict[str, Any], error: type[Exception]):
    """Whatever the reason, the upload is aborted and the memory given back."""
    with pytest.raises(error):
        await large.run(options)

    _nothing_is_left(large)


async def test_a_query_that_fails_half_way(large: World):
    """Parts were sent already: the upload is aborted after them, within the transaction's block."""
    _of(large).fails_at = 12

    async def sent(**part: Any) -> UploadedPart:
        _of(large).may_fail.set()
        return await _uploaded(**part)

    large.s3.upload_part.side_effect = sent

    with pytest.raises(asyncpg.DivisionByZeroError):  # the database client, which translates it, is a mock
        await large.run({})

    assert "s3.upload_part" in large.names()
    large.s3.abort_multipart_upload.assert_awaited_once_with(
        bucket="exports", key=f"agencies/{KEY}.ndjson", upload_id="upload-1"
    )
    assert large.names().index("s3.abort_multipart_upload") < large.names().index("end")
    _nothing_is_left(large)


async def test_a_second_dataset_that_fails(large: World):
    """The first one's artifact is sealed by then. It stays an invisible upload, which the run's owner cleans up."""
    _of(large, "second").rows = [(1, "a")]

    with pytest.raises(ExpectationFailed):
        await large.run({}, {"name": "second", "expect": {"min_rows": 2}})

    assert large.s3.complete_multipart_upload_if_absent.mock_calls == []
    assert large.s3.put_object_if_absent.mock_calls == []
    large.on_upload.assert_awaited_once()
    assert large.budget.reserved == 0


async def test_a_part_that_cannot_be_sent(large: World):
    """The destination's error ends the run as it is, and may be tried again."""
    large.s3.upload_part.side_effect = DestinationUnavailable("no route")

    with pytest.raises(DestinationUnavailable, match="no route"):
        await large.run({})

    _nothing_is_left(large)


async def test_an_upload_that_cannot_be_recorded(large: World):
    """No byte is sent before the record is there."""
    large.on_upload.side_effect = RuntimeError("the history is away")

    with pytest.raises(RuntimeError, match="the history is away"):
        await large.run({})

    assert large.s3.upload_part.mock_calls == []
    _nothing_is_left(large)


@pytest.mark.parametrize(
    ("steps", "error"),
    [([{"select": ["nmae"]}], UnknownColumn), ([{"filter": "no_such_function(name) = 'a'"}], InvalidStep)],
)
async def test_faults_of_the_config_before_anything_is_written(
    large: World, steps: list[dict[str, Any]], error: type[Exception]
):
    """They are found when the steps are bound."""
    with pytest.raises(error):
        await large.run({"steps": steps})

    assert large.s3.mock_calls == large.progress == []


async def test_a_query_that_takes_other_parameters(world: World):
    """Found before any query runs."""
    _of(world).parameters = (INT8, INT8)

    with pytest.raises(QueryInvalid, match="2 parameters"):
        await world.run({})

    assert world.calls.bound.mock_calls == []


@pytest.mark.parametrize(
    ("form", "name"), [("ndjson", "x" * 1000), ("csv", "x" * 1000), ("csv", "\n" * 1000), ("csv", '"\n' * 500)]
)
async def test_a_row_that_is_too_large(world: World, form: str, name: str):
    """One row that can't fit fails the run, also where its text has lines of its own; many small ones don't."""
    world.max_row_bytes = 900
    _of(world).rows = [(number, "y" * 100) for number in range(100)]
    await world.run({"format": form})

    _of(world).rows = [*_of(world).rows, (100, name)]
    with pytest.raises(RowTooLarge, match=r"1,\d\d\d bytes.*900.*PIPELINE_WORKER__MEMORY_BUDGET_MIB"):
        await world.run({"format": form})


def _nothing_is_left(world: World) -> None:
    """Every upload that was created is aborted, none completed, nothing put, no memory reserved."""
    created = [f"upload-{n + 1}" for n in range(world.s3.create_multipart_upload.await_count)]
    aborted = [each.kwargs["upload_id"] for each in world.s3.abort_multipart_upload.mock_calls]
    assert aborted == created
    assert world.s3.complete_multipart_upload_if_absent.mock_calls == []
    assert world.s3.put_object_if_absent.mock_calls == []
    assert world.budget.reserved == 0
    assert world.names()[-1] in ("released", "end")
