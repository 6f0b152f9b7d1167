"""One dataset's rows on their way out: encoded once, compressed once, and written to every destination."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from pipeline_processing.agency_data_job.config import DatasetConfig
from pipeline_processing.agency_data_job.stages import Stages
from pipeline_processing.destinations.several import Destinations
from pipeline_processing.errors import ArtifactTooLarge, RowTooLarge
from pipeline_processing.formats.compression import Compressor, compressor
from pipeline_processing.model import Artifact, Compression, InlineContent, UploadRef
from pipeline_processing.ports import Content, Destination, Format, Sealed, Upload, UploadStarted

MAX_ARTIFACTS = 10_000
"""Of one dataset: all of them stand in the plan and the manifest, which are held in memory."""
_MIB = 1024 * 1024
_MAX_INLINE = 4 * _MIB
_HELD_BY_COMPRESSOR = _MIB // 4
"""More than either compressor keeps to itself until more comes."""


class PlanRoom:
    """How many bytes of small artifacts may still stand in a run's plan itself; after that they become uploads."""

    def __init__(self) -> None:
        self._used = 0

    @property
    def left(self) -> bool:
        """Whether there is room for one more."""
        return self._used < _MAX_INLINE

    def take(self, artifact: Artifact) -> None:
        """Count an artifact if it stands in the plan."""
        if isinstance(artifact.staged, InlineContent):
            self._used += artifact.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """Where one attempt's artifacts go, and what each of them carries."""

    destinations: Destinations
    prefix: str
    """Of the run, below each destination."""
    metadata: Mapping[str, str]
    on_upload: UploadStarted
    """Awaited before an upload's first byte is sent; the upload names its destination."""
    max_row_bytes: int
    """The longest encoded row that fits into the worker's memory."""
    room: PlanRoom = field(default_factory=PlanRoom)

    def open(self, destination: Destination, key: str, content: Content) -> AbstractAsyncContextManager[Upload]:
        """Start one artifact at one destination."""

        async def on_started(upload: UploadRef) -> None:
            await self.on_upload(upload.model_copy(update={"destination": destination.url}))

        return destination.open(key, content, metadata=self.metadata, on_started=on_started)


@dataclass(slots=True)
class _Part:
    """The artifact that is being written, at each destination that holds objects."""

    key: str
    compressed: Compressor
    uploads: Sequence[tuple[Destination, Upload]]
    rows: int = 0
    size: int = 0
    """Bytes handed to the uploads so far."""


class DatasetOutput:
    """
    Writes one dataset. Leaving the block with an exception, or without `seal()`, aborts all of its uploads.

    With `max_artifact_rows` or `max_artifact_mib` a new artifact is begun before one would grow past the limit; a
    single batch of rows larger than that stays together. Tables get the whole dataset as one artifact, not compressed.
    """

    def __init__(
        self,
        dataset: DatasetConfig,
        outlet: Outlet,
        rows_format: Format,
        *,
        columns: tuple[str, ...] | None,
        snapshot_at: datetime,
        stages: Stages,
    ) -> None:
        """`columns`: names of the rows' columns; None where only the rows tell. `snapshot_at`: how old the rows are."""
        self.bytes_written = 0
        """Bytes of all artifacts so far, each counted once however many destinations there are."""
        self._dataset = dataset
        self._outlet = outlet
        self._format = rows_format
        self._columns = columns
        self._snapshot_at = snapshot_at
        self._stages = stages
        self._stack = AsyncExitStack()
        self._tables: Sequence[tuple[Destination, Upload]] = ()
        self._part: _Part | None = None
        self._sealed: list[Artifact] = []
        self._parts = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._stack = stack
            self._tables = await self._opened(
                self._outlet.destinations.tables, self._table_key, self._content(Compression.NONE)
            )
            await self._next_part()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._part is not None:  # `seal()` leaves none
            kind, error = AssertionError, AssertionError("left without seal()")  # for the parts sealed already
        await self._stack.__aexit__(kind, error, trace)

    async def write(self, rows: list[Any]) -> int:
        """One batch, of dicts or of what the format's `row_maker` makes; the bytes that it was encoded in."""
        size = 0
        for piece in self._pieces(rows):
            first = self._format.rows == 0
            with self._stages.timed("format"):
                data = self._encoded(piece)
            size += len(data)
            if self._part is None or self._is_full(self._part, len(piece), len(data)):
                await self._next_part()
            await self._append(data, rows=len(piece))
            with self._stages.timed("upload"):
                for _, upload in self._tables:
                    await upload.write(self._format.head() + data if first else data)
        return size

    async def seal(self) -> list[Artifact]:
        """Store what is left; all artifacts of the dataset."""
        await self._seal_part()
        for destination, upload in self._tables:
            with self._stages.timed("upload"):
                if self._format.rows == 0:
                    await upload.write(self._format.head())
                sealed = await upload.seal()
            self._sealed.append(
                self._artifact(self._table_key, sealed, destination, Compression.NONE, rows=self._format.rows)
            )
        self._part = None
        return self._sealed

    # -- artifacts, one after the other ----------------------------------------------------------

    def _pieces(self, rows: list[Any]) -> Iterator[list[Any]]:
        """The batch, cut where an artifact has all the rows that it may have."""
        limit = self._dataset.max_artifact_rows
        while limit is not None and rows:
            there = self._part.rows if self._part else 0
            room = limit - there or limit
            yield rows[:room]
            rows = rows[room:]
        if rows:
            yield rows

    def _is_full(self, part: _Part, rows: int, size: int) -> bool:
        most_rows, most_mib = self._dataset.max_artifact_rows, self._dataset.max_artifact_mib
        if part.rows == 0:
            return False
        if most_rows is not None and part.rows + rows > most_rows:
            return True
        held = 0 if self._dataset.compression is Compression.NONE else _HELD_BY_COMPRESSOR
        return most_mib is not None and part.size + held + size > most_mib * _MIB

    async def _next_part(self) -> None:
        if self._part is not None:
            await self._seal_part()
        if self._parts == MAX_ARTIFACTS:
            raise ArtifactTooLarge(
                f"Dataset {self._dataset.name!r} would become more than {MAX_ARTIFACTS:,} artifacts. Raise "
                "`max_artifact_rows` or `max_artifact_mib`."
            )
        dataset = self._dataset
        suffix = f"{dataset.format}{dataset.compression.suffix}"
        key = f"{self._outlet.prefix}/{dataset.name}/part-{self._parts:05}.{suffix}"
        uploads = await self._opened(self._outlet.destinations.objects, key, self._content(dataset.compression))
        self._part = _Part(key, compressor(dataset.compression), uploads)
        self._parts += 1

    async def _append(self, data: bytes, *, rows: int) -> None:
        part = self._part
        assert part is not None
        with self._stages.timed("format"):
            if part.rows == 0:
                data = self._format.head() + data
            part.rows += rows
            compressed = part.compressed.compress(data)
        await self._to_uploads(part, compressed)

    async def _to_uploads(self, part: _Part, data: bytes) -> None:
        if not data:
            return
        part.size += len(data)
        self.bytes_written += len(data)
        with self._stages.timed("upload"):
            for _, upload in part.uploads:
                await upload.write(data)

    async def _seal_part(self) -> None:
        part = self._part
        assert part is not None
        if part.rows == 0:
            await self._append(b"", rows=0)
        await self._to_uploads(part, part.compressed.flush())
        for destination, upload in part.uploads:
            with self._stages.timed("upload"):
                sealed = await upload.seal()
            artifact = self._artifact(part.key, sealed, destination, self._dataset.compression, rows=part.rows)
            self._outlet.room.take(artifact)
            self._sealed.append(artifact)

    # -- one artifact ----------------------------------------------------------------------------

    @property
    def _table_key(self) -> str:
        return f"{self._outlet.prefix}/{self._dataset.name}"

    def _content(self, compression: Compression) -> Content:
        return Content(
            dataset=self._dataset.name,
            format=self._dataset.format,
            compression=compression,
            columns=self._columns,
            snapshot_at=self._snapshot_at,
            csv=self._dataset.csv,
            inline=self._outlet.room.left,
        )

    async def _opened(
        self, destinations: Sequence[Destination], key: str, content: Content
    ) -> Sequence[tuple[Destination, Upload]]:
        return [
            (each, await self._stack.enter_async_context(self._outlet.open(each, key, content)))
            for each in destinations
        ]

    def _artifact(
        self, key: str, sealed: Sealed, destination: Destination, compression: Compression, *, rows: int
    ) -> Artifact:
        return Artifact(
            key=key,
            dataset=self._dataset.name,
            format=self._dataset.format,
            compression=compression,
            rows=rows,
            size=sealed.size,
            sha256=sealed.sha256,
            staged=sealed.staged,
            destination=destination.url,
        )

    def _encoded(self, rows: list[Any]) -> bytes:
        data = self._format.encode(rows)
        limit = self._outlet.max_row_bytes
        if len(data) > limit and (longest := self._format.longest_row(data)) > limit:
            raise RowTooLarge(dataset=self._dataset.name, size=longest, limit=limit)
        return data
