"""A dataset's way out: into how many artifacts, with which bytes, at which destinations."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import read_table

from pipeline_processing.agency_data_job import outlet as outlet_module
from pipeline_processing.agency_data_job import output as output_module
from pipeline_processing.agency_data_job.config import AgencyJobConfig, DatasetConfig
from pipeline_processing.agency_data_job.context import RunContext
from pipeline_processing.agency_data_job.outlet import Outlet
from pipeline_processing.agency_data_job.output import DatasetOutput
from pipeline_processing.agency_data_job.tally import Tally
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import ArtifactTooLarge, DestinationUnavailable, RowTooLarge
from pipeline_processing.formats.formats import new_format
from pipeline_processing.model import Compression, JobRequest
from pipeline_processing.plan import Artifact, InlineContent, MultipartUpload, StagedTable, UploadRef
from pipeline_processing.ports import Content, Sealed, Upload, UploadStarted
from pipeline_processing.steps.step import Batch
from pipeline_processing.telemetry.masking import Mask
from tests.memory.destination import MemoryDestination
from tests.unit.in_memory import Between, InterposedDestination, job, refused
from tests.unit.memory_tables import MemoryTables

MIB = 1024 * 1024
PREFIX = "agency_id=7/run_id=r"
TAKEN_AT = datetime(2026, 1, 18, 10, tzinfo=UTC)
METADATA = {"run-id": "r", "agency-id": "7", "attempt": "1", "trace-id": "ab" * 16}
COLUMNS = ("id", "name")
DOWN = DestinationUnavailable("the destination is down")
Batches = Sequence[list[dict[str, Any]]]


class Listening(MemoryDestination):
    """Remembers what it was told of each upload, and keeps small ones out of a plan that has no room."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.contents: list[Content] = []

    def open(
        self, key: str, content: Content, *, metadata: Mapping[str, str], on_started: UploadStarted
    ) -> AbstractAsyncContextManager[Upload]:
        self.contents.append(content)
        return super().open(key, content, metadata=metadata, on_started=on_started)


class Place:
    """Destinations, and what one attempt's datasets leave there."""

    def __init__(self, *destinations: Any, max_row_bytes: int = 64 * MIB) -> None:
        self.destinations = destinations or (MemoryDestination(url="memory://first", inline_limit=0),)
        self.started: list[UploadRef] = []
        self.outlet = Outlet(
            run=RunContext(run_id="r", attempt=1, trace_id="ab" * 16, request=JobRequest(agency_id=7)),
            destinations=Destinations(self.destinations),
            on_upload=self._started,
            mask=Mask(),
            max_row_bytes=max_row_bytes,
        )

    async def _started(self, upload: UploadRef) -> None:
        self.started.append(upload)

    @asynccontextmanager
    async def output(self, config: DatasetConfig, *, columns: tuple[str, ...] | None = COLUMNS) -> AsyncIterator[Any]:
        rows_format = new_format(config.format, header=columns or (), fixed=columns is not None, csv=config.csv)
        async with DatasetOutput(
            config, self.outlet, rows_format, columns=columns, snapshot_at=TAKEN_AT, tally=Tally(config.name)
        ) as output:
            yield output

    async def write(self, batches: Batches, *, columns: tuple[str, ...] | None = COLUMNS, **options: Any) -> list[Any]:
        """All of a dataset with these options; its artifacts."""
        async with self.output(dataset(**options), columns=columns) as output:
            for batch in batches:
                await output.write(Batch.read(batch, first=1))
            artifacts = list(await output.seal())
        written = {(artifact.key, artifact.sha256): artifact.size for artifact in artifacts if not in_table(artifact)}
        assert output.bytes_written == sum(written.values())
        return artifacts

    async def body(self, artifact: Artifact) -> bytes:
        """What a reader will see of it."""
        await self.outlet.destinations.complete(artifact, metadata=METADATA)
        (destination,) = (each for each in self.destinations if each.url == artifact.destination)
        body, metadata = destination.objects[artifact.key]
        assert metadata == METADATA
        assert (len(body), hashlib.sha256(body).hexdigest()) == (artifact.size, artifact.sha256)
        return bytes(body)

    @property
    def open_uploads(self) -> list[UploadRef]:
        """At all destinations."""
        return [upload for each in self.destinations for upload in each.open_uploads]


def dataset(**options: Any) -> DatasetConfig:
    config: AgencyJobConfig = job("records", **options)
    return config.datasets[0]


def in_table(artifact: Artifact) -> bool:
    return isinstance(artifact.staged, StagedTable)


def rows(count: int, *, first: int = 0, width: int = 1) -> list[dict[str, Any]]:
    return [{"id": number, "name": "x" * width} for number in range(first, first + count)]


def batches_of(sizes: Sequence[int]) -> list[list[dict[str, Any]]]:
    """Batches of so many rows, numbered through."""
    return [rows(size, first=sum(sizes[:place])) for place, size in enumerate(sizes)]


def unreadable(size: int, *, seed: int) -> list[dict[str, Any]]:
    """A batch of about so many bytes that hardly get fewer by compression."""
    return [{"id": 1, "name": random.Random(seed).randbytes(size // 2).hex()}]


def decompressed(body: bytes, compression: str) -> bytes:
    match compression:
        case "gzip":
            return gzip.decompress(body)
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return body


# -- one artifact --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "compression", "suffix"),
    [
        ("ndjson", "none", "ndjson"),
        ("ndjson", "gzip", "ndjson.gz"),
        ("ndjson", "zstd", "ndjson.zst"),
        ("csv", "none", "csv"),
        ("csv", "gzip", "csv.gz"),
        ("csv", "zstd", "csv.zst"),
    ],
)
async def test_one_artifact(form: str, compression: str, suffix: str):
    """All batches, one after the other, under the key of the first part."""
    place = Place()
    (artifact,) = await place.write(batches_of([2, 1, 3]), format=form, compression=compression)

    assert artifact.key == f"{PREFIX}/records/part-00000.{suffix}"
    assert (artifact.dataset, artifact.format, artifact.compression) == ("records", form, compression)
    assert (artifact.rows, artifact.rejected, artifact.destination) == (6, False, "memory://first")
    text = decompressed(await place.body(artifact), compression).decode()
    if form == "csv":
        assert text == "id,name\n" + "".join(f"{number},x\n" for number in range(6))
    else:
        assert [json.loads(line) for line in text.splitlines()] == rows(6)


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "ndjson"}, b""),
        ({"format": "csv"}, b"id,name\n"),
        ({"format": "csv", "csv": {"header": False}}, b""),
        ({"format": "csv", "csv": {"delimiter": ";"}}, b"id;name\n"),
        ({"format": "csv", "max_artifact_rows": 1, "max_artifact_mib": 1}, b"id,name\n"),
    ],
)
@pytest.mark.parametrize("batches", [[], [[]], [[], []]])
async def test_no_rows(batches: Batches, options: dict[str, Any], expected: bytes, compression: Compression):
    """One artifact of no rows, of CSV with its header, at objects and tables alike."""
    tables = MemoryTables()
    place = Place(MemoryDestination(url="memory://first"), tables)
    artifact, table = await place.write(batches, compression=compression, **options)

    assert (artifact.rows, table.rows) == (0, 0)
    assert decompressed(await place.body(artifact), compression) == expected
    assert await place.body(table) == expected


async def test_where_only_rows_tell_the_columns():
    """Those of the first row encoded are the header, of each artifact."""
    place = Place()
    artifacts = await place.write(batches_of([1, 2]), columns=None, format="csv", max_artifact_rows=2)

    assert [await place.body(artifact) for artifact in artifacts] == [b"id,name\n0,x\n1,x\n", b"id,name\n2,x\n"]


# -- by rows -------------------------------------------------------------------------------------


SIZES = st.lists(st.integers(0, 12), max_size=8)


@given(sizes=SIZES, limit=st.integers(1, 10), form=st.sampled_from(["ndjson", "csv"]))
async def test_rotation_by_rows(sizes: list[int], limit: int, form: str):
    """Every artifact but the last has exactly as many rows as it may; together they have all rows, in order."""
    place = Place()
    artifacts = await place.write(batches_of(sizes), format=form, max_artifact_rows=limit)

    full, rest = divmod(sum(sizes), limit)
    assert [artifact.rows for artifact in artifacts] == [limit] * full + [rest] * (rest > 0 or full == 0)
    assert [artifact.key for artifact in artifacts] == [
        f"{PREFIX}/records/part-{number:05}.{form}" for number in range(len(artifacts))
    ]
    parts = [(await place.body(artifact)).decode().splitlines() for artifact in artifacts]
    if form == "csv":
        assert {part.pop(0) for part in parts} == {"id,name"}
    assert list(map(len, parts)) == [artifact.rows for artifact in artifacts]
    pattern = "{},x" if form == "csv" else '{{"id":{},"name":"x"}}'
    assert [line for part in parts for line in part] == [pattern.format(number) for number in range(sum(sizes))]


# -- by size -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("form", ["ndjson", "csv"])
@pytest.mark.parametrize("seed", range(3))
async def test_rotation_by_size(seed: int, form: str, compression: Compression):
    """No artifact grows past the limit as long as each batch fits in, whatever a compressor keeps to itself."""
    choose = random.Random(seed)
    batches = [unreadable(choose.randrange(1_000, MIB - 1_000), seed=seed + n) for n in range(12)]
    place = Place()
    artifacts = await place.write(batches, format=form, compression=compression, max_artifact_mib=1)

    assert max(artifact.size for artifact in artifacts) <= MIB
    assert 3 < len(artifacts) <= 12
    assert sum(artifact.rows for artifact in artifacts) == 12
    assert all(artifact.rows > 0 for artifact in artifacts)
    bodies = [decompressed(await place.body(artifact), compression) for artifact in artifacts]
    names = [name for body in bodies for name in _names(body, form)]
    assert names == [batch[0]["name"] for batch in batches]


def _names(body: bytes, form: str) -> list[str]:
    lines = body.decode().splitlines()
    return [line.split(",")[1] for line in lines[1:]] if form == "csv" else [json.loads(line)["name"] for line in lines]


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("limits", [{"max_artifact_mib": 1}, {"max_artifact_rows": 5}])
async def test_parquet_rotates_too(limits: dict[str, int], compression: Compression):
    """Rows that aren't written yet count. Its own pages are compressed, not the file, as name and entry say."""
    batches = [unreadable(300_000, seed=number) for number in range(12)]
    place = Place(max_row_bytes=1_300_000)
    artifacts = await place.write(batches, format="parquet", compression=compression, **limits)

    of_artifacts = [artifact.rows for artifact in artifacts]
    if "max_artifact_rows" in limits:
        assert of_artifacts == [5, 5, 2]
    else:
        assert max(artifact.size for artifact in artifacts) <= MIB
        assert 3 <= len(artifacts) <= 4
    assert artifacts[1].key == f"{PREFIX}/records/part-00001.parquet"
    assert artifacts[1].compression is Compression.NONE
    tables = [read_table(BytesIO(await place.body(artifact))) for artifact in artifacts]
    assert [len(table) for table in tables] == of_artifacts
    names = [name for table in tables for name in table.column("name").to_pylist()]
    assert names == [batch[0]["name"] for batch in batches]


async def test_a_batch_that_is_larger_than_the_limit_stays_together():
    """It is an artifact of its own, the only kind that is larger."""
    place = Place()
    artifacts = await place.write(
        [rows(1), unreadable(3 * MIB, seed=1), unreadable(3 * MIB, seed=2), rows(1), rows(1)], max_artifact_mib=1
    )

    assert [artifact.rows for artifact in artifacts] == [1, 1, 1, 2]
    assert [artifact.size > MIB for artifact in artifacts] == [False, True, True, False]


async def test_both_limits():
    """Whichever is reached first."""
    batches = [rows(3), rows(3), unreadable(900_000, seed=1), unreadable(900_000, seed=2), rows(1)]
    artifacts = await Place().write(batches, max_artifact_rows=4, max_artifact_mib=1)

    assert [artifact.rows for artifact in artifacts] == [4, 3, 2]


async def test_more_artifacts_than_a_plan_can_hold(monkeypatch: pytest.MonkeyPatch):
    """The limit itself is fine; one more fails, and nothing is left."""
    monkeypatch.setattr(output_module, "MAX_ARTIFACTS", 3)
    assert len(await Place().write(batches_of([6]), max_artifact_rows=2)) == 3

    place = Place()
    with pytest.raises(ArtifactTooLarge, match=r"'records' would become more than 3 artifacts.*max_artifact_rows"):
        await place.write(batches_of([7]), max_artifact_rows=2)
    assert place.open_uploads == []


# -- several destinations ------------------------------------------------------------------------


@pytest.mark.parametrize("compression", list(Compression))
async def test_all_destinations_get_the_same_bytes(compression: Compression):
    """Each artifact once at each, encoded and compressed once; counted once."""
    first, second = MemoryDestination(url="memory://first"), MemoryDestination(url="memory://second", inline_limit=0)
    place = Place(first, second)
    artifacts = await place.write(batches_of([3, 3]), format="csv", compression=compression, max_artifact_rows=4)

    assert [artifact.destination for artifact in artifacts] == [first.url, second.url] * 2
    for one, other in zip(artifacts[::2], artifacts[1::2], strict=True):
        assert isinstance(one.staged, InlineContent)
        assert isinstance(other.staged, MultipartUpload)
        assert (one.key, one.rows, one.size, one.sha256) == (other.key, other.rows, other.size, other.sha256)
        assert await place.body(one) == await place.body(other)


async def test_an_upload_is_recorded_with_its_destination():
    """So that it can be found again, whoever cleans up."""
    tables = MemoryTables()
    place = Place(
        MemoryDestination(url="memory://first", inline_limit=0),
        tables,
        MemoryDestination(url="memory://second", inline_limit=0),
    )
    await place.write(batches_of([2]), max_artifact_rows=1)

    part = f"{PREFIX}/records/part-0000{{}}.ndjson"
    assert sorted((upload.destination, upload.key) for upload in place.started) == [
        *[("memory://first", part.format(number)) for number in (0, 1)],
        *[("memory://second", part.format(number)) for number in (0, 1)],
        ("memory://tables", f"{PREFIX}/records"),
    ]


@pytest.mark.parametrize("batches", [[], batches_of([2, 1])])
async def test_tables_only(batches: Batches):
    """There is one artifact, whose bytes count."""
    place = Place(MemoryTables())
    async with place.output(dataset(format="csv", compression="gzip", max_artifact_rows=1)) as output:
        for batch in batches:
            await output.write(Batch.read(batch, first=1))
        (artifact,) = await output.seal()

    body = await place.body(artifact)
    assert body == b"id,name\n" + b"".join(b"%d,x\n" % row["id"] for batch in batches for row in batch)
    assert output.bytes_written == len(body)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "csv"}, b"id,name\n0,x\n1,x\n2,x\n3,x\n"),
        ({"format": "csv", "csv": {"header": False}}, b"0,x\n1,x\n2,x\n3,x\n"),
        ({"format": "ndjson"}, b"".join(b'{"id":%d,"name":"x"}\n' % number for number in range(4))),
    ],
)
@pytest.mark.parametrize("columns", [COLUMNS, None])
async def test_a_table_gets_the_whole_dataset(
    columns: tuple[str, ...] | None, options: dict[str, Any], expected: bytes
):
    """As one stream with one header, however many artifacts there are elsewhere, and never compressed."""
    tables = MemoryTables()
    place = Place(tables, MemoryDestination(url="memory://first"))
    artifacts = await place.write(
        batches_of([1, 3]), columns=columns, compression="gzip", max_artifact_rows=2, **options
    )

    assert [in_table(artifact) for artifact in artifacts] == [False, False, True]
    table = artifacts[-1]
    assert (table.key, table.rows, table.compression) == (f"{PREFIX}/records", 4, Compression.NONE)
    assert await place.body(table) == expected
    (content,) = tables.contents
    assert (content.dataset, content.format, content.columns) == ("records", options["format"], columns)
    assert content.compression is Compression.NONE


async def test_destinations_are_told_what_an_artifact_holds():
    """Its columns and how it is written."""
    listening = Listening(url="memory://first")
    await Place(listening).write(batches_of([2]), format="csv", compression="zstd", csv={"null": "NULL"})

    (content,) = listening.contents
    assert (content.dataset, content.format, content.compression) == ("records", "csv", "zstd")
    assert (content.columns, content.csv.null, content.inline) == (COLUMNS, "NULL", True)


# -- the plan's room -----------------------------------------------------------------------------


async def test_a_plan_has_room_for_a_few_small_artifacts(monkeypatch: pytest.MonkeyPatch):
    """After them even small ones become uploads; the room is that of all datasets of a run together."""
    monkeypatch.setattr(outlet_module, "_MAX_INLINE", 105)
    listening = Listening(url="memory://first")
    place = Place(listening)
    await place.write([rows(1, width=15)] * 2, max_artifact_rows=1)  # 34 bytes each
    await place.write([rows(1, width=15)] * 3, max_artifact_rows=1)

    assert [content.inline for content in listening.contents] == [True, True, True, True, False]


def test_room_is_taken_by_what_stands_in_the_plan():
    """Uploads and staged tables need none."""
    outlet, destination = Place().outlet, MemoryDestination()
    content = Content(dataset="records")

    for staged in (MultipartUpload(upload_id="u", parts=()), StagedTable(table="t")):
        outlet.artifact(destination, "k", content, Sealed(5 * MIB, "0" * 64, staged), rows=0)
    assert outlet.has_inline_room
    outlet.artifact(destination, "k", content, Sealed(5 * MIB, "0" * 64, InlineContent(content="")), rows=0)
    assert not outlet.has_inline_room


# -- failures ------------------------------------------------------------------------------------


def interposed() -> tuple[Place, Between, MemoryDestination, MemoryTables]:
    """Two destinations with objects and one with tables, of which the second one's calls can go wrong."""
    between, second, tables = Between(), MemoryDestination(url="memory://second", inline_limit=0), MemoryTables()
    return (
        Place(MemoryDestination(url="memory://first", inline_limit=0), InterposedDestination(second, between), tables),
        between,
        second,
        tables,
    )


@pytest.mark.parametrize(("method", "before"), [("write", 0), ("write", 2), ("seal", 0), ("seal", 1), ("seal", 2)])
async def test_a_failure_in_a_later_part_aborts_all(method: str, before: int):
    """Also those that were sealed before it, at every destination."""
    place, between, _, _ = interposed()
    between.on_next(method, *[None] * before, refused(DOWN))

    with pytest.raises(DestinationUnavailable):
        await place.write(batches_of([2, 2, 2]), max_artifact_rows=2)

    assert len(place.started) >= 1
    assert place.open_uploads == []


@pytest.mark.parametrize("failing", ["first", "tables"])
async def test_a_destination_that_cannot_be_opened(failing: str):
    """What was opened before it is closed again."""
    place, _, _, tables = interposed()
    broken = tables if failing == "tables" else place.destinations[0]

    def refuse(*args: Any, **names: Any) -> Any:
        raise DOWN

    broken.open = refuse
    with pytest.raises(DestinationUnavailable):
        await place.write([rows(1)])

    assert place.open_uploads == []


async def test_a_failure_elsewhere_aborts_all():
    """In the source or a step, say, in the middle of a part."""
    place, _, _, _ = interposed()

    async def fail_half_way() -> None:
        async with place.output(dataset(max_artifact_rows=2)) as output:
            await output.write(Batch.read(rows(3), first=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_half_way()

    assert len(place.started) == 5
    assert place.open_uploads == []


async def test_what_is_never_sealed_is_aborted():
    """Artifacts that were sealed on the way are part of a whole that isn't."""
    place, _, _, _ = interposed()
    async with place.output(dataset(max_artifact_rows=2)) as output:
        await output.write(Batch.read(rows(3), first=1))

    assert len(place.started) == 5
    assert place.open_uploads == []


async def test_what_is_sealed_stays():
    """Until a plan completes it, or somebody cleans up."""
    place, _, _, _ = interposed()
    artifacts = await place.write(batches_of([3]), max_artifact_rows=2)

    assert len(place.open_uploads) == len(artifacts) == 5


async def test_a_row_that_is_too_large():
    """The longest one of a batch is told; many that are smaller are fine together."""
    place = Place(max_row_bytes=200)
    await place.write([rows(50, width=100)])

    with pytest.raises(RowTooLarge, match=r"'records' takes \d\d\d bytes, more than the 200"):
        await place.write([rows(1), [*rows(1, width=100), *rows(1, width=300)]])
    assert len(place.open_uploads) == 1


async def test_a_row_of_parquet_must_be_smaller():
    """Because pyarrow copies its values several times."""
    with pytest.raises(RowTooLarge, match=r"more than the 200"):
        await Place(max_row_bytes=800).write([rows(1, width=300)], format="parquet")
